"""The broker's log as the broker sees it: a store for objects, of which it uses a part."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from xml.etree import ElementTree as ET

import httpx
import pytest

from laptop.services import broker_log_server, broker_log_writer
from laptop.services.broker_log import BrokerLog, Change, fill
from laptop.services.broker_log_requests import BUCKET
from laptop.services.broker_log_server import Access, Server
from laptop.services.broker_log_writer import Writer
from laptop.services.private_network import BACKLOG
from lungline.home import sync_folder
from lungline.listening import listen
from lungline.network import HOST
from tests.support.object_store import free_ports
from tests.support.small_disk import full, small_disk
from tests.support.waiting import eventually

NAMESPACE = {"s3": "http://s3.amazonaws.com/doc/2006-03-01/"}


class Place:
    """A server that runs in a thread, and a client that knows its key."""

    def __init__(self, path: Path, access: Access) -> None:
        self.path = path
        self.access = access
        self.address = f"http://{HOST}:{access.port}/{BUCKET}"
        credential = f"AWS4-HMAC-SHA256 Credential={access.key}/20260101/us-east-1/s3/aws4_request, Signature=0"
        self.client = httpx.Client(headers={"authorization": credential}, timeout=20)

    def put(self, key: str, data: bytes, **conditions: str) -> httpx.Response:
        headers = {name.replace("_", "-"): value for name, value in conditions.items()}
        return self.client.put(f"{self.address}/{key}", content=data, headers=headers)

    def get(self, key: str, **conditions: str) -> httpx.Response:
        headers = {name.replace("_", "-"): value for name, value in conditions.items()}
        return self.client.get(f"{self.address}/{key}", headers=headers)

    def listed(self, **query: str) -> tuple[list[str], list[str], str]:
        """Keys, folders, and where the next page begins."""
        page = ET.fromstring(self.client.get(self.address, params={"list-type": "2", **query}).content)
        keys = [each.text or "" for each in page.findall("s3:Contents/s3:Key", NAMESPACE)]
        folders = [each.text or "" for each in page.findall("s3:CommonPrefixes/s3:Prefix", NAMESPACE)]
        return keys, folders, page.findtext("s3:NextContinuationToken", "", NAMESPACE)


@contextmanager
def serving(path: Path) -> Iterator[Place]:
    (port,) = free_ports(1)
    access, listener = Access(port), listen(HOST, port, BACKLOG)
    begun, loop, ended = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        with closing(Server(path, access)) as server:
            await server.serve(listener)
            begun.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert begun.wait(10)
        place = Place(path, access)
        yield place
        place.client.close()
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(20)
        listener.close()
        loop.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with serving(tmp_path / "log.db") as place:
        yield place


def test_an_object_is_made_once_and_changed_by_who_saw_it_last(place: Place) -> None:
    first = place.put("a/ü + 100%25", b"first", if_none_match="*")
    assert first.status_code == 200
    assert place.put("a/ü + 100%25", b"other", if_none_match="*").status_code == 412
    second = place.put("a/ü + 100%25", b"second", if_match=first.headers["etag"])
    assert second.status_code == 200
    assert place.put("a/ü + 100%25", b"third", if_match=first.headers["etag"]).status_code == 412
    assert place.put("b", b"new", if_match=first.headers["etag"]).status_code == 412
    read = place.get("a/ü + 100%25")
    assert (read.content, read.headers["etag"]) == (b"second", second.headers["etag"])
    assert place.get("a/ü + 100%25", if_none_match=second.headers["etag"]).status_code == 304
    assert place.get("a/ü + 100%25", if_none_match=first.headers["etag"]).content == b"second"
    head = place.client.head(f"{place.address}/a/ü + 100%25")
    assert (head.status_code, head.headers["content-length"]) == (200, "6")
    assert place.get("b").status_code == 404
    assert place.client.delete(f"{place.address}/a/ü + 100%25").status_code == 204
    assert place.get("a/ü + 100%25").status_code == 404


def test_of_many_who_make_an_object_at_once_one_does(place: Place) -> None:
    with ThreadPoolExecutor(16) as pool:
        codes = list(
            pool.map(lambda number: place.put("once", bytes([number]), if_none_match="*").status_code, range(64))
        )
    assert sorted(codes) == [200] + [412] * 63
    assert len(place.get("once").content) == 1


def test_lists_are_in_order_in_pages_and_by_folder(place: Place) -> None:
    keys = [f"of/{number:05}.batch" for number in range(2300)]
    with closing(BrokerLog(place.path)) as log:
        log.write([Change(key, b"x") for key in (*keys, "of.", "of0", "other/a/b", "other/c")])
    first, _, token = place.listed(prefix="of/")
    second, _, token = place.listed(prefix="of/", **{"continuation-token": token})
    third, _, last = place.listed(prefix="of/", **{"continuation-token": token})
    assert [*first, *second, *third] == keys
    assert last == ""
    assert place.listed(prefix="of/", **{"start-after": keys[2297]})[0] == keys[2298:]
    assert place.listed(prefix="other/", delimiter="/") == (["other/c"], ["other/a/"], "")
    wanted = "".join(f"<Object><Key>{key}</Key></Object>" for key in keys[:2299])
    body = f'<Delete xmlns="{NAMESPACE["s3"]}">{wanted}</Delete>'
    assert place.client.post(place.address, params={"delete": ""}, content=body).status_code == 200
    assert place.listed(prefix="of/")[0] == keys[2299:]


def test_keys_lead_to_no_other_file(place: Place, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    for key in ("%2e%2e/%2e%2e/out", "%2Fetc/out", "a%00b", "%2e"):
        assert place.put(key, b"x").status_code == 200
        assert place.get(key).content == b"x"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (b"PUT /log/a HTTP/1.1\r\nContent-Length: 99999999999\r\n", b"413"),
        (b"PUT /log/a HTTP/1.1\r\nContent-Length: -1\r\n", b"400"),
        (b"PUT /log/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", b"400"),
        (b"GET /other/a HTTP/1.1\r\n", b"404"),
        (b"PATCH /log/a HTTP/1.1\r\n", b"405"),
        (b"POST /log?delete HTTP/1.1\r\nContent-Length: 1\r\n", b"400"),
        (b"noise\r\n", b"400"),
        (b"X: " + b"x" * 20_000, b"431"),
    ],
)
def test_what_the_broker_never_asks_is_refused(place: Place, head: bytes, code: bytes) -> None:
    key = f"Authorization: AWS4-HMAC-SHA256 Credential={place.access.key}/x\r\n\r\n".encode()
    assert exchanged(place, head + key + b"<").split(b" ")[1] == code
    assert place.put("a", b"goes on").status_code == 200


def test_who_does_not_know_the_key_reads_and_writes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.put("a", b"secret")
    for credential in (
        {},
        {"authorization": "AWS4-HMAC-SHA256 Credential=guess/x"},
        {"authorization": place.access.key},
    ):
        for method, path in (("GET", "/a"), ("PUT", "/a"), ("GET", ""), ("DELETE", "/a"), ("POST", "?delete")):
            assert httpx.request(method, place.address + path, headers=credential).status_code == 403
    assert place.get("a").content == b"secret"
    monkeypatch.setattr(broker_log_server, "STRANGER_SECONDS", 0.2)
    assert exchanged(place, b"GET /log/a HT") == b"", "who says nothing is hung up on"


def test_strangers_keep_no_place_from_the_broker(place: Place) -> None:
    strangers = [socket.create_connection((HOST, place.access.port), 5) for _ in range(100)]
    assert place.put("a", b"x").status_code == 200
    for each in strangers:
        each.close()


def exchanged(place: Place, data: bytes) -> bytes:
    """What is answered to some bytes."""
    with socket.create_connection((HOST, place.access.port), 5) as connection:
        connection.sendall(data)
        return connection.recv(4096)


def test_writes_that_wait_share_a_sync(tmp_path: Path) -> None:
    async def attempt() -> int:
        with closing(Writer(tmp_path / "log.db")) as writer:
            await asyncio.gather(*(writer.write([Change(f"{number}", b"x")]) for number in range(100)))
            return writer.transactions

    assert asyncio.run(attempt()) <= 2


def test_the_journal_is_kept_short_while_others_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_log_writer, "TIDY_SECONDS", 0.01)

    async def attempt() -> None:
        with closing(Writer(tmp_path / "log.db")) as writer:
            tidying = asyncio.create_task(writer.keep_tidy(lambda _: None))
            for number in range(600):
                await writer.write([Change(f"{number % 3}/watermark.json", b"x" * 20_000)])
            tidying.cancel()

    asyncio.run(attempt())
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 4_000_000, "of 12 MB that were written"


def test_a_full_disk_is_said_and_nothing_is_half_written(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small") as folder, serving(folder / "log.db") as place:
        assert place.put("before", b"x").status_code == 200
        with full(folder):
            assert place.put("large", b"x" * 2_000_000).status_code == 507
            assert place.get("large").status_code == 404
            assert place.get("before").content == b"x"
        assert place.put("large", b"x" * 2_000_000).status_code == 200


WRITING = (
    "import sys, pathlib\n"
    "from laptop.services.broker_log import BrokerLog, Change\n"
    "log, number = BrokerLog(pathlib.Path(sys.argv[1])), 0\n"
    "while True:\n"
    "    log.write([Change('watermark.json', b'%d' % number)])\n"
    "    log.write([Change('%06d.batch' % number, b'x' * 5000)])\n"
    "    print(number, flush=True)\n"
    "    number += 1\n"
)


def test_what_was_acknowledged_outlives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with subprocess.Popen([sys.executable, "-c", WRITING, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout
        acknowledged = [int(process.stdout.readline()) for _ in range(40)]
        process.kill()
        acknowledged += map(int, process.stdout.read().split(b"\n")[:-1])
    with closing(BrokerLog(path)) as log:
        assert [listed.key for listed in log.listed("0")][: len(acknowledged)] == [
            f"{n:06}.batch" for n in acknowledged
        ]
        mark = log.get("watermark.json")
        assert mark
        assert int(mark.data) >= acknowledged[-1]


def test_versions_never_come_again(tmp_path: Path) -> None:
    with closing(BrokerLog(tmp_path / "log.db")) as log:
        (first,) = log.write([Change("a", b"x")])
        log.remove(["a"])
    with closing(BrokerLog(tmp_path / "log.db")) as log:
        (second,) = log.write([Change("a", b"x")])
        assert (first or 0) < (second or 0)
        assert log.write([Change("a", b"y", first)]) == [None]


def test_a_log_is_filled_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[str, bytes]]:
        yield "a", b"1"
        raise ConnectionError

    path = tmp_path / "log.db"
    with pytest.raises(ConnectionError):
        fill(path, broken(), sync_folder)
    assert not path.exists()
    assert fill(path, [("a", b"1"), ("b", b"2")], sync_folder) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["log.db"]
    with closing(BrokerLog(path)) as log:
        assert [listed.key for listed in log.listed("")] == ["a", "b"]
    eventually(lambda: not list(tmp_path.glob("*-wal")))
