"""The embedded object store and who may do what on it."""

import io
import json
import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from pydantic import SecretStr

from eventing.seaweedfs_log import Changes
from eventing.seaweedfs_tls import Certificates
from laptop.home.credentials import Credentials, claim_credentials, load_credentials
from laptop.home.ports import Ports, claim_ports, load_ports
from laptop.services.mlflow import answers_with
from laptop.services.process import Process, running
from laptop.services.store import Store, running_store
from laptop.services.store_sockets import FOLDER, ports_of, remove_sockets
from laptop.supervision.assembly import assembled
from lungline.deidentification.pseudonyms import KEY_FILE
from lungline.errors import StorageUnavailable
from lungline.home import Home, read_json
from lungline.network import answers
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support import forgetful_disk
from tests.support.open_ports import command_line, listening
from tests.support.small_disk import full
from tests.support.waiting import eventually

pytestmark = pytest.mark.stack

BUCKET = "xray-uploads"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home.make(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def store(home: Home) -> Store:
    """A store in a home that has been stopped once already: identities must outlive that."""
    settings = Settings(home=home.path)
    with running_store(home.path, settings):
        pass
    ports, credentials = load_ports(home), load_credentials(home)
    assert isinstance(ports, Ports)
    assert isinstance(credentials, Credentials)
    return Store(home, settings, ports, credentials)


@pytest.fixture(scope="module")
def process(home: Home, store: Store) -> Iterator[Process]:
    with running(store, home.log("store")) as process:
        yield process


@pytest.fixture(scope="module")
def client(store: Store, process: Process) -> Any:
    made = s3(store, store.credentials.owner.access_key, store.credentials.owner.secret_key)
    made.put_object(Bucket=BUCKET, Key="of/others.jpg", Body=b"1")
    return made


@pytest.fixture(scope="module")
def scanner(store: Store, client: Any) -> Any:
    return s3(store, store.credentials.scanner.access_key, store.credentials.scanner.secret_key)


def s3(store: Store, access_key: str | None = None, secret_key: str | None = None) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=store.address,
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(signature_version=None if access_key else UNSIGNED, retries={"total_max_attempts": 1}),
    )


READS_AND_MORE: dict[str, Callable[[Any], object]] = {
    "read": lambda s3: s3.get_object(Bucket=BUCKET, Key="of/others.jpg"),
    "ask for": lambda s3: s3.head_object(Bucket=BUCKET, Key="of/others.jpg"),
    "list": lambda s3: s3.list_objects_v2(Bucket=BUCKET),
    "list the multipart uploads": lambda s3: s3.list_multipart_uploads(Bucket=BUCKET),
    "delete": lambda s3: s3.delete_object(Bucket=BUCKET, Key="of/others.jpg"),
    "copy": lambda s3: s3.copy_object(Bucket=BUCKET, Key="x", CopySource=f"{BUCKET}/of/others.jpg"),
    "publish": lambda s3: s3.put_object_acl(Bucket=BUCKET, Key="of/others.jpg", ACL="public-read"),
    "write to the results": lambda s3: s3.put_object(Bucket="lungline-results", Key="x", Body=b""),
    "read the models of": lambda s3: s3.list_objects_v2(Bucket="lungline-models"),
    "make a bucket in": lambda s3: s3.create_bucket(Bucket="another"),
    "change the rules of": lambda s3: s3.put_bucket_policy(Bucket=BUCKET, Policy="{}"),
}


@pytest.mark.parametrize("what", READS_AND_MORE)
def test_without_credentials_nobody_may(store: Store, client: Any, what: str) -> None:
    with pytest.raises(ClientError) as refusal:
        READS_AND_MORE[what](s3(store))
    assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


@pytest.mark.parametrize("what", READS_AND_MORE)
def test_a_scanner_may_not(scanner: Any, what: str) -> None:
    with pytest.raises(ClientError) as refusal:
        READS_AND_MORE[what](scanner)
    assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_a_scanner_may_not_delete_several_at_once(scanner: Any, client: Any) -> None:
    answer = scanner.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "of/others.jpg"}]})
    assert [error["Code"] for error in answer["Errors"]] == ["AccessDenied"]
    assert client.head_object(Bucket=BUCKET, Key="of/others.jpg")["ContentLength"] == 1


def test_a_scanner_may_upload_in_one_part_and_in_several(scanner: Any, client: Any) -> None:
    scanner.put_object(Bucket=BUCKET, Key="ward 7/Ünïcode + 100%/a=b&c.jpeg", Body=b"12")
    assert client.head_object(Bucket=BUCKET, Key="ward 7/Ünïcode + 100%/a=b&c.jpeg")["ContentLength"] == 2
    parts = TransferConfig(multipart_threshold=5 * 2**20, multipart_chunksize=5 * 2**20)
    scanner.upload_fileobj(io.BytesIO(b"x" * 12 * 2**20), BUCKET, "large", Config=parts)
    assert client.head_object(Bucket=BUCKET, Key="large")["ContentLength"] == 12 * 2**20


@pytest.mark.usefixtures("client")
def test_inner_ports_require_a_token_or_a_certificate(store: Store, tmp_path: Path) -> None:
    """The filer's ports ask for a certificate, where they can be reached at all; 400 says that TLS is due."""
    assert answers_with(store.ports.filer, f"/buckets/{BUCKET}/of/others.jpg") in (400, None)
    assert answers_with(store.ports.filer, f"/buckets/{BUCKET}/?pretty=y") in (400, None)
    with pytest.raises(StorageUnavailable):
        next(iter(Changes(store.ports.filer_grpc, Certificates.claim(tmp_path), BUCKET, 0)))


def test_nobody_reaches_the_ports_that_ask_for_nothing(home: Home, store: Store, client: Any) -> None:
    """`GET /col/delete` on the master's port deleted a bucket, also as the image of a page in the owner's browser."""
    if not (read_json(home.file("run", "store_gate.json")) or {}).get("private"):
        pytest.skip("this system allows no network namespaces")
    client.put_object(Bucket="lungline-results", Key="kept", Body=b"x")
    nobody = ["setpriv", "--reuid=65534", "--clear-groups"] if os.getuid() == 0 else []
    for port in (store.ports.master, store.ports.volume, store.ports.filer, store.ports.admin):
        url = f"http://127.0.0.1:{port}/col/delete?collection=lungline-results"
        done = subprocess.run([*nobody, "curl", "-s", "-m", "5", url], check=False, timeout=20)
        assert done.returncode == 7, f"connection refused was expected at {url}"
    for port in (store.ports.master_grpc, store.ports.volume_grpc, store.ports.s3_grpc):
        assert not answers(port)
    assert client.get_object(Bucket="lungline-results", Key="kept")["Body"].read() == b"x"


@pytest.fixture
def bare_store(tmp_path: Path) -> Iterator[Store]:
    """A store in the machine's network, as where the system allows it none of its own."""
    home, settings = Home.make(tmp_path), Settings(home=tmp_path)
    made = Store(home, settings, claim_ports(home), claim_credentials(home))
    command = made.command()
    program = [*command.argv[command.argv.index("--") + 1 :], f"-s3.port={made.ports.s3}"]
    program.append(f"-filer.port.grpc={made.ports.filer_grpc}")
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(program, stdout=log, stderr=log) as process:
        try:
            eventually(lambda: made.probe(process.pid) == "ready", 60)
            yield made
        finally:
            process.kill()
            process.wait(10)
            remove_sockets(ports_of(program))


def answer_of(url: str) -> bytes:
    """What a stranger gets, who accepts any certificate and has none."""
    return subprocess.run(["curl", "-ski", "-m", "5", url], capture_output=True, check=False, timeout=20).stdout


def test_a_store_leaves_no_socket_in_the_temporary_folder(tmp_path: Path) -> None:
    home, settings = Home.make(tmp_path), Settings(home=tmp_path)

    def left() -> list[Path]:
        ports = (read_json(home.file("run", "store_gate.json")) or {})["ports"]
        return [path for port in ports for path in FOLDER.glob(f"seaweedfs-*-{port}.sock")]

    store = Store(home, settings, claim_ports(home), claim_credentials(home))
    with running(store, home.log("store")) as process:
        killed = left()
        process.sweep()
    assert killed
    assert left() == killed
    with running(store, home.log("store")) as process:
        assert left()
        process.signal(signal.SIGTERM)
        eventually(lambda: process.exit_code is not None, 60)
    assert left() == []
    assert not any(path.exists() for path in killed)


@pytest.mark.attack
def test_without_a_network_of_its_own_the_store_asks_for_a_certificate(bare_store: Store) -> None:
    owner = bare_store.credentials.owner
    client = s3(bare_store, owner.access_key, owner.secret_key)
    client.put_object(Bucket="lungline-results", Key="kept", Body=b"x")
    for port in (bare_store.ports.master, bare_store.ports.volume, bare_store.ports.filer):
        for path in ("/col/delete?collection=lungline-results", "/dir/assign", "/status", "/"):
            plain = subprocess.run(
                ["curl", "-si", "-m", "5", f"http://127.0.0.1:{port}{path}"], capture_output=True, check=False
            )
            assert plain.stdout.startswith(b"HTTP/1.0 400"), path
            url = f"https://127.0.0.1:{port}{path}"
            strange = subprocess.run(["curl", "-ski", "-m", "5", url], capture_output=True, check=False, timeout=20)
            assert (strange.returncode, strange.stdout) != (0, b""), path
            assert not strange.stdout, path
    assert client.get_object(Bucket="lungline-results", Key="kept")["Body"].read() == b"x"


def test_the_store_listens_on_loopback_only(process: Process) -> None:
    assert listening(process.pid) == {"127.0.0.1"}


def test_no_secret_on_the_command_line_or_in_the_log(home: Home, store: Store, process: Process, client: Any) -> None:
    """No secret is on the command line or in the log."""
    shown = command_line(process.pid) + home.log("store").read_text(errors="replace") + repr(store)
    credentials = store.credentials
    for secret in (credentials.owner.secret_key, credentials.scanner.secret_key, *credentials.signing.values()):
        assert secret not in shown


def test_what_holds_secrets_is_readable_for_its_owner_only(home: Home, process: Process) -> None:
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    private = [home.file("credentials.json"), *home.file("store", "config").iterdir()]
    assert len(private) == 6
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}


def test_credentials_are_generated_once_for_each_home(home: Home, tmp_path: Path) -> None:
    first = json.loads(home.file("credentials.json").read_bytes())
    with running_store(tmp_path, Settings(home=tmp_path)):
        pass
    other = json.loads((tmp_path / "credentials.json").read_bytes())
    assert not set(first["owner"].values()) & set(other["owner"].values())
    assert load_credentials(home) == load_credentials(home)


def test_the_secret_of_pseudonyms_stays_the_same(tmp_path: Path) -> None:
    """The secret of pseudonyms is one of the home's own and stays what it was."""

    def secret(home: Home) -> SecretStr | None:
        claim_credentials(home)
        claim_ports(home)
        return assembled(home, Settings(home=home.path)).settings.research_secret

    first, other = Home.make(tmp_path / "one"), Home.make(tmp_path / "other")
    kept = secret(first)
    assert kept == secret(first)
    assert len(kept.get_secret_value() if kept else "") == 64
    assert secret(other) != kept
    # A home whose pseudonyms are keyed with a file of its own goes on with that.
    other.file(KEY_FILE).write_text("00")
    assert secret(other) is None


@pytest.mark.skipif(bool(forgetful_disk.fault()), reason="a disk of its own needs Linux and root")
def test_a_store_whose_disk_was_full_takes_writes_again(tmp_path: Path) -> None:
    """Its database would refuse them for ever, while everything else of it answers."""
    with forgetful_disk.forgetful_disk(tmp_path) as disk:
        home, log = Home.make(disk.path / "home"), tmp_path / "store.log"
        store = Store(home, Settings(home=home.path), claim_ports(home), claim_credentials(home))
        with running(store, log) as process, closing(Storage.from_settings(store.connected())) as storage:
            storage.put(BUCKET, "before.jpeg", b"before")
            eventually(lambda: "WORKER STARTED" in log.read_text())  # on a full disk it would end
            with full(disk.path), pytest.raises(StorageUnavailable):
                storage.put(BUCKET, "not taken.jpeg", bytes(200_000))
            eventually(lambda: process.exit_code is not None)
        assert "only a store that starts anew takes writes" in log.read_text()
        with running(store, log), closing(Storage.from_settings(store.connected())) as storage:
            storage.put(BUCKET, "after.jpeg", b"after")
            assert storage.get(BUCKET, "before.jpeg").data == b"before"
