"""The event bridge between a real store and a real broker."""

import io
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from confluent_kafka import Message

from eventing.offsets import OffsetTracker
from eventing.seaweedfs_log import Changes
from eventing.seaweedfs_tls import Certificates
from laptop.home.credentials import claim_credentials
from laptop.home.ports import load_ports
from laptop.services.bridge import BridgeService
from laptop.services.broker import Broker, running_broker
from laptop.services.process import running
from laptop.services.store import running_store
from lungline.events.uploads import Upload
from lungline.home import Home
from lungline.service_state import read_state, write_state
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.kafka_tail import Tail, tail, uploads_of
from tests.support.lone_services import running_bridge
from tests.support.object_store import free_ports, s3_client
from tests.support.worklist_site import wait

pytestmark = pytest.mark.stack

BUCKET = "xray-uploads"
MULTIPART = TransferConfig(multipart_threshold=5 * 2**20, multipart_chunksize=5 * 2**20)

KAFKA = ("kafka_bootstrap", "kafka_username", "kafka_password", "kafka_ca")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bridge")


@pytest.fixture(scope="module")
def stores(home: Path) -> Iterator[Settings]:
    """A store and, on it, a broker."""
    with running_store(home, Settings(home=home)) as settings, running_broker(home, settings) as settings:
        yield settings


@pytest.fixture(scope="module")
def bridge(home: Path, stores: Settings) -> Iterator[None]:
    with running_bridge(home, stores):
        yield


@pytest.fixture(scope="module")
def client(stores: Settings) -> Any:
    return s3_client(stores)


@pytest.fixture
def uploads(stores: Settings) -> Iterator[Tail]:
    with tail(stores, stores.uploads_topic) as records:
        yield records


def of(prefix: str, records: list[Message]) -> list[Upload]:
    return [upload for upload in uploads_of(records) if upload.key.startswith(prefix)]


@pytest.mark.usefixtures("bridge")
@pytest.mark.parametrize(
    "key",
    [
        "ward 7/Ünïcode + 100%/a=b&c.jpeg",
        "plain.jpg",
        "plus+%2B?query#fragment.jpg",
        "e\u0301 and \u00e9 differ.jpg",
        "日本/放射線.png",
        "quotes ' and \".jpg",
        ".hidden/.uploads/x.jpg",
        ".uploads/x.jpg",
        "tab\tand\r\nline break.jpg",
        "\x01\x1b\x7f\x85\u202e\u2028.jpg",
    ],
)
def test_a_key_survives_exactly(client: Any, uploads: Tail, key: str) -> None:
    etag = client.put_object(Bucket=BUCKET, Key=key, Body=key.encode())["ETag"]
    uploads.until(lambda records: key in [upload.key for upload in uploads_of(records)])
    (upload,) = [upload for upload in uploads_of(uploads.settled(0.3)) if upload.key == key]
    assert f'"{upload.etag}"' == etag
    assert upload.size == len(key.encode())
    assert upload.bucket == BUCKET
    assert upload.uploaded_at is not None


@pytest.mark.usefixtures("bridge")
def test_a_multipart_upload_is_one_event(client: Any, uploads: Tail) -> None:
    """With the size and ETag of the whole object."""
    client.upload_fileobj(io.BytesIO(os.urandom(12 * 2**20)), BUCKET, "multi/ward 7/large.dcm", Config=MULTIPART)
    uploads.until(lambda records: bool(of("multi/", records)))
    (upload,) = of("multi/", uploads.settled())
    head = client.head_object(Bucket=BUCKET, Key="multi/ward 7/large.dcm")
    assert f'"{upload.etag}"' == head["ETag"]
    assert "-3" in head["ETag"]
    assert upload.size == 12 * 2**20


@pytest.mark.usefixtures("bridge")
def test_twenty_one_simultaneous_uploads_are_one_event_each(stores: Settings, uploads: Tail) -> None:
    clients = [s3_client(stores) for _ in range(21)]
    with ThreadPoolExecutor(21) as pool:
        list(pool.map(lambda n: clients[n].put_object(Bucket=BUCKET, Key=f"many/{n}", Body=b"%d" % n), range(21)))
    uploads.until(lambda records: len(of("many/", records)) >= 21)
    seen = Counter(upload.key for upload in of("many/", uploads.settled()))
    assert seen == {f"many/{number}": 1 for number in range(21)}


@pytest.mark.usefixtures("bridge")
def test_only_new_content_is_an_upload(client: Any, uploads: Tail) -> None:
    client.put_object(Bucket=BUCKET, Key="what/a.jpg", Body=b"first")
    client.put_object(Bucket=BUCKET, Key="what/a.jpg", Body=b"second")
    client.put_object_tagging(Bucket=BUCKET, Key="what/a.jpg", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    client.put_object(Bucket=BUCKET, Key="what/folder/", Body=b"")
    client.put_object(Bucket="lungline-results", Key="what/elsewhere.jpg", Body=b"")
    client.copy_object(Bucket=BUCKET, Key="what/copy.jpg", CopySource={"Bucket": BUCKET, "Key": "what/a.jpg"})
    client.delete_object(Bucket=BUCKET, Key="what/a.jpg")
    client.put_object(Bucket=BUCKET, Key="what/last.jpg", Body=b"")
    uploads.until(lambda records: "what/last.jpg" in [upload.key for upload in uploads_of(records)])
    keys = [upload.key for upload in of("what/", uploads.settled())]
    assert sorted(keys) == ["what/a.jpg", "what/a.jpg", "what/copy.jpg", "what/last.jpg"]


@pytest.mark.usefixtures("bridge")
def test_record_keys_hide_object_keys(client: Any, uploads: Tail) -> None:
    """All uploads of an object have one key, and so one partition."""
    for body in (b"1", b"2"):
        client.put_object(Bucket=BUCKET, Key="Jane Doe/1.jpg", Body=body)
    uploads.until(lambda records: len(of("Jane", records)) == 2)
    records = [record for record in uploads.records if of("Jane", [record])]
    assert len({(record.key(), record.partition()) for record in records}) == 1
    assert b"Jane" not in bytes(records[0].key() or b"")


def test_a_version_has_its_key_and_version_id(tmp_path: Path) -> None:
    with (
        running_store(tmp_path, Settings(home=tmp_path)) as settings,
        running_broker(tmp_path / "broker", Settings()) as kafka,
        running_bridge(tmp_path, settings.model_copy(update={name: getattr(kafka, name) for name in KAFKA})),
        tail(kafka, kafka.uploads_topic) as uploads,
    ):
        client = s3_client(settings)
        client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        client.put_object(Bucket=BUCKET, Key="a/.DS_Store", Body=b"litter")
        put = client.put_object(Bucket=BUCKET, Key="a/b c.jpg", Body=b"x")
        client.delete_object(Bucket=BUCKET, Key="a/b c.jpg")
        uploads.until(lambda records: len(records) >= 1)
        (upload,) = uploads_of(uploads.settled(0.5))
    assert (upload.key, upload.version_id, f'"{upload.etag}"') == ("a/b c.jpg", put["VersionId"], put["ETag"])


def test_no_upload_is_lost_when_bridge_or_broker_is_killed(tmp_path: Path) -> None:
    home = Home.make(tmp_path)
    sent: list[str] = []
    with running_store(tmp_path, Settings(home=tmp_path)) as settings:
        ports = load_ports(home)
        assert ports
        client = s3_client(settings)

        def upload(count: int) -> None:
            for _ in range(count):
                sent.append(f"{len(sent)}.jpg")
                client.put_object(Bucket=BUCKET, Key=sent[-1], Body=b"x")

        broker = Broker(home, settings, ports, claim_credentials(home))
        bridge = BridgeService(home, broker.connected(), ports)
        upload(3)  # before the bridge started
        with running(broker, home.log("broker")) as first:
            with running(bridge, home.log("bridge")) as process, tail(broker.connected(), BUCKET) as uploads:
                upload(3)
                uploads.until(lambda records: len(records) >= 6)
                os.kill(process.pid, signal.SIGKILL)
            upload(3)  # while there is no bridge
            with running(bridge, home.log("bridge")):
                upload(3)
                os.kill(first.pid, signal.SIGKILL)
                upload(3)  # while there is no broker
                with running(broker, home.log("broker")), tail(broker.connected(), BUCKET) as uploads:
                    upload(3)
                    uploads.until(lambda records: {upload.key for upload in uploads_of(records)} == set(sent))
                    repeated = len(uploads.settled()) - len(sent)
    assert repeated <= 9  # at least once: only what was in flight when something was killed may come again


def test_a_bridge_stops_at_sigterm(home: Path, stores: Settings) -> None:
    ports = load_ports(Home(home))
    assert ports
    part = BridgeService(Home(home), stores.model_copy(update={"uploads_bucket": "lungline-models"}), ports)
    with running(part, Home(home).log("second")) as process:
        assert process.stop(3) == 0


def test_the_state_file_counts_delivered_uploads(home: Path, bridge: None, client: Any, uploads: Tail) -> None:
    client.put_object(Bucket=BUCKET, Key="counted.jpg", Body=b"x")
    uploads.until(lambda records: "counted.jpg" in [upload.key for upload in uploads_of(records)])
    assert read_state(Home(home), "bridge")["delivered"] > 0


def test_a_bridge_steps_back_with_the_clock(stores: Settings, uploads: Tail, tmp_path: Path, client: Any) -> None:
    """A store that has started since the clock was set back writes moments before the bridge's position."""
    home = Home.make(tmp_path / "home")
    ports = load_ports(Home(stores.home))
    assert ports
    shutil.copytree(stores.home / "store/config", home.file("store", "config"))
    ahead = time.time_ns() + 200 * 10**9
    write_state(home, "bridge", "ready", position=ahead)
    ours = stores.model_copy(update={"home": home.path})
    with running(BridgeService(home, ours, ports), home.log("bridge")):
        client.put_object(Bucket=BUCKET, Key="after/chest.jpg", Body=b"x")
        uploads.until(lambda records: bool(of("after/", records)))
        wait(lambda: read_state(home, "bridge")["position"] < ahead)


@pytest.mark.usefixtures("bridge")
def test_litter_is_counted_and_not_sent(home: Path, client: Any, uploads: Tail) -> None:
    before = read_state(Home(home), "bridge").get("litter", 0)
    litter = (".DS_Store", "Thumbs.db", "._chest.jpg", "desktop.ini", "__MACOSX/._chest.jpg", "@eaDir/chest.jpg")
    for key in litter:
        client.put_object(Bucket=BUCKET, Key=f"litter/{key}", Body=b"x")
    client.put_object(Bucket=BUCKET, Key="litter/chest.jpg", Body=b"x")
    uploads.until(lambda records: bool(of("litter/", records)))
    assert [upload.key for upload in of("litter/", uploads.settled(0.5))] == ["litter/chest.jpg"]
    assert read_state(Home(home), "bridge")["litter"] == before + len(litter)


@pytest.mark.usefixtures("bridge")
def test_a_storm_of_uploads_is_one_event_each(stores: Settings, uploads: Tail) -> None:
    storage = Storage.from_settings(stores)
    keys = {f"storm/{number}" for number in range(600)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: storage.put(BUCKET, key, key.encode()), keys))
    storage.close()
    uploads.until(lambda records: len(records) >= 600 and {upload.key for upload in of("storm/", records)} == keys, 60)
    assert len(of("storm/", uploads.settled())) == 600


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_the_change_log_is_read_without_a_proxy(
    home: Path, stores: Settings, client: Any, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    client.put_object(Bucket=BUCKET, Key="direct.jpg", Body=b"x")
    monkeypatch.setenv(variable, f"http://127.0.0.1:{free_ports(1)[0]}")
    ports = load_ports(Home(home))
    assert ports
    changes = Changes(ports.filer_grpc, Certificates.of(Home(home).file("store", "config")), BUCKET, 0)
    try:
        assert next(change for change in changes if change.upload).upload
    finally:
        changes.close()


def test_an_offset_tracker_stops_at_the_first_gap() -> None:
    tracker = OffsetTracker(9)
    first, second, third = (tracker.begin(position) for position in (10, 11, 15))
    tracker.finish(third)
    tracker.finish(second)
    assert (tracker.done, tracker.open) == (9, 3)
    tracker.finish(first)
    assert (tracker.done, tracker.open) == (15, 0)
    tracker.finish(first)
    assert tracker.done == 15


def test_an_offset_tracker_accepts_repeated_positions() -> None:
    tracker = OffsetTracker(0)
    first, second, third = (tracker.begin(position) for position in (10, 10, 9))
    tracker.finish(first)
    assert (tracker.done, tracker.open) == (10, 2)
    tracker.finish(second)
    tracker.finish(third)
    assert (tracker.done, tracker.open) == (10, 0)
