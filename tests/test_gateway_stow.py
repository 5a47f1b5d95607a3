"""STOW-RS: what DICOMweb clients send becomes uploads as what modalities send does, with the answers of PS3.18."""

import asyncio
import io
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest

from gateway.intake import Intake
from gateway.ledger import Ledger
from gateway.multipart import MultipartMalformed, Parts
from gateway.spool import Spool
from gateway.stow import Stow
from laptop.services.gateway import GatewayService
from laptop.services.process import running
from laptop.services.store import running_store
from lungline.memory import MemoryBudget
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.dicom_files import CT, film, write
from tests.support.dicom_network import HOST, send
from tests.support.lone_services import running_gateway
from tests.support.orthanc import running_orthanc

TYPE = 'multipart/related; type="application/dicom"; boundary=here'
FAILED, REFERENCED, OTHER = "00081198", "00081199", "0008119A"


class Site:
    """A store and the gateway before it."""

    def __init__(self, settings: Settings, gateway: GatewayService) -> None:
        self.gateway = gateway
        self.bucket = settings.uploads_bucket
        self.storage = Storage.from_settings(settings)
        self.studies = f"{gateway.dicomweb}/studies"

    def count(self) -> int:
        """How many uploads there are."""
        return sum(1 for _ in self.storage.list(self.bucket))

    def post(self, body: bytes | Iterator[bytes], study: str = "", **headers: str) -> httpx.Response:
        """A request with the token, unless `headers` have another."""
        named = {"authorization": f"Bearer {self.gateway.token}", "content-type": TYPE}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(self.studies + study, content=body, headers=named, timeout=60)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A store alone."""
    home = tmp_path_factory.mktemp("stow") / "home"
    with running_store(home, Settings.model_validate({"home": home, "image_max_bytes": 2 * 2**20})) as settings:
        yield settings


@pytest.fixture(scope="module")
def site(store: Settings) -> Iterator[Site]:
    """A store with a gateway."""
    with running_gateway(store.home, store) as gateway:
        yield Site(store, gateway)


def body(files: Sequence[bytes], kind: str = "application/dicom") -> bytes:
    parts = (b"--here\r\nContent-Type: " + kind.encode() + b"\r\n\r\n" + data + b"\r\n" for data in files)
    return b"".join(parts) + b"--here--\r\n"


def reasons(answer: httpx.Response, sequence: str) -> list[int]:
    return [item["00081197"]["Value"][0] for item in answer.json()[sequence]["Value"]]


def test_many_instances_are_stored_and_named(site: Site) -> None:
    before, files = site.count(), [write(film(64, seed=seed)) for seed in (1, 2, 3)]
    answer = site.post(body(files), accept="application/dicom+json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom+json")
    named = [item["00081155"]["Value"][0] for item in answer.json()[REFERENCED]["Value"]]
    assert named == [pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID for data in files]
    assert site.count() == before + 3


def test_both_ways_in_give_one_upload(site: Site) -> None:
    """An instance sent by C-STORE and by STOW-RS has the same key."""
    before, data = site.count(), write(film(64, seed=4))
    assert send(site.gateway.ports.gateway, data) == [0]
    assert site.post(body([data])).status_code == 200
    assert site.count() == before + 1


def test_some_failures_are_202_with_their_reasons(site: Site) -> None:
    """Of a CT, an instance over the limit, garbage, and an X-ray, the X-ray is stored."""
    before = site.count()
    files = [write(film(64), storage=CT), write(film(1600)), b"garbage" * 50, write(film(64, seed=5))]
    answer = site.post(body(files))
    assert answer.status_code == 202
    assert reasons(answer, FAILED) == [0x0122]
    assert sorted(reasons(answer, OTHER)) == [0xA700, 0xC000]
    assert len(answer.json()[REFERENCED]["Value"]) == 1
    assert site.count() == before + 1


def test_all_failures_are_the_status_of_their_kind(site: Site) -> None:
    assert site.post(body([write(film(64), storage=CT)])).status_code == 409
    assert site.post(body([write(film(1600))])).status_code == 413
    answer = site.post(body([write(film(64))]), "/1.2.3")
    assert (answer.status_code, reasons(answer, FAILED)) == (409, [0xA900])


def test_study_of_the_address_is_accepted(site: Site) -> None:
    assert site.post(body([write(film(64, seed=6), StudyInstanceUID="1.2.3")]), "/1.2.3").status_code == 200


@pytest.mark.attack
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": ""}, 401),
        ({"accept": "application/dicom+xml"}, 406),
        ({"content_type": "application/dicom"}, 415),
        ({"content_type": 'multipart/related; type="application/dicom+json"; boundary=here'}, 415),
        ({"content_type": 'multipart/related; type="application/dicom"'}, 400),
        ({"content_type": 'multipart/related; type="application/dicom"; boundary=elsewhere'}, 400),
    ],
)
def test_request_that_is_none_is_refused_whole(site: Site, headers: dict[str, str], status: int) -> None:
    before = site.count()
    assert site.post(body([write(film(64, seed=7))]), **headers).status_code == status
    assert site.count() == before


def test_other_methods_and_addresses_are_not_served(site: Site) -> None:
    token = {"authorization": f"Bearer {site.gateway.token}"}
    assert httpx.get(site.studies, headers=token).status_code == 405
    assert httpx.post(f"{site.studies}/1.2/series", headers=token).status_code == 404


@pytest.mark.attack
@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"--here--\r\n",
        body([b"x"])[:-6],
        b"x" * 100_000 + body([b"x"]),
        b"--here\r\nX-Endless: " + b"x" * 100_000,
        b"--here and more\r\n\r\nx\r\n--here--",
        b"--here\r\n\r\n",
    ],
)
def test_bodies_that_break_the_bounds_are_400(site: Site, hostile: bytes) -> None:
    assert site.post(hostile).status_code == 400
    assert not list(site.gateway.home.file("gateway", "spool").iterdir())


def test_sender_that_goes_leaves_nothing(site: Site) -> None:
    head = (
        f"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.gateway.token}\r\n"
        f"Content-Type: {TYPE}\r\nContent-Length: 9999999\r\n\r\n--here\r\n\r\n"
    )
    spool = site.gateway.home.file("gateway", "spool")
    with socket.create_connection((HOST, site.gateway.ports.gateway_web), 10) as connection:
        connection.sendall(head.encode() + b"x" * 100_000)
        _until(lambda: bool(list(spool.iterdir())))
    _until(lambda: not list(spool.iterdir()))


def test_body_that_stops_is_408(tmp_path: Path) -> None:
    """The very application, with a silence of a moment: what has arrived is given back."""
    spool = Spool(tmp_path / "spool", 2**20)
    settings = Settings(home=tmp_path)
    ledger = Ledger(tmp_path / "ledger.db")
    intake = Intake(Storage(), settings, ledger, MemoryBudget(2**20))
    sent: list[dict[str, Any]] = []
    came = iter([{"type": "http.request", "body": b"--here\r\n\r\nsome", "more_body": True}])

    async def receive() -> dict[str, Any]:
        if message := next(came, None):
            return message
        await asyncio.sleep(60)
        raise AssertionError

    async def answer(message: MutableMapping[str, Any]) -> None:
        sent.append(dict(message))

    headers = [(b"authorization", b"Bearer t"), (b"content-type", TYPE.encode())]
    scope = {"type": "http", "method": "POST", "path": "/dicom-web/studies", "headers": headers}
    asyncio.run(Stow(intake, spool, "t", silence_seconds=0.05)(scope, receive, answer))
    ledger.close()
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]
    assert not list(spool.folder.iterdir())


def test_an_object_that_fails_in_an_unforeseen_way_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its sender got the failure, and nothing said why: pynetdicom, whose log is off, had caught the exception."""
    ledger, storage = Ledger(tmp_path / "ledger.db"), Storage()
    monkeypatch.setattr(storage, "put_once", lambda *_: 1 // 0)
    intake = Intake(storage, Settings(home=tmp_path), ledger, MemoryBudget(2**20))
    receipt = intake.take(write(film(64)), "stow")
    ledger.close()
    assert receipt.outcome == "failed"
    assert [each.exc_info[0] for each in caplog.records if each.exc_info] == [ZeroDivisionError]


def _until(condition: object, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_store_that_is_down_is_503(tmp_path: Path) -> None:
    """So that the sender tries again."""
    home = tmp_path / "home"
    with running_store(home, Settings(home=home)) as settings:
        service = GatewayService.of(home, settings)
    with running(service, service.home.log("gateway")):
        answer = Site(settings, service).post(body([write(film(64))]))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")


def test_killed_gateway_loses_nothing_and_keeps_nothing_twice(tmp_path: Path) -> None:
    """Killed in the middle of a request, twice: whoever got no answer sends it again."""
    home, files = tmp_path / "home", [write(film(64, seed=seed)) for seed in range(24)]
    with running_store(home, Settings(home=home)) as settings:
        service, storage = GatewayService.of(home, settings), Storage.from_settings(settings)
        for number in (3, 20, len(files)):
            is_killed = threading.Event()
            with running(service, service.home.log("gateway")) as process, ThreadPoolExecutor(1) as sender:
                assert not list(service.home.file("gateway", "spool").iterdir())
                if number == len(files):
                    assert Site(settings, service).post(body(files)).status_code == 200
                    break
                answer = sender.submit(Site(settings, service).post, _until_killed(files[: number + 1], is_killed))
                _until(lambda number=number: len(list(storage.list(settings.uploads_bucket))) == number)
                os.kill(process.pid, signal.SIGKILL)
                is_killed.set()
                with pytest.raises(httpx.TransportError):
                    answer.result(60)
        keys = [info.key for info in storage.list(settings.uploads_bucket)]
        assert len(keys) == len(files)
        assert {storage.get(settings.uploads_bucket, key).data for key in keys} == set(files)


def _until_killed(files: Sequence[bytes], is_killed: threading.Event) -> Iterator[bytes]:
    """A body whose last part does not end before the kill."""
    yield body(files).removesuffix(b"\r\n--here--\r\n")
    is_killed.wait(60)
    yield b"--here--"


def test_orthanc_sends_by_its_dicomweb_plugin(site: Site, tmp_path: Path) -> None:
    server = {"Url": f"{site.gateway.dicomweb}/", "HttpHeaders": {"Authorization": f"Bearer {site.gateway.token}"}}
    options = {"DicomWeb": {"Enable": True, "Root": "/dicom-web/", "Servers": {"lungline": server}}}
    before = site.count()
    with running_orthanc(tmp_path / "orthanc", options=options) as orthanc, orthanc.http as http:
        ids = [orthanc.add(write(film(64, seed=seed))) for seed in (11, 12)]
        answer = http.post("/dicom-web/servers/lungline/stow", json={"Resources": ids, "Synchronous": True}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert site.count() == before + 2


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_parts_are_the_same_however_they_arrive(size: int) -> None:
    """Also with a boundary's beginning in the data, and a part without headers."""
    data = [b"\r\n--her\r\n--", b"", b"x" * 50 + b"\r\n"]
    whole = b"preamble\r\n" + body(data)[:-10] + b"--here  \r\n\r\nbare\r\n--here--epilogue"
    parts, seen = Parts("here"), [b""]
    for at in range(0, len(whole), size):
        for kind, value in parts.feed(whole[at : at + size]):
            if kind == "data":
                seen[-1] += value if isinstance(value, bytes) else b""
            elif kind == "end":
                seen.append(b"")
    assert seen == [*data, b"bare", b""]
    assert parts.is_complete


def test_boundary_followed_by_text_is_malformed() -> None:
    with pytest.raises(MultipartMalformed):
        list(Parts("here").feed(b"--hereafter" + b"x" * 100))
