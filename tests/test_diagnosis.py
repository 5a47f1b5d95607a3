import io
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image
from pydantic import SecretStr

from lungline.datasets.phantom import jpeg
from lungline.diagnosis.diagnoser import PHANTOM_WARNING, Diagnoser
from lungline.diagnosis.routing import Routing
from lungline.diagnosis.upload import diagnose_upload
from lungline.errors import EventMalformed, LunglineError, ObjectGone, StorageUnavailable
from lungline.events.uploads import Upload
from lungline.imaging import decoding
from lungline.imaging.heatmap import draw
from lungline.imaging.image import DecodedImage, Limits
from lungline.imaging.preparation import Preparation
from lungline.package.card import Thresholds, amend_card
from lungline.package.package import Package
from lungline.results import heatmaps, latest_list, record_store
from lungline.results.listing import SharedListing
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.object_store import running_store
from tests.support.tiny_package import write_tiny_package
from worklist.exports.images import ImageRenderer, lift

SETTINGS = Settings()
UPLOADS, RESULTS = SETTINGS.uploads_bucket, SETTINGS.results_bucket
KEY = "ward 7/Ünïcode + 100%/a=b&c.jpeg"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with running_store(tmp_path_factory.mktemp("store"), UPLOADS, RESULTS) as storage:
        yield storage


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages") / "1"
    write_tiny_package(folder, mlflow_run_id="run")
    return folder


@pytest.fixture(scope="module")
def diagnoser(folder: Path) -> Diagnoser:
    return Diagnoser(Package.load(folder))


@pytest.fixture
def upload(store: Storage, request: pytest.FixtureRequest) -> Upload:
    return put(store, f"{request.node.name}/{KEY}", jpeg(1, opacities=True))


def put(store: Storage, key: str, data: bytes) -> Upload:
    return Upload(UPLOADS, key, etag=store.put(UPLOADS, key, data), sequencer="1", uploaded_at=datetime.now(UTC))


def records(store: Storage, upload: Upload) -> list[ResultRecord]:
    return record_store.find(store, RESULTS, upload.identity)


def test_an_image_is_diagnosed_with_a_heatmap(diagnoser: Diagnoser) -> None:
    diagnosis = diagnoser.diagnose(jpeg(1, opacities=True))
    assert diagnosis.label in {"Normal", "Pneumonia", "Unsure"}
    assert diagnosis.probability is not None
    assert diagnosis.heatmap is not None
    assert diagnosis.heatmap.startswith(b"\x89PNG")
    assert diagnosis.image_facts is not None
    assert diagnosis.image_facts.model_dump() == {"format": "jpeg", "width": 224, "height": 224}
    assert set(diagnosis.timings) == {"decode", "prepare", "predict", "observe", "explain"}
    assert PHANTOM_WARNING in diagnosis.warnings


@pytest.mark.parametrize(
    ("low", "high", "label"), [(0.0, 0.0, "Pneumonia"), (1.0, 1.0, "Normal"), (0.0, 1.0, "Unsure")]
)
def test_the_thresholds_of_the_card_make_the_label(
    folder: Path, tmp_path: Path, low: float, high: float, label: str
) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    amend_card(other, thresholds=Thresholds(low=low, high=high, operating=high, chosen="By hand."))
    assert Diagnoser(Package.load(other)).diagnose(jpeg(1, opacities=True)).label == label


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not an image at all", "not-an-image"),
        (jpeg(1, opacities=False)[:1000], "truncated"),
        (bytes(2**20 + 1), "too-large"),
    ],
)
def test_an_unusable_image_is_refused_with_a_reason(folder: Path, data: bytes, reason: str) -> None:
    diagnosis = Diagnoser(Package.load(folder), Limits(max_bytes=2**20)).diagnose(data)
    assert (diagnosis.label, diagnosis.reason, diagnosis.probability, diagnosis.heatmap) == (
        "Refused",
        reason,
        None,
        None,
    )
    assert diagnosis.message is not None
    assert diagnosis.message.endswith(".")


def test_a_blank_image_is_refused(diagnoser: Diagnoser) -> None:
    blank = io.BytesIO()
    Image.new("L", (100, 100), 7).save(blank, "PNG")
    assert diagnoser.diagnose(blank.getvalue()).reason == "blank"


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (1.0, 1.0)])
def test_an_image_whose_header_names_no_frontal_chest_is_unsure(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low: float, high: float
) -> None:
    """Whatever the network says, the label is Unsure, and the header's reason comes first."""
    other = shutil.copytree(folder, tmp_path / "other")
    amend_card(other, thresholds=Thresholds(low=low, high=high, operating=high, chosen="By hand."))

    def decode(preparation: Preparation, data: bytes, limits: Limits, header: object) -> DecodedImage:
        assert header is None, "a JPEG has no DICOM header"
        return replace(decoding.decode(data, limits), not_frontal="the DICOM names a lateral view")

    monkeypatch.setattr(Preparation, "decode", decode)
    diagnosis = Diagnoser(Package.load(other)).diagnose(jpeg(1, opacities=True))
    assert (diagnosis.label, diagnosis.warnings[0]) == ("Unsure", "the DICOM names a lateral view")
    assert diagnosis.probability is not None


def test_an_upload_is_diagnosed_and_saved(store: Storage, diagnoser: Diagnoser, upload: Upload) -> None:
    received = datetime.now(UTC)
    record = diagnose_upload(upload, diagnoser, store, SETTINGS, received)
    direct = diagnoser.diagnose(jpeg(1, opacities=True))
    assert (record.outcome, record.label, record.probability) == ("judged", direct.label, direct.probability)
    assert record.upload.key == upload.key
    assert record.read is not None
    assert record.read.etag == upload.etag
    assert (record.model.version, record.model.run_id, record.model.synthetic) == ("1", "run", True)
    assert record.model.sha256 == diagnoser.package.sha256
    assert upload.uploaded_at == record.times.uploaded
    assert received == record.times.received <= record.times.done
    assert record.evidence == direct.evidence
    assert record_store.load(store, RESULTS, record.key) == record
    assert set(record.timings) == {"fetch", "decode", "prepare", "predict", "observe", "explain"}


def test_an_upload_that_fits_no_task_is_kept_and_says_so(store: Storage, diagnoser: Diagnoser, upload: Upload) -> None:
    nobody = Routing((diagnoser,), task="fracture")
    record = diagnose_upload(upload, diagnoser, store, SETTINGS, routing=nobody)
    assert (record.outcome, record.label, record.reason) == ("refused", "Refused", "no-task")
    assert record.is_set_aside
    assert record.message == "The image is kept, and fits no task that is served here."
    assert store.exists(UPLOADS, upload.key)


def test_a_duplicate_gets_the_stored_record(store: Storage, diagnoser: Diagnoser, upload: Upload) -> None:
    first = diagnose_upload(upload, diagnoser, store, SETTINGS)
    later = diagnose_upload(replace(upload, sequencer="2"), diagnoser, store, SETTINGS)
    assert later == first
    assert records(store, upload) == [first]


def test_many_simultaneous_duplicates_give_one_record(store: Storage, diagnoser: Diagnoser, upload: Upload) -> None:
    with ThreadPoolExecutor(8) as pool:
        stored = list(pool.map(lambda _: diagnose_upload(upload, diagnoser, store, SETTINGS), range(16)))
    assert all(record == stored[0] for record in stored)
    assert records(store, upload) == [stored[0]]


def test_another_model_version_gives_another_record(
    store: Storage, diagnoser: Diagnoser, folder: Path, upload: Upload, tmp_path: Path
) -> None:
    second = shutil.copytree(folder, tmp_path / "2")
    amend_card(second, version="2")
    diagnose_upload(upload, diagnoser, store, SETTINGS)
    diagnose_upload(upload, Diagnoser(Package.load(second)), store, SETTINGS)
    assert [record.model.version for record in records(store, upload)] == ["1", "2"]


def test_a_refused_image_gets_a_record_with_the_reason(store: Storage, diagnoser: Diagnoser) -> None:
    upload = put(store, "Doe-Jane.jpeg", b"not an image")
    record = diagnose_upload(upload, diagnoser, store, SETTINGS)
    assert (record.outcome, record.label, record.reason) == ("refused", "Refused", "not-an-image")
    assert (record.probability, record.has_heatmap) == (None, False)
    assert records(store, upload) == [record]
    assert record.message is not None
    assert "Doe" not in record.message


def test_a_too_large_image_is_refused_without_reading_it(store: Storage, folder: Path, upload: Upload) -> None:
    record = diagnose_upload(upload, Diagnoser(Package.load(folder), Limits(max_bytes=1000)), store, SETTINGS)
    assert (record.label, record.reason) == ("Refused", "too-large")


def test_a_refused_image_is_diagnosed_once_it_can_be(store: Storage, folder: Path, upload: Upload) -> None:
    strict, able = Diagnoser(Package.load(folder), Limits(min_side=1000)), Diagnoser(Package.load(folder))
    assert diagnose_upload(upload, strict, store, SETTINGS).outcome == "refused"
    predicted = diagnose_upload(upload, able, store, SETTINGS)
    assert predicted.outcome == "judged"
    assert diagnose_upload(upload, strict, store, SETTINGS) == predicted
    assert records(store, upload) == [predicted]


def test_a_deleted_object_is_gone_until_it_comes_back(store: Storage, diagnoser: Diagnoser, upload: Upload) -> None:
    """Its upload ends as gone, and is predicted once the object exists again."""
    store.delete(UPLOADS, upload.key)
    gone = diagnose_upload(upload, diagnoser, store, SETTINGS)
    assert (gone.outcome, gone.label, gone.read) == ("gone", None, None)
    assert diagnose_upload(upload, diagnoser, store, SETTINGS) == gone
    store.put(UPLOADS, upload.key, jpeg(1, opacities=True))
    predicted = diagnose_upload(upload, diagnoser, store, SETTINGS)
    assert predicted.outcome == "judged"
    store.delete(UPLOADS, upload.key)
    assert diagnose_upload(upload, diagnoser, store, SETTINGS) == predicted


def test_the_event_of_an_overwritten_object_ends_as_superseded(
    store: Storage, diagnoser: Diagnoser, upload: Upload
) -> None:
    newer = put(store, upload.key, jpeg(2, opacities=False))
    stale = diagnose_upload(upload, diagnoser, store, SETTINGS)
    assert (stale.outcome, stale.label, stale.probability) == ("superseded", None, None)
    assert stale.superseded_by == newer.identity
    current = diagnose_upload(newer, diagnoser, store, SETTINGS)
    assert current.outcome == "judged"
    assert current.probability == diagnoser.diagnose(jpeg(2, opacities=False)).probability
    assert current.read is not None
    assert current.read.etag == newer.etag
    assert records(store, newer) == [current]
    assert records(store, upload) == [stale]


def test_an_event_without_etag_is_diagnosed_as_read(store: Storage, diagnoser: Diagnoser, upload: Upload) -> None:
    record = diagnose_upload(replace(upload, etag=None), diagnoser, store, SETTINGS)
    assert record.outcome == "judged"
    assert record.read is not None
    assert record.read.etag == upload.etag
    assert records(store, upload) == [record]  # under the name that a listing would give it


def test_an_event_may_not_point_at_another_bucket(store: Storage, diagnoser: Diagnoser) -> None:
    with pytest.raises(EventMalformed, match="only xray-uploads is read"):
        diagnose_upload(Upload(RESULTS, "ready"), diagnoser, store, SETTINGS)


@pytest.mark.parametrize(
    "key", ["../lungline-results/x", "../../etc/passwd", "file:///etc/passwd", "http://169.254.169.254/"]
)
def test_a_key_like_a_path_or_address_reaches_nothing(store: Storage, diagnoser: Diagnoser, key: str) -> None:
    assert diagnose_upload(Upload(UPLOADS, key, etag="e"), diagnoser, store, SETTINGS).outcome == "gone"


def test_a_store_that_is_down_leaves_nothing_behind(diagnoser: Diagnoser) -> None:
    nowhere = Storage("http://127.0.0.1:9", access_key=SecretStr("a"), secret_key=SecretStr("b"))
    with pytest.raises(StorageUnavailable):
        diagnose_upload(Upload(UPLOADS, "x"), diagnoser, nowhere, SETTINGS)


def test_200_different_images_at_once_each_get_their_own_result(store: Storage, diagnoser: Diagnoser) -> None:
    images = {f"many/{seed}.jpeg": jpeg(seed, opacities=bool(seed % 2)) for seed in range(200)}
    expected = {key: diagnoser.diagnose(data, heatmap=False).probability for key, data in images.items()}
    assert len(set(expected.values())) > 180  # else a mixed-up answer could pass for the right one
    with ThreadPoolExecutor(16) as pool:
        uploads = list(pool.map(lambda item: put(store, *item), images.items()))
        stored = list(pool.map(lambda upload: diagnose_upload(upload, diagnoser, store, SETTINGS), uploads))
    assert {record.upload.key: record.probability for record in stored} == expected


def test_a_damaged_record_is_reported(store: Storage) -> None:
    store.put(RESULTS, "results/00/0/1.json", b"{}")
    with pytest.raises(LunglineError, match="is not a result record"):
        record_store.load(store, RESULTS, "results/00/0/1.json")
    store.delete(RESULTS, "results/00/0/1.json")


def test_every_record_can_be_listed(store: Storage, diagnoser: Diagnoser, upload: Upload) -> None:
    record = diagnose_upload(upload, diagnoser, store, SETTINGS)
    assert record in list(record_store.every(store, RESULTS))


def test_the_latest_results_come_first_whatever_their_outcome(store: Storage, diagnoser: Diagnoser) -> None:
    bucket = "lungline-latest"
    store.ensure_buckets(bucket)
    ours = SETTINGS.model_copy(update={"results_bucket": bucket})
    uploads = [put(store, f"latest/{number}.jpeg", jpeg(number, opacities=True)) for number in range(3)]
    uploads.append(put(store, "latest/not an image.jpeg", b"not an image"))
    records = [diagnose_upload(upload, diagnoser, store, ours) for upload in uploads]
    diagnose_upload(uploads[0], diagnoser, store, ours)  # a duplicate is no later result
    gone = diagnose_upload(Upload(UPLOADS, "latest/gone.jpeg", etag="e"), diagnoser, store, ours)
    latest = record_store.latest(store, bucket, 10)
    assert sorted(latest, key=lambda record: record.times.done) == [*records, gone]
    assert record_store.latest(store, bucket, 10)[:2] == record_store.latest(store, bucket, 2)
    store.put(bucket, latest_list.heatmap_key("0" * 32, "1", datetime.now(UTC)), b"its record was never written")
    assert record_store.latest(store, bucket, 10) == latest


def test_an_upload_is_known_by_its_record_alone(store: Storage, diagnoser: Diagnoser, upload: Upload) -> None:
    """A heatmap without a record does not make an upload known."""
    assert not record_store.is_known(store, RESULTS, upload.identity)
    store.put(RESULTS, latest_list.heatmap_key(upload.identity, "1", datetime.now(UTC)), b"png")
    assert not record_store.is_known(store, RESULTS, upload.identity)
    diagnose_upload(upload, diagnoser, store, SETTINGS)
    assert record_store.is_known(store, RESULTS, upload.identity)
    identities = list(record_store.identities(store, RESULTS, upload.identity[:2]))
    assert upload.identity in identities
    assert identities == sorted(identities)


def test_a_result_is_drawn_over_the_upload_of_its_record(store: Storage, diagnoser: Diagnoser) -> None:
    data = jpeg(1, opacities=True, size=800)
    upload = put(store, "heat/drawn.jpeg", data)
    record = diagnose_upload(upload, diagnoser, store, SETTINGS)
    assert record.evidence is not None
    png = heatmaps.overlaid(record, data, store, RESULTS)
    assert png == draw(decoding.decode(data, at_least=512), record.evidence)
    assert max(Image.open(io.BytesIO(png)).size) == 512
    images = ImageRenderer(store, SETTINGS)
    assert images.overlaid(record, data) == png
    assert Image.open(io.BytesIO(images.heat(record).data)).mode == "RGBA"
    listed = [info for info in store.list(RESULTS, latest_list.LATEST) if record.upload.identity in info.key]
    assert [(info.size, info.key.endswith(".png")) for info in listed] == [(0, False)]


def test_the_heatmap_of_an_earlier_version_is_still_shown(store: Storage, diagnoser: Diagnoser) -> None:
    data = jpeg(2, opacities=True)
    record = diagnose_upload(put(store, "heat/earlier.jpeg", data), diagnoser, store, SETTINGS)
    assert record.read is not None
    key = latest_list.heatmap_key(record.upload.identity, record.model.version, record.read.modified)
    earlier = record.model_copy(update={"evidence": None, "heatmap": key})
    images = ImageRenderer(store, SETTINGS)
    with pytest.raises(ObjectGone):
        images.heat(earlier)
    png = diagnoser.diagnose(data).heatmap
    assert png is not None
    store.put(RESULTS, key, png)
    assert images.overlaid(earlier, data) == png
    assert images.heat(earlier).data == lift(png)
    # It lists the same record as the empty object does, once.
    listed = list(latest_list.keys_since(store, RESULTS, datetime(2020, 1, 1, tzinfo=UTC)))
    assert listed.count((record.key, record.model.version)) == 1


def test_a_record_without_a_heatmap_has_none_to_draw(store: Storage, diagnoser: Diagnoser) -> None:
    record = diagnose_upload(put(store, "heat/no image.jpeg", b"no image"), diagnoser, store, SETTINGS)
    assert not record.has_heatmap
    with pytest.raises(ObjectGone):
        heatmaps.overlaid(record, b"no image", store, RESULTS)


def test_a_record_is_listed_before_it_is_saved(store: Storage, diagnoser: Diagnoser) -> None:
    """Otherwise it would be missing among the latest, and from monitoring, for ever."""
    upload = put(store, "heat/listed.jpeg", jpeg(3, opacities=True))
    nowhere = Storage("http://127.0.0.1:9", "us-east-1", SecretStr("key"), SecretStr("secret"))
    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(StorageUnavailable):
            diagnose_upload(upload, diagnoser, store, SETTINGS, listing=SharedListing(nowhere, RESULTS, threads))
        assert not record_store.is_known(store, RESULTS, upload.identity)
        listing = SharedListing(store, RESULTS, threads)
        record = diagnose_upload(upload, diagnoser, store, SETTINGS, listing=listing)
    assert record in record_store.latest(store, RESULTS, 1000)
    with pytest.raises(RuntimeError):
        listing.add(upload.identity, "1", datetime.now(UTC)).result(5)


def test_records_of_a_burst_share_the_objects_that_list_them(store: Storage, diagnoser: Diagnoser) -> None:
    bucket = "lungline-burst"
    store.ensure_buckets(bucket)
    ours = SETTINGS.model_copy(update={"results_bucket": bucket})
    uploads = [put(store, f"burst/{number}.jpeg", jpeg(number % 3, opacities=True)) for number in range(16)]
    with ThreadPoolExecutor(8) as threads, ThreadPoolExecutor(16) as callers:
        listing = SharedListing(store, bucket, threads)
        judged = [callers.submit(diagnose_upload, each, diagnoser, store, ours, listing=listing) for each in uploads]
        records = [future.result(60) for future in judged]
        diagnose_upload(uploads[0], diagnoser, store, ours, listing=listing)  # delivered again, and listed alone
    names = [info.key for info in store.list(bucket, latest_list.LATEST)]
    assert len(names) < len(uploads)
    assert max(len(name.rpartition("/")[2]) for name in names) <= 255
    assert sorted(record.id for record in record_store.latest(store, bucket, 20)) == sorted(
        record.id for record in records
    )
    keys = [key for key, _ in latest_list.keys_since(store, bucket, datetime(2020, 1, 1, tzinfo=UTC))]
    assert sorted(keys) == sorted(record.key for record in records)


def test_a_shared_object_has_no_longer_name_than_stores_allow(store: Storage) -> None:
    bucket, now = "lungline-names", datetime.now(UTC)
    store.ensure_buckets(bucket)
    with ThreadPoolExecutor(1) as threads:
        threads.submit(time.sleep, 0.2)  # so that all wait
        listing = SharedListing(store, bucket, threads)
        listed = [listing.add(f"{number:032x}", version, now) for version in ("1", "v" * 200) for number in range(20)]
        for future in listed:
            future.result(30)
    names = [info.key.rpartition("/")[2] for info in store.list(bucket, latest_list.LATEST)]
    assert max(map(len, names)) <= 255
    assert sorted(name.count(".") + 1 for name in names) == [1] * 20 + [6, 7, 7]
    keys = {key for key, _ in latest_list.keys_since(store, bucket, datetime(2020, 1, 1, tzinfo=UTC))}
    assert len(keys) == 40
