import io
import json
import logging
import stat
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset

from lungline.datasets import phantom
from lungline.deidentification import research
from lungline.deidentification.burned_in_text import find_text, paint_over
from lungline.deidentification.deidentify import deidentify
from lungline.deidentification.pseudonyms import Pseudonyms
from lungline.diagnosis.diagnoser import Diagnoser
from lungline.diagnosis.upload import diagnose_upload
from lungline.errors import ImageRefused
from lungline.events.uploads import Upload
from lungline.imaging.decoding import decode
from lungline.package.card import Thresholds, amend_card
from lungline.package.package import Package
from lungline.results import record_store
from lungline.results import records as results
from lungline.results.records import ModelFacts, OperatingPoint, ResultLabel, ResultRecord, Times, UploadFacts
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.dicom_files import BIG, CAPTURE, DEFLATED, EXACT, EXPLICIT, IMPLICIT, JPEG_LS, film, write
from tests.support.object_store import running_store
from tests.support.tiny_package import write_tiny_package

# Words that stand for identities: in keys, in DICOM elements, in other metadata. They must not appear anywhere.
CANARIES = ("MUSTERMANN", "19570812", "1957-08-12", "PID4471123", "ACC99887", "STMARY", "DRWEISS")
PSEUDONYMS = Pseudonyms(b"a secret of the tests")


def leaks(*contents: object) -> list[str]:
    """The canaries in bytes or text, in any usual encoding."""
    leaked: list[str] = []
    for content in contents:
        data = content if isinstance(content, bytes) else str(content).encode()
        upper = data.upper()
        for canary in CANARIES:
            forms = (
                canary.encode(),
                canary.encode("utf-16-le"),
                canary.encode("utf-16-be"),
                canary.encode().hex().upper().encode(),
            )
            leaked += [canary for form in forms if form.upper() in upper]
    return leaked


def named_film(syntax: str = EXPLICIT, **elements: Any) -> bytes:
    """A radiograph whose header is full of canaries."""
    inner = Dataset()
    inner.PatientName, inner.PatientID = "MUSTERMANN^Erika", "PID4471123"
    private = {
        "PatientName": "MUSTERMANN^Erika",
        "PatientID": "PID4471123",
        "PatientBirthDate": "19570812",
        "PatientSex": "F",
        "StudyDate": "19570812",
        "StudyTime": "101112",
        "AcquisitionDateTime": "19570812101112",
        "AccessionNumber": "ACC99887",
        "InstitutionName": "STMARY",
        "ReferringPhysicianName": "DRWEISS",
        "StudyDescription": "MUSTERMANN CHEST",
        "BodyPartExamined": "MUSTERMANN",
        "ImageComments": "seen by DRWEISS",
        "OtherPatientIDsSequence": [inner],
        "RequestAttributesSequence": [inner],
        "DeviceSerialNumber": "PID4471123",
        "ImageType": ["ORIGINAL", "MUSTERMANN"],
        "OperatorsName": "DRWEISS",
        "WindowCenter": "2048",
        "WindowWidth": "4096",
    }
    return write(film(128), syntax, bits=12, **(private | elements))


class TestDicom:
    @pytest.mark.parametrize("syntax", EXACT)
    def test_no_identity_is_left(self, syntax: str) -> None:
        data = named_film(syntax)
        if syntax != DEFLATED:
            assert leaks(data)
        image = deidentify(data, PSEUDONYMS)
        assert image.suffix == ".dcm"
        assert leaks(image.data) == []

    @pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, JPEG_LS])
    def test_the_copy_shows_the_same_image(self, syntax: str) -> None:
        data = named_film(syntax)
        image = deidentify(data, PSEUDONYMS)
        ours, theirs = decode(image.data).pixels, decode(data).pixels
        untouched = ~find_text(theirs)
        assert np.array_equal(ours[untouched], theirs[untouched])
        copy = pydicom.dcmread(io.BytesIO(image.data))
        assert copy.PatientIdentityRemoved == "YES"
        assert [code.CodeValue for code in copy.DeidentificationMethodCodeSequence] == ["113100", "113101"]
        assert copy.pixel_array.shape == ours.shape

    def test_patients_and_studies_stay_together(self) -> None:
        study = "1.2.3.4.5"
        first = pydicom.dcmread(io.BytesIO(deidentify(named_film(StudyInstanceUID=study), PSEUDONYMS).data))
        second = pydicom.dcmread(io.BytesIO(deidentify(named_film(StudyInstanceUID=study), PSEUDONYMS).data))
        other = pydicom.dcmread(io.BytesIO(deidentify(named_film(PatientID="another"), PSEUDONYMS).data))
        assert first.PatientID == second.PatientID != other.PatientID
        assert first.StudyInstanceUID == second.StudyInstanceUID != study
        assert first.SOPInstanceUID != second.SOPInstanceUID
        assert len(first.PatientID) == 32

    def test_private_elements_overlays_and_unused_bits_are_removed(self) -> None:
        data = named_film()
        dataset = pydicom.dcmread(io.BytesIO(data))
        dataset.private_block(0x0011, "STMARY", create=True).add_new(1, "LO", "MUSTERMANN")
        dataset.add_new(0x60003000, "OW", b"MUSTERMANN")
        dataset.add_new(0x00091001, "UN", b"PID4471123")
        dataset.PixelData = (dataset.pixel_array | 0xF000).astype("<u2").tobytes()
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        image = deidentify(buffer.getvalue(), PSEUDONYMS)
        assert leaks(image.data) == []
        assert pydicom.dcmread(io.BytesIO(image.data)).pixel_array.max() < 4096

    def test_signed_values_and_colours_survive(self) -> None:
        signed = write(film(128, signed=True), bits=12, WindowCenter="0", WindowWidth="4096")
        assert np.abs(decode(deidentify(signed, PSEUDONYMS).data).pixels.astype(int) - decode(signed).pixels).mean() < 8
        colour = np.stack([film(128, bits=8)] * 3, axis=2)
        capture = write(colour, storage=CAPTURE, Modality="OT", PatientName="MUSTERMANN")
        image = deidentify(capture, PSEUDONYMS)
        assert leaks(image.data) == []
        assert decode(image.data).pixels.shape == (96, 128)

    @pytest.mark.parametrize(
        ("orientation", "stored"),
        [
            (["L", "F"], lambda upright: upright),
            (["R", "F"], lambda upright: upright[:, ::-1]),
            (["L", "H"], lambda upright: upright[::-1]),
            (["R", "H"], lambda upright: upright[::-1, ::-1]),
            (["F", "L"], lambda upright: upright.T),
            (["H", "R"], lambda upright: upright[::-1, ::-1].T),
            (["F", "R"], lambda upright: upright[:, ::-1].T),
        ],
        ids=lambda value: "".join(value) if isinstance(value, list) else "",
    )
    def test_the_copy_is_upright_and_says_so(self, orientation: list[str], stored: Callable[[Any], Any]) -> None:
        """Its pixels and its orientation agree, and it is not turned again when it is read."""
        window: dict[str, Any] = {"WindowCenter": "2048", "WindowWidth": "4096"}
        pixels = np.ascontiguousarray(stored(film(128)))
        copy = deidentify(write(pixels, bits=12, PatientOrientation=orientation, **window), PSEUDONYMS).data
        ours, theirs = decode(copy).pixels, decode(write(film(128), bits=12, **window)).pixels
        untouched = ~find_text(theirs)
        assert np.array_equal(ours[untouched], theirs[untouched])
        header = pydicom.dcmread(io.BytesIO(copy))
        assert header.PatientOrientation == ["L", "F"]
        assert header.pixel_array.shape == film(128).shape

    def test_the_copy_of_a_lateral_image_keeps_its_orientation(self) -> None:
        data = write(film(128), bits=12, PatientOrientation=["A", "F"], ImageOrientationPatient=[0, -1, 0, 0, 0, -1])
        header = pydicom.dcmread(io.BytesIO(deidentify(data, PSEUDONYMS).data))
        assert header.PatientOrientation == ["A", "F"]
        assert "ImageOrientationPatient" not in header

    @pytest.mark.parametrize(
        "elements",
        [
            {"PixelAspectRatio": ["2", "1"]},
            {"PixelSpacing": [0.2, 0.1]},
            {"ImagerPixelSpacing": [0.1, 0.2], "PatientOrientation": ["F", "L"]},
        ],
        ids=["ratio", "spacing", "on its side"],
    )
    def test_the_copy_keeps_the_proportions(self, elements: dict[str, Any]) -> None:
        data = write(film(128), bits=12, WindowCenter="2048", WindowWidth="4096", **elements)
        ours, theirs = decode(deidentify(data, PSEUDONYMS).data), decode(data)
        assert ours.pixels.shape == theirs.pixels.shape
        assert theirs.pixels.shape in {(192, 128), (256, 96)}

    def test_the_libraries_log_nothing_of_the_file(self, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
        odd = named_film().replace(b"19570812", b"1957MUST").replace(b"101112", b"STMARY")
        with caplog.at_level(logging.DEBUG):
            image = deidentify(odd, PSEUDONYMS)
        assert leaks(image.data, caplog.text, *capfd.readouterr()) == []

    def test_refusals_quote_no_names(self) -> None:
        for broken in (
            named_film()[:600],
            named_film(Modality="CT"),
            named_film(Rows=9999),
            named_film().replace(b"MONOCHROME2", b"MUSTERMANN2"),
        ):
            with pytest.raises(ImageRefused) as refused:
                deidentify(broken, PSEUDONYMS)
            assert leaks(refused.value, repr(refused.value)) == []


class TestOtherImages:
    @pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
    def test_metadata_is_removed_and_grey_levels_are_kept(self, form: str) -> None:
        grey = Image.fromarray(phantom.draw(np.random.default_rng(1), opacities=False, size=224))
        block = Image.Exif()
        block[0x010E] = "MUSTERMANN 1957-08-12"
        buffer = io.BytesIO()
        grey.convert("RGB").save(buffer, form, exif=block)
        assert leaks(buffer.getvalue())
        image = deidentify(buffer.getvalue() + b"PID4471123", PSEUDONYMS)
        assert image.suffix == ".png"
        assert leaks(image.data) == []
        ours, theirs = decode(image.data).pixels, decode(buffer.getvalue()).pixels
        untouched = ~find_text(theirs)
        assert np.array_equal(ours[untouched], theirs[untouched])


class TestTextInTheImage:
    @pytest.mark.parametrize("side", [224, 640, 1800])
    def test_text_at_the_margins_is_painted_over(self, side: int) -> None:
        chance = np.random.default_rng(side)
        for case in range(8):
            before = phantom.draw(chance, opacities=bool(case % 2), size=side)
            after, strokes = written_on(before, chance, case)
            mask = find_text(after)
            assert mask[strokes].mean() > 0.98
            painted = paint_over(after, mask)
            # The painted pixels do not depend on the text under them.
            assert np.array_equal(painted[mask], paint_over(np.where(mask, 0, after).astype(np.uint8), mask)[mask])

    def test_the_middle_of_the_image_is_never_painted(self) -> None:
        """And only little of the rest."""
        chance = np.random.default_rng(3)
        shares: list[float] = []
        for case in range(20):
            mask = find_text(phantom.draw(chance, opacities=bool(case % 2), size=224))
            assert not mask[90:134, 90:134].any()
            shares.append(float(mask.mean()))
        assert np.mean(shares) < 0.08

    def test_an_image_without_strokes_is_unchanged(self) -> None:
        smooth = np.asarray(Image.linear_gradient("L").resize((300, 200)))
        assert not find_text(smooth).any()
        assert paint_over(smooth, find_text(smooth)) is smooth

    @pytest.mark.parametrize("size", [(28, 28), (28, 300), (1, 1), (700, 31)])
    def test_any_size_is_accepted(self, size: tuple[int, int]) -> None:
        noise = np.random.default_rng(1).integers(0, 256, size).astype(np.uint8)
        mask = find_text(noise)
        assert mask.shape == paint_over(noise, mask).shape == size


def written_on(pixels: np.ndarray, chance: np.random.Generator, case: int) -> tuple[np.ndarray, np.ndarray]:
    """An image with a name or a date in one corner, and the mask of its visible strokes."""
    side = len(pixels)
    image, alone = Image.fromarray(pixels), Image.new("L", (side, side))
    size = max(10.0, float(chance.uniform(0.03, 0.055)) * side)
    text = ("MUSTERMANN ERIKA", "1957-08-12", "ID 4471123", "R")[case % 4]
    width = ImageDraw.Draw(alone).textlength(text, font_size=size)
    x = side * 0.02 if case % 2 else side * 0.97 - width
    y = side * 0.02 if case % 8 < 4 else side * 0.97 - size * 1.2
    under = pixels[int(y) : int(y + size), int(x) : int(x + width)].mean()
    ImageDraw.Draw(image).text((x, y), text, fill=250 if under < 128 else 5, font_size=size)
    ImageDraw.Draw(alone).text((x, y), text, fill=255, font_size=size)
    after = np.asarray(image)
    return after, (np.asarray(alone) > 128) & (np.abs(after.astype(int) - pixels) > 40)


class TestPseudonyms:
    def test_they_depend_on_name_secret_and_kind_only(self) -> None:
        assert PSEUDONYMS.of("key", "a") == PSEUDONYMS.of("key", "a")
        others = {PSEUDONYMS.of("key", "b"), PSEUDONYMS.of("patient", "a"), Pseudonyms(b"other").of("key", "a")}
        assert PSEUDONYMS.of("key", "a") not in others
        assert len(others) == 3

    def test_the_secret_is_created_once_for_its_owner(self, tmp_path: Path) -> None:
        settings, created = Settings(home=tmp_path / "home"), list[Pseudonyms]()
        threads = [
            threading.Thread(target=lambda: created.append(Pseudonyms.from_settings(settings))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        path = tmp_path / "home" / "research.key"
        assert len({pseudonyms.secret for pseudonyms in created}) == 1
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list((tmp_path / "home").iterdir()) == [path]
        assert path.read_text() not in repr(created[0])

    def test_the_settings_may_name_it(self) -> None:
        assert Pseudonyms.from_settings(Settings(research_secret="s")).secret == b"s"  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with running_store(tmp_path_factory.mktemp("store"), "xray-uploads") as storage:
        yield storage


def record(key: str, label: ResultLabel = "Unsure", identity: str = "0123456789abcdef0123456789abcdef") -> ResultRecord:
    now = datetime.now(UTC)
    return ResultRecord(
        id=f"{identity}-3",
        outcome="judged",
        label=label,
        probability=0.5,
        thresholds=OperatingPoint(low=0.2, high=0.8, operating=0.5),
        model=ModelFacts(name="pneumonia", version="3", run_id=None, sha256="0" * 64, synthetic=True),
        upload=UploadFacts(
            identity=identity, bucket="xray-uploads", key=key, version_id=None, etag="e", sequencer=None
        ),
        times=Times(uploaded=now, received=now, done=now),
    )


KEY = "MUSTERMANN Erika 1957-08-12/PID4471123.dcm"


class TestResearchBucket:
    def test_an_unsure_image_is_stored_once_without_identity(
        self, store: Storage, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings = Settings(home=tmp_path, research_bucket="research-one")
        with caplog.at_level(logging.DEBUG):
            assert research.keep(record(KEY), named_film(), store, settings)
            assert research.keep(record(KEY), named_film(), store, settings)
        objects = list(store.list("research-one"))
        assert [Path(info.key).suffix for info in objects] == [".dcm", ".json"]
        contents = [store.get("research-one", info.key).data for info in objects]
        assert leaks(*contents, *(info.key for info in objects)) == []
        # boto3's debug log is its own; the product never turns it on.
        ours = [
            entry.getMessage()
            for entry in caplog.records
            if not entry.name.startswith(("boto", "urllib3", "s3transfer"))
        ]
        assert leaks(*ours) == []
        facts = json.loads(contents[1])
        assert facts["label"] == "Unsure"
        assert "0123456789abcdef" not in contents[1].decode() + objects[0].key

    @pytest.mark.parametrize("label", ["Normal", "Pneumonia", "Refused"])
    def test_other_images_are_not_stored(self, store: Storage, tmp_path: Path, label: ResultLabel) -> None:
        settings = Settings(home=tmp_path, research_bucket="research-two")
        assert not research.keep(record(KEY, label), named_film(), store, settings)

    @pytest.mark.parametrize("data", [b"MUSTERMANN", named_film()[:700], b""])
    def test_a_failure_is_logged_without_names(
        self, store: Storage, tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes
    ) -> None:
        settings = Settings(home=tmp_path, research_bucket="research-three")
        with caplog.at_level(logging.WARNING):
            assert not research.keep(record(KEY, identity="a" * 32), data, store, settings)
        assert "a" * 32 in caplog.text
        assert leaks(caplog.text) == []

    def test_a_store_that_is_down_is_logged(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        nowhere = Storage("http://127.0.0.1:9", access_key=None, secret_key=None)
        with caplog.at_level(logging.WARNING):
            assert not research.keep(record(KEY), named_film(), nowhere, Settings(home=tmp_path))
        assert "was not kept" in caplog.text
        assert leaks(caplog.text) == []

    def test_a_catch_up_stores_missing_images(self, store: Storage, tmp_path: Path) -> None:
        settings = Settings(home=tmp_path, research_bucket="research-four", results_bucket="results-four")
        store.ensure_buckets("research-four", "results-four")
        store.put("xray-uploads", KEY, named_film())
        records = [record(KEY), record("gone", identity="b" * 32)]
        for result in records:
            record_store.save(store, "results-four", result)
        for expected in (research.CatchUp(kept=1, present=0, failed=1), research.CatchUp(kept=0, present=1, failed=1)):
            for result in records:
                store.put("results-four", results.OWED + result.id, b"")
            assert research.catch_up(store, settings) == expected
        assert research.catch_up(store, settings) == research.CatchUp(kept=0, present=0, failed=0)


def test_an_unsure_upload_is_stored_for_research(
    store: Storage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And a failure to store it does not change the result."""
    store.ensure_buckets("lungline-results")
    write_tiny_package(tmp_path / "1")
    amend_card(tmp_path / "1", thresholds=Thresholds(low=0.0, high=1.0, operating=0.5, chosen="By hand."))
    diagnoser = Diagnoser(Package.load(tmp_path / "1"))
    key = f"{KEY}/online"
    upload = Upload("xray-uploads", key, etag=store.put("xray-uploads", key, named_film()), sequencer="1")
    blocked = tmp_path / "a file, not a folder"
    blocked.touch()
    with caplog.at_level(logging.INFO):
        failed = diagnose_upload(upload, diagnoser, store, Settings(home=blocked, research_bucket="research-five"))
        kept = diagnose_upload(upload, diagnoser, store, Settings(home=tmp_path, research_bucket="research-five"))
    assert failed == kept
    assert kept.label == "Unsure"
    assert len(list(store.list("research-five"))) == 2
    assert "was not kept" in caplog.text
    assert leaks(caplog.text, kept.message, kept.warnings, kept.id, kept.key) == []


def test_records_of_refused_files_quote_nothing(store: Storage, tmp_path: Path) -> None:
    store.ensure_buckets("lungline-results")
    write_tiny_package(tmp_path / "1")
    diagnoser = Diagnoser(Package.load(tmp_path / "1"))
    for at, data in enumerate((named_film(Modality="CT"), named_film()[:900], named_film(BitsStored=99))):
        key = f"{KEY}/refused/{at}"
        upload = Upload("xray-uploads", key, etag=store.put("xray-uploads", key, data), sequencer="1")
        refused = diagnose_upload(upload, diagnoser, store, Settings(home=tmp_path, research_bucket="research-six"))
        assert refused.outcome == "refused"
        assert leaks(refused.model_dump_json(exclude={"upload": {"key"}})) == []
