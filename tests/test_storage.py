import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from lungline.errors import LunglineError, ObjectGone, ObjectTooLarge, SettingsError, StorageUnavailable
from lungline.storage import signing
from lungline.storage.objects import parse_uri
from lungline.storage.s3 import Storage
from tests.support.object_store import ACCESS_KEY, SECRET_KEY, running_store

KEY = "ward 7/Ünïcode + 100%/a=b&c.jpeg"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with running_store(tmp_path_factory.mktemp("store"), "bucket") as storage:
        yield storage


@pytest.fixture(scope="module", params=["signed here", "by boto3"])
def store(request: pytest.FixtureRequest, started: Storage) -> Iterator[Storage]:
    """The store, reached in both ways: boto3 is asked where its own search gives the credentials."""
    if request.param == "signed here":
        yield started
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        storage = Storage(started.endpoint)
        storage.ensure_buckets("bucket")
        yield storage
        storage.close()


def test_an_object_comes_back_as_it_was_stored(store: Storage) -> None:
    etag = store.put("bucket", KEY, b"pixels", "image/jpeg")
    stored = store.get("bucket", KEY)
    assert (stored.data, stored.etag, stored.size) == (b"pixels", etag, 6)
    assert '"' not in etag
    info = store.head("bucket", KEY)
    assert (info.etag, info.size, info.modified) == (etag, 6, stored.modified)
    assert store.exists("bucket", KEY)


@pytest.mark.parametrize("key", ["a b+c~d-e_f.g", "ä/日本/😀", "%41%2F", "a&b=c;d,e'f(g)h*i!j@k$l:m"])
def test_every_character_of_a_key_is_kept(store: Storage, key: str) -> None:
    store.put("bucket", key, key.encode())
    assert store.get("bucket", key).data == key.encode()
    assert key in {info.key for info in store.list("bucket", key[:1])}


def test_an_empty_object_and_a_large_one_come_back(store: Storage) -> None:
    for data in (b"", bytes(range(256)) * 50_000):
        store.put("bucket", "sized", data)
        assert store.get("bucket", "sized").data == data


def test_an_object_that_is_not_there_is_gone(store: Storage) -> None:
    for call in (store.get, store.head):
        with pytest.raises(ObjectGone, match="not in bucket bucket") as gone:
            call("bucket", "Doe-Jane.jpeg")
        assert "Doe" not in str(gone.value)
    assert not store.exists("bucket", "Doe-Jane.jpeg")


def test_a_version_is_read_as_it_was(store: Storage) -> None:
    store.ensure_buckets("versioned")
    client = store._client  # noqa: SLF001 - Lungline itself never switches versioning on
    client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    store.put("versioned", "x", b"first")
    first = store.head("versioned", "x").version_id
    store.put("versioned", "x", b"second")
    assert first is not None
    assert store.get("versioned", "x", version_id=first).data == b"first"
    assert store.get("versioned", "x").data == b"second"
    with pytest.raises(ObjectGone):
        store.get("versioned", "x", version_id="096fKKXTRTtl3on89fVO.nfljtsv6qko")


@pytest.mark.parametrize("key", ["../bucket/ready", "./ready", "../../etc/passwd", "/../../../etc/passwd"])
def test_a_key_cannot_lead_out_of_the_bucket(store: Storage, key: str) -> None:
    """A key that leads out of the bucket names no object."""
    with pytest.raises(ObjectGone):
        store.get("bucket", key)


@pytest.mark.parametrize("key", ["file:///etc/passwd", "http://169.254.169.254/latest", "s3://bucket/ready", "a?b#c"])
def test_a_key_like_an_address_is_a_key(store: Storage, key: str) -> None:
    """A key that looks like an address is just a key."""
    store.delete("bucket", key)
    with pytest.raises(ObjectGone):
        store.get("bucket", key)
    store.put("bucket", key, key.encode())
    assert store.get("bucket", key).data == key.encode()


def test_an_object_beyond_the_limit_is_not_read(store: Storage) -> None:
    store.put("bucket", "large", bytes(100_000))
    assert len(store.get("bucket", "large", max_bytes=100_000).data) == 100_000
    with pytest.raises(ObjectTooLarge, match="100000 bytes; the limit is 99999"):
        store.get("bucket", "large", max_bytes=99_999)


def test_only_the_first_of_many_simultaneous_writers_stores_its_object(store: Storage) -> None:
    for round_ in range(3):
        key = f"race/{id(store)}/{round_}"
        barrier = threading.Barrier(8)

        def write(number: int, key: str = key, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return store.put_if_absent("bucket", key, str(number).encode())

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(write, range(8)))
        assert won.count(True) == 1
        assert store.get("bucket", key).data == str(won.index(True)).encode()


def test_a_listing_spans_pages_and_starts_after_a_key(store: Storage) -> None:
    """A listing goes over pages in order and starts after a key."""
    keys = sorted(f"list/é +{number:04}" for number in range(1050))
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.put("bucket", key, b"x"), keys))
    assert [info.key for info in store.list("bucket", "list/")] == keys
    assert [info.key for info in store.list("bucket", "list/", start_after=keys[1000])] == keys[1001:]
    assert list(store.list("bucket", "nothing/")) == []


def test_a_downloaded_folder_replaces_the_old_one(store: Storage, tmp_path: Path) -> None:
    """A folder comes back whole and replaces the one that was there."""
    source = tmp_path / "source"
    (source / "saved_model").mkdir(parents=True)
    (source / "card.json").write_text("{}")
    (source / "saved_model" / "weights").write_bytes(bytes(10_000_000))
    store.upload_folder(source, "bucket", "models/1/", last="card.json")
    target = tmp_path / "packages" / "1"
    target.mkdir(parents=True)
    (target / "stale").write_text("")
    store.download_folder("bucket", "models/1", target)
    files = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert files == {"card.json", "saved_model/weights"}
    assert (target / "saved_model" / "weights").stat().st_size == 10_000_000
    assert list(target.parent.iterdir()) == [target]


def test_a_prefix_is_not_the_beginning_of_a_name(store: Storage, tmp_path: Path) -> None:
    store.put("bucket", "models2/10/card.json", b"{}")
    with pytest.raises(ObjectGone, match="Nothing is stored under s3://bucket/models2/1/"):
        store.download_folder("bucket", "models2/1", tmp_path / "1")
    assert list(tmp_path.iterdir()) == []


def test_wrong_credentials_and_a_missing_bucket_are_named(store: Storage) -> None:
    """Wrong credentials and a missing bucket are said in a sentence."""
    with pytest.raises(LunglineError, match="refuses these credentials for bucket bucket"):
        stranger(store.endpoint).get("bucket", "ready")
    with pytest.raises(LunglineError, match="has no bucket missing"):
        store.get("missing", "x")


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], Storage]]:
    """Makes stores that give every request the same answer and hang up."""
    servers: list[socketserver.ThreadingTCPServer] = []

    def start(answer: bytes) -> Storage:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while self.rfile.readline().strip():
                    pass
                self.wfile.write(answer)

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return stranger(f"http://127.0.0.1:{server.server_address[1]}")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def stranger(endpoint: str | None) -> Storage:
    return Storage(endpoint, access_key=SecretStr("nobody"), secret_key=SecretStr("wrong"))


def refusal(status: str, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code></Error>"
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


def test_a_store_that_is_busy_is_unavailable(answering: Callable[[bytes], Storage]) -> None:
    storage = answering(refusal("503 Slow Down", "SlowDown"))
    with pytest.raises(StorageUnavailable, match="cannot serve bucket bucket now"):
        storage.get("bucket", "x")
    with pytest.raises(StorageUnavailable):
        storage.put_if_absent("bucket", "x", b"")


def test_a_store_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(StorageUnavailable, match="does not answer"):
            stranger(f"http://127.0.0.1:{nobody.getsockname()[1]}").get("bucket", "x")


def test_an_answer_that_breaks_off_is_unavailable(answering: Callable[[bytes], Storage]) -> None:
    storage = answering(
        b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\nETag: "e"\r\nLast-Modified: Sat, 21 Nov 2026 22:31:45 GMT\r\n\r\nhalf'
    )
    with pytest.raises(StorageUnavailable):
        storage.get("bucket", "x")


FOUND = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nLast-Modified: Sat, 21 Nov 2026 22:31:45 GMT\r\n'


@pytest.mark.parametrize(
    "answer",
    [
        FOUND + b"Content-Length: 5\r\n\r\nwhole",
        FOUND + b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\nwh\r\n3\r\nole\r\n0\r\nx-trailer: 1\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + FOUND + b"\r\nwhole",
        FOUND.replace(b"1.1", b"1.0") + b"content-length:5\r\n\r\nwhole and more",
    ],
)
def test_every_form_of_an_answer_is_read(answering: Callable[[bytes], Storage], answer: bytes) -> None:
    storage = answering(answer)
    assert [storage.get("bucket", "x").data for _ in range(2)] == [b"whole"] * 2
    with pytest.raises(ObjectTooLarge):
        storage.get("bucket", "x", max_bytes=4)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        FOUND,
        FOUND + b"Content-Length: five\r\n\r\nwhole",
        FOUND + b"x: y\r\n" * 30 + b"".join(b"x-%d: y\r\n" % number for number in range(200)) + b"\r\nwhole",
        FOUND + b"x: " + b"y" * 70_000 + b"\r\n\r\nwhole",
        FOUND + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nwhole\r\n0\r\n\r\n",
        FOUND + b"Transfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n",
    ],
)
def test_an_answer_that_is_none_is_unavailable(
    answering: Callable[[bytes], Storage], answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "ATTEMPTS", 1)
    with pytest.raises(StorageUnavailable, match="does not answer"):
        answering(answer).get("bucket", "x", max_bytes=100)


def test_a_header_cannot_be_slipped_in(store: Storage) -> None:
    with pytest.raises((ValueError, StorageUnavailable)):
        store.put("bucket", "x", b"", "text/plain\r\nx-evil: 1")


def test_a_store_without_conditional_writes_is_reported(answering: Callable[[bytes], Storage]) -> None:
    storage = answering(refusal("501 Not Implemented", "NotImplemented"))
    with pytest.raises(LunglineError, match=r"refused a request for bucket bucket \(NotImplemented\)"):
        storage.put_if_absent("bucket", "x", b"")


def test_an_s3_address_has_a_bucket_and_a_prefix() -> None:
    """An address of a store has a bucket and perhaps a prefix."""
    assert parse_uri("s3://bucket/a/b c") == ("bucket", "a/b c")
    assert parse_uri("s3://bucket") == ("bucket", "")
    for wrong in ("bucket/a", "s3://", "s3:///a", "http://bucket/a"):
        with pytest.raises(SettingsError, match="Expected an address like s3://bucket/prefix"):
            parse_uri(wrong)


def test_nothing_connects_or_imports_boto3_before_the_first_call() -> None:
    script = "import sys, lungline.storage.s3 as s; s.Storage('http://127.0.0.1:1'); sys.exit('boto3' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_invalid_address_is_reported() -> None:
    for wrong in ("nowhere at all", "http://", "http://host:port"):
        with pytest.raises(SettingsError, match="is not one like http://host:9000"):
            stranger(wrong).get("bucket", "x")


def test_threads_share_one_client() -> None:
    storage = stranger("http://127.0.0.1:1")
    with ThreadPoolExecutor(8) as pool:
        clients = {id(client) for client in pool.map(lambda _: storage._client, range(8))}  # noqa: SLF001
    assert len(clients) == 1
    storage.close()


def test_kept_connections_survive_a_restart_of_the_store(tmp_path: Path) -> None:
    """Kept connections to a store that went away are no trap."""
    with running_store(tmp_path, "bucket") as storage:
        storage.put("bucket", "x", b"1")
    with pytest.raises(StorageUnavailable):
        storage.get("bucket", "x")


# The first thread is stopped within boto3's own file, where its Session is there and its version is not.
FIRST_CALLS_OF_TWO_THREADS = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from pydantic import SecretStr
from lungline.storage.client import s3_client

half, ended = threading.Event(), threading.Event()

def stop_halfway(frame, event, _):
    names = frame.f_globals
    if names.get("__name__") != "boto3":
        return None
    if event == "line" and "Session" in names and "__version__" not in names and not half.is_set():
        half.set()
        ended.wait(1)
    return stop_halfway

def connect():
    s3_client("http://127.0.0.1:1", "us-east-1", SecretStr("a"), SecretStr("b"))

def first():
    sys.settrace(stop_halfway)
    connect()

def second():
    assert half.wait(60)
    connect()
    ended.set()

with ThreadPoolExecutor(2) as pool:
    for job in [pool.submit(first), pool.submit(second)]:
        job.result()
"""


def test_first_calls_of_two_threads_wait_for_boto3() -> None:
    """A gateway that had just started answered senders that came together with "unable to process"."""
    subprocess.run([sys.executable, "-c", FIRST_CALLS_OF_TWO_THREADS], check=True, timeout=120)
