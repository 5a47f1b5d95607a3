"""Reconciliation and replay, with a real store, a real broker and the bridge."""

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from confluent_kafka import Producer

from eventing.kafka import client_options, ensure_topics
from eventing.kafka_record import KafkaRecord, dead_letter_headers
from eventing.reconcile import Candidates, Reconciliation, reconcile, resend
from eventing.replay import replay
from laptop.services.broker import running_broker
from laptop.services.store import running_store
from lungline.datasets.phantom import jpeg
from lungline.diagnosis.diagnoser import Diagnoser
from lungline.diagnosis.upload import diagnose_upload
from lungline.errors import KafkaUnavailable
from lungline.events.uploads import Upload, minio_record
from lungline.package.card import Thresholds
from lungline.package.package import Package
from lungline.results import latest_list
from lungline.results import records as results
from lungline.results.events import RESULT_TYPE
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.kafka_tail import tail, uploads_of
from tests.support.lone_services import running_bridge
from tests.support.object_store import free_ports, s3_client
from tests.support.tiny_package import write_tiny_package

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A store and, on it, a broker."""
    home = tmp_path_factory.mktemp("recovery")
    with running_store(home, Settings(home=home)) as settings, running_broker(home, settings) as settings:
        yield settings


@pytest.fixture
def ours(services: Settings, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Buckets and topics of the test's own."""
    name = f"t{abs(hash(request.node.name)) % 10**12}"
    kinds = ("uploads", "results", "research")
    settings = services.model_copy(
        update={f"{kind}_bucket": f"{name}-{kind}" for kind in kinds}
        | {f"{kind}_topic": f"{name}-{kind}" for kind in ("uploads", "results", "dead_letters")}
    )
    with ExitStack() as stack:
        storage = Storage.from_settings(settings)
        stack.callback(storage.close)
        storage.ensure_buckets(settings.uploads_bucket, settings.results_bucket, settings.research_bucket)
        ensure_topics(settings)
        yield settings


@pytest.fixture
def storage(ours: Settings) -> Iterator[Storage]:
    storage = Storage.from_settings(ours)
    yield storage
    storage.close()


@pytest.fixture(scope="module")
def diagnoser(tmp_path_factory: pytest.TempPathFactory) -> Diagnoser:
    """One that is unsure of everything."""
    folder = tmp_path_factory.mktemp("package") / "1"
    write_tiny_package(folder, thresholds=Thresholds(low=0.0, high=1.0, operating=0.5, chosen="By hand."))
    return Diagnoser(Package.load(folder))


def reconciled(storage: Storage, settings: Settings, **when: Any) -> tuple[dict[str, int], list[Upload]]:
    """The counts of a reconciliation, and what it would send."""
    sent: list[Upload] = []
    counts = asdict(reconcile(storage, settings, sent.append, **when))
    return {name: count for name, count in counts.items() if count}, sent


class TestReconcile:
    def test_only_uploads_without_a_result_are_sent(
        self, storage: Storage, ours: Settings, diagnoser: Diagnoser
    ) -> None:
        keys = [f"Doe-Jane/{number}.jpeg" for number in range(4)]
        for number, key in enumerate(keys):
            storage.put(ours.uploads_bucket, key, jpeg(number, opacities=True))
        storage.put(ours.uploads_bucket, "not an image.jpeg", b"hello")
        storage.put(ours.uploads_bucket, "folder/", b"")
        counts, sent = reconciled(storage, ours)
        assert counts == {"uploads": 5, "sent": 5}
        for upload in sent:
            if upload.key != keys[0]:
                diagnose_upload(upload, diagnoser, storage, ours)
        # A heatmap without a record is no result: the predictor was killed between the two.
        lost = next(upload for upload in sent if upload.key == keys[0])
        storage.put(ours.results_bucket, latest_list.heatmap_key(lost.identity, "1", datetime.now(UTC)), b"png")
        counts, again = reconciled(storage, ours)
        assert counts == {"uploads": 5, "with_result": 4, "sent": 1}
        assert again == [lost]
        diagnose_upload(lost, diagnoser, storage, ours)
        assert reconciled(storage, ours) == ({"uploads": 5, "with_result": 5}, [])

    def test_an_overwritten_upload_is_sent_with_its_present_etag(
        self, storage: Storage, ours: Settings, diagnoser: Diagnoser
    ) -> None:
        first = Upload(ours.uploads_bucket, "a", etag=storage.put(ours.uploads_bucket, "a", jpeg(1, opacities=True)))
        diagnose_upload(first, diagnoser, storage, ours)
        etag = storage.put(ours.uploads_bucket, "a", jpeg(2, opacities=True))
        _, sent = reconciled(storage, ours)
        assert [upload.etag for upload in sent] == [etag]

    def test_uploads_outside_the_given_time_are_skipped(self, storage: Storage, ours: Settings) -> None:
        storage.put(ours.uploads_bucket, "a", b"x")
        now, minute = datetime.now(UTC), timedelta(minutes=1)
        assert reconciled(storage, ours, since=now - minute, until=now + minute)[0] == {"uploads": 1, "sent": 1}
        assert reconciled(storage, ours, since=now + minute)[0] == {"uploads": 1, "older": 1}
        assert reconciled(storage, ours, until=now - minute)[0] == {"uploads": 1, "recent": 1}

    def test_litter_is_left_out_and_counted(self, storage: Storage, ours: Settings) -> None:
        """Keys with tabs and line breaks are uploads; those that no event can carry are counted."""
        for key in ("a\tb", "a\nb", "\u202eab", ".DS_Store", "ward/Thumbs.db", "ward/._a"):
            storage.put(ours.uploads_bucket, key, b"x")
        counts, sent = reconciled(storage, ours)
        assert counts == {"uploads": 3, "sent": 3, "litter": 3}
        assert {upload.key for upload in sent} == {"a\tb", "a\nb", "\u202eab"}
        assert str(Reconciliation(uploads=5, with_result=3, litter=2, unusable=2)) == (
            "Of 5 uploads none was lost; with keys that no event can carry, never predicted: 2; "
            "files of operating systems, left out: 2."
        )

    def test_many_uploads_are_compared_with_many_results(self, storage: Storage, ours: Settings) -> None:
        def put(number: int) -> Upload:
            key = f"{number}.jpeg"
            upload = Upload(ours.uploads_bucket, key, etag=storage.put(ours.uploads_bucket, key, b"%d" % number))
            for version in range(number % 3):
                storage.put(ours.results_bucket, results.record_key(upload.identity, str(version)), b"{}")
            return upload

        with ThreadPoolExecutor(8) as pool:
            uploads = list(pool.map(put, range(600)))
        lost = {upload.identity for upload in uploads[::3]}
        counts, sent = reconciled(storage, ours)
        assert counts == {"uploads": 600, "with_result": 400, "sent": 200}
        assert {upload.identity for upload in sent} == lost

    def test_candidates_come_back_unchanged_and_in_order(self) -> None:
        whole = datetime(2026, 11, 22, tzinfo=UTC)
        uploads = [Upload("b", f"{number}.jpeg", None, f"{number}", None, number, whole) for number in range(2500)]
        uploads.append(Upload("b", "Ünïcode", "version", None, None, None, None))
        with Candidates() as candidates:
            candidates.add(uploads)
            candidates.add(uploads[:10])
            assert len(candidates) == 2501
            restored = [upload for shard, _ in candidates.shards() for upload in candidates.of(shard)]
        assert restored == sorted(uploads, key=lambda upload: upload.identity)

    def test_its_events_are_duplicates_of_the_bridges_events(self, tmp_path: Path) -> None:
        """In one part and in several, in a bucket with versions and in one without."""
        parts = TransferConfig(multipart_threshold=5 * 2**20, multipart_chunksize=5 * 2**20)
        for versions in (False, True):
            home = tmp_path / str(versions)
            with (
                running_store(home, Settings(home=home)) as settings,
                running_broker(home, settings) as settings,
                running_bridge(home, settings),
                tail(settings, settings.uploads_topic) as events,
            ):
                client = s3_client(settings)
                if versions:
                    status = {"Status": "Enabled"}
                    client.put_bucket_versioning(Bucket=settings.uploads_bucket, VersioningConfiguration=status)
                for key in ("Jane Doe/ü + 100%.jpeg", "b.jpeg"):
                    client.put_object(Bucket=settings.uploads_bucket, Key=key, Body=key.encode())
                client.upload_fileobj(io.BytesIO(bytes(6 * 2**20)), settings.uploads_bucket, "c.dcm", Config=parts)
                first = uploads_of(events.until(lambda records: len(records) == 3))
                assert resend(settings, grace_seconds=0).sent == 3
                records = events.until(lambda records: len(records) == 6)
                assert sorted(upload.identity for upload in uploads_of(records[3:])) == sorted(
                    upload.identity for upload in first
                )
                assert {bool(upload.version_id) for upload in uploads_of(records)} == {versions}
                assert {record.key() for record in records[:3]} == {record.key() for record in records[3:]}
                assert not [record for record in records if b"Jane" in bytes(record.key() or b"")]

    def test_without_a_broker_it_says_so(self, ours: Settings, storage: Storage) -> None:
        storage.put(ours.uploads_bucket, "a", b"x")
        nobody = ours.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{free_ports(1)[0]}"})
        with pytest.raises(KafkaUnavailable, match="does not answer"):
            resend(nobody, grace_seconds=0, patience_seconds=1)

    def test_images_owed_to_research_are_kept_later(
        self, ours: Settings, storage: Storage, diagnoser: Diagnoser, tmp_path: Path
    ) -> None:
        ours = ours.model_copy(update={"home": tmp_path})
        # S3 allows no bucket of this name, so keeping the image fails.
        impossible = ours.model_copy(update={"research_bucket": "x"})
        etags = {key: storage.put(ours.uploads_bucket, key, jpeg(1, opacities=True)) for key in ("a", "deleted")}
        for key, etag in etags.items():
            upload = Upload(ours.uploads_bucket, key, etag=etag)
            assert diagnose_upload(upload, diagnoser, storage, impossible).label == "Unsure"
        storage.delete(ours.uploads_bucket, "deleted")
        assert len(list(storage.list(ours.results_bucket, results.OWED))) == 2
        assert resend(ours, grace_seconds=0).research == 1
        assert len(list(storage.list(ours.research_bucket))) == 2
        assert list(storage.list(ours.results_bucket, results.OWED)) == []
        assert resend(ours, grace_seconds=0).research == 0


class TestReplay:
    def test_each_dead_letter_is_delivered_again_once(self, ours: Settings) -> None:
        uploads = [Upload(ours.uploads_bucket, f"Doe-Jane/{number}.jpeg", etag=str(number)) for number in range(5)]
        dead_letter(ours, *(json.dumps(minio_record(upload)).encode() for upload in uploads[:3]))
        assert asdict(replay(ours)) == {"replayed": 3, "older": 0, "hopeless": 0}
        assert replay(ours).replayed == 0
        dead_letter(ours, *(json.dumps(minio_record(upload)).encode() for upload in uploads[3:]))
        assert replay(ours).replayed == 2
        with tail(ours, ours.uploads_topic) as events:
            records = events.until(lambda records: len(records) == 5)
            assert len(events.settled(0.3)) == 5
        assert uploads_of(records) == uploads
        assert not [record for record in records if b"Doe" in bytes(record.key() or b"")]
        assert [dict(record.headers() or []) for record in records] == [{"content-type": b"application/json"}] * 5
        assert replay(ours, again=True).replayed == 5

    def test_events_of_others_are_not_replayed(self, ours: Settings) -> None:
        elsewhere = minio_record(Upload("lungline-models", "pneumonia/1/card.json"))
        dead_letter(ours, b"", b"hello", json.dumps(elsewhere).encode(), b'{"Event": "s3:TestEvent"}')
        assert asdict(replay(ours)) == {"replayed": 0, "older": 0, "hopeless": 4}
        assert asdict(replay(ours)) == {"replayed": 0, "older": 0, "hopeless": 0}

    def test_an_undelivered_result_goes_back_to_the_results_topic(self, ours: Settings) -> None:
        event = {"specversion": "1.0", "type": RESULT_TYPE, "id": "a-1", "source": "s", "subject": "a"}
        dead_letter(ours, b'{"id": "a-1"}', event=event)
        assert replay(ours).replayed == 1
        with tail(ours, ours.results_topic) as events:
            (record,) = events.until(lambda records: len(records) == 1)
        assert record.value() == b'{"id": "a-1"}'
        assert dict(record.headers() or []) == {f"ce_{name}": value.encode() for name, value in event.items()} | {
            "content-type": b"application/json"
        }

    def test_letters_older_than_since_count_as_replayed(self, ours: Settings) -> None:
        event = json.dumps(minio_record(Upload(ours.uploads_bucket, "a.jpeg", etag="1"))).encode()
        dead_letter(ours, event, event)
        later = datetime.now(UTC) + timedelta(hours=1)
        assert asdict(replay(ours, since=later)) == {"replayed": 0, "older": 2, "hopeless": 0}
        assert replay(ours).replayed == 0
        assert replay(ours, since=later - timedelta(hours=2), again=True).replayed == 2

    def test_without_a_broker_it_says_so(self, ours: Settings) -> None:
        nobody = ours.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{free_ports(1)[0]}"})
        with pytest.raises(KafkaUnavailable):
            replay(nobody, timeout_seconds=1)


def dead_letter(settings: Settings, *values: bytes, event: dict[str, str] | None = None) -> None:
    """Write dead letters as the trigger does."""
    producer = Producer(client_options(settings))
    for value in values:
        record = KafkaRecord("t", 0, 7, value, b"bucket/Doe-Jane.jpeg", "application/json", 1, event=event or {})
        headers = dead_letter_headers(record, "http://127.0.0.1/x", 500, b"no")
        producer.produce(settings.dead_letters_topic, value, record.key, headers=headers)
    assert producer.flush(10) == 0
