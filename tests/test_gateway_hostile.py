"""What no honest sender sends leaves the gateway standing, its memory bounded, and its spool empty."""

import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from laptop.services.gateway import GatewayService
from laptop.services.process import running
from laptop.services.store import running_store
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.dicom_files import DX, film, write
from tests.support.dicom_network import HOST, RawAssociation, send
from tests.support.waiting import eventually

MEGABYTE = 2**20


class Target:
    """A gateway under attack."""

    def __init__(self, service: GatewayService, pid: int, settings: Settings) -> None:
        self.service, self.port, self.settings = service, service.ports.gateway, settings
        self.process = psutil.Process(pid)

    def is_alive(self) -> bool:
        """Whether it takes an X-ray within a few seconds."""
        start = time.monotonic()
        return send(self.port, write(film(64))) == [0] and time.monotonic() - start < 5

    def peak(self) -> int:
        """The most memory that it has ever held."""
        (line,) = [line for line in Path(f"/proc/{self.process.pid}/status").read_text().split("\n") if "VmHWM" in line]
        return int(line.split()[1]) * 1024

    def spooled(self) -> int:
        """Files in the spool."""
        return len(list(self.service.home.file("gateway", "spool").iterdir()))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A gateway with small limits: images of 2 MB, a spool of 8 MB, 8 associations."""
    home = tmp_path_factory.mktemp("hostile") / "home"
    limits = {
        "image_max_bytes": 2 * MEGABYTE,
        "gateway": {"spool_bytes": 8 * MEGABYTE, "associations": 8},
    }
    with running_store(home, Settings.model_validate({"home": home} | limits)) as settings:
        service = GatewayService.of(home, settings)
        with running(service, service.home.log("gateway")) as process:
            yield Target(service, process.pid, settings)


@pytest.fixture(autouse=True)
def _survives(target: Target) -> Iterator[None]:
    """After every attack it goes on, holds no more memory, and has nothing left in its spool."""
    yield
    assert target.is_alive()
    eventually(lambda: target.spooled() == 0, 20)
    assert target.process.memory_info().rss < 300 * MEGABYTE


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 4096, b"\x16\x03\x01" + b"\xff" * 500, bytes(range(256)) * 8],
)
def test_garbage_ends_the_connection(target: Target, garbage: bytes) -> None:
    with socket.create_connection((HOST, target.port), 10) as connection:
        connection.settimeout(15)
        connection.sendall(garbage)
        with suppress(ConnectionError):
            while connection.recv(4096):
                pass


@pytest.mark.parametrize("kind", [1, 4, 7])
def test_pdu_with_an_impossible_length_ends_the_connection(target: Target, kind: int) -> None:
    """Four gigabytes are claimed, and none is waited for."""
    with socket.create_connection((HOST, target.port), 10) as connection:
        connection.settimeout(15)
        connection.sendall(struct.pack(">BBL", kind, 0, 0xFFFFFFFF) + b"\0" * 1000)
        with suppress(ConnectionError):
            while connection.recv(4096):
                pass


def test_length_beyond_the_end_of_a_fragment_ends_the_association(target: Target) -> None:
    association = RawAssociation(target.port, DX)
    association.store_command()
    association.socket.sendall(struct.pack(">BBL", 4, 0, 12) + struct.pack(">LBB", 0xFFFF, 1, 0) + b"\0" * 6)
    association.socket.settimeout(20)
    assert association.status() is None
    association.close()


def test_aborted_objects_leave_nothing(target: Target) -> None:
    """Twenty senders go away in the middle of an object."""
    for _ in range(20):
        association = RawAssociation(target.port, DX)
        association.store_command()
        association.fragment(0, b"\0" * 8000)
        association.close()


def test_endless_command_ends_the_association(target: Target) -> None:
    association = RawAssociation(target.port, DX)
    association.socket.settimeout(20)
    with suppress(ConnectionError):
        for _ in range(100):
            association.fragment(1, b"\0" * 10_000)
    assert association.status() is None
    association.close()


def test_huge_object_is_refused_by_its_status(target: Target) -> None:
    """Of 200 MB at most the limit of 2 MB is kept, and the sender learns why."""
    association = RawAssociation(target.port, DX)
    association.socket.settimeout(60)
    association.store_command()
    for _ in range(200 * MEGABYTE // 100_000):
        association.fragment(0, b"\0" * 100_000)
    association.fragment(2, b"\0")
    assert association.status() == 0xA700
    association.close()


@pytest.mark.parametrize("parts", [1, 40])
def test_huge_store_request_is_refused_by_its_status(target: Target, parts: int) -> None:
    """200 MB that curl streams, as one object or as many, every one over the limit; memory stays as it was."""
    before = target.peak()
    assert stream(target, 200 * MEGABYTE, parts) == "413"
    assert target.peak() - before < 30 * MEGABYTE


def stream(target: Target, size: int, parts: int) -> str:
    """The status of a store request of zeros in these parts, whose length nobody says before."""
    kind = 'content-type: multipart/related; type="application/dicom"; boundary=here'
    command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST", "-T", "-", "-m", "300", "-H", kind]
    command += ["-H", f"authorization: Bearer {target.service.token}", f"{target.service.dicomweb}/studies"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as curl:
        assert curl.stdin
        for _ in range(parts):
            curl.stdin.write(b"--here\r\n\r\n")
            for _ in range(size // parts // MEGABYTE):
                curl.stdin.write(bytes(MEGABYTE))
            curl.stdin.write(b"\r\n")
        return curl.communicate(b"--here--\r\n", 300)[0].decode()


def test_full_spool_refuses_by_status(target: Target) -> None:
    """Slow senders that fill the spool cost others a retry, not the gateway its disk."""
    slow = [RawAssociation(target.port, DX) for _ in range(4)]
    for association in slow:
        association.store_command()
        for _ in range(21):
            association.fragment(0, b"\0" * 95_000)
    eventually(lambda: target.spooled() == 4)
    eventually(lambda: "out-of-resources" in str(_statuses(target)))
    for association in slow:
        association.close()
    eventually(lambda: target.spooled() == 0)


def _statuses(target: Target) -> str:
    status = send(target.port, write(film(700)))
    return "out-of-resources" if status == [0xA700] else str(status)


def test_silent_connections_make_way(target: Target) -> None:
    """A hundred connections that say nothing shut nobody out."""
    silent: list[socket.socket] = []
    for _ in range(100):
        with suppress(OSError):
            silent.append(socket.create_connection((HOST, target.port), 5))
    assert target.is_alive()
    for connection in silent:
        connection.close()


def test_many_small_objects_are_all_answered(target: Target) -> None:
    """A flood of tiny objects on several associations gets a status each."""
    before = len(list(_uploads(target)))
    data = [write(film(32, seed=seed)) for seed in range(40)]
    statuses: list[list[int]] = []
    threads = [threading.Thread(target=lambda: statuses.append(send(target.port, *data))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert statuses == [[0] * 40] * 4
    assert len(list(_uploads(target))) - before == 40


def test_pipelined_objects_wait_for_the_store(target: Target) -> None:
    """A sender that does not wait for answers is slowed down: the spool never holds its flood."""
    association = RawAssociation(target.port, DX)
    association.socket.settimeout(60)
    most = 0

    def flood() -> None:
        with suppress(OSError):
            for _ in range(200):
                association.store_command()
                association.fragment(2, b"\0" * 20_000)

    thread = threading.Thread(target=flood)
    thread.start()
    answers = 0
    while answers < 200:
        assert association.status() is not None
        answers += 1
        most = max(most, target.spooled())
    thread.join(30)
    association.close()
    assert most <= 4


def test_tls_without_a_certificate_is_refused(target: Target) -> None:
    """A TLS client on the plain port gets an end, not a hang."""
    with socket.create_connection((HOST, target.port), 10) as connection:
        connection.settimeout(20)
        with pytest.raises((ssl.SSLError, ConnectionError, TimeoutError)):
            ssl._create_unverified_context().wrap_socket(connection)  # noqa: SLF001 - the test is the attacker


def _uploads(target: Target) -> Iterator[str]:
    storage = Storage.from_settings(target.settings)
    return (info.key for info in storage.list(target.settings.uploads_bucket))
