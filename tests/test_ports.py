"""Ports do not change hands: the supervisor opens the sockets, and each new process of a service inherits them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from laptop import stack
from laptop.home.ports import Ports, load_ports
from laptop.services.process import Process
from laptop.services.service import Command
from laptop.supervision.assembly import assembled
from laptop.supervision.listeners import claim, open_listeners
from lungline import listening
from lungline.errors import StackError
from lungline.home import Home
from lungline.listening import handed_on, listen
from lungline.network import HOST
from lungline.settings import Settings
from tests.support.dicom_network import echo
from tests.support.object_store import free_ports
from tests.support.waiting import eventually

# It takes a port if it can, in each of the ways that a system may allow.
SQUATTER = """
import errno, socket, sys, time
ports, seconds = [int(port) for port in sys.argv[2:]], float(sys.argv[1])
print("ready", flush=True)
deadline = time.monotonic() + seconds
while time.monotonic() < deadline:
    for port in ports:
        for address in ("127.0.0.1", "0.0.0.0"):
            for option in (None, socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                with socket.socket() as made:
                    if option:
                        made.setsockopt(socket.SOL_SOCKET, option, 1)
                    try:
                        made.bind((address, port))
                        made.listen()
                    except OSError as exc:
                        assert exc.errno == errno.EADDRINUSE, exc
                    else:
                        print("took", port, address, flush=True)
                        sys.exit(1)
"""
ECHO = """
import sys
from lungline.listening import listen
server = listen("127.0.0.1", int(sys.argv[1]))
while True:
    client, _ = server.accept()
    client.sendall(sys.argv[2].encode())
    client.close()
"""


def squatter(seconds: float, *ports: int) -> "subprocess.Popen[str]":
    """A program of another user, where this one may become it, that tries to take some ports."""
    python = shutil.which("python3", path="/usr/bin:/bin") or sys.executable  # which every user may run
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    prefix = become if os.geteuid() == 0 and shutil.which("setpriv") else []
    command = [*prefix, python, "-c", SQUATTER, str(seconds), *map(str, ports)]
    process = subprocess.Popen(command, cwd="/", stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process: "subprocess.Popen[str]") -> str:
    """What the squatter says of the ports that it took."""
    assert process.stdout
    with process.stdout as output:
        text = output.read()  # it ends by itself; `communicate` would lose what was read together with the first line
    assert process.wait(60) == (1 if text else 0)
    return text


def greeting(port: int) -> bytes:
    with socket.create_connection((HOST, port), 10) as client:
        return client.recv(10)


def test_a_squatter_takes_a_port_that_nobody_holds() -> None:
    (port,) = free_ports(1)
    assert ended(squatter(5, port)) == f"took {port} {HOST}\n"


def test_a_client_waits_for_the_next_process_and_meets_no_other(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with listen(HOST, port) as listener:

        def begin(word: str) -> Process:
            command = Command((sys.executable, "-c", ECHO, str(port), word), os.environ, tmp_path)
            return Process(command, 1, [listener])

        first = begin("first")
        assert greeting(port) == b"first"
        thief = squatter(3, port)
        first.signal(signal.SIGKILL)
        first.stop(0)
        with socket.create_connection((HOST, port), 10) as waiting:
            waiting.settimeout(0.3)
            with pytest.raises(TimeoutError):
                waiting.recv(10)
            second = begin("second")
            waiting.settimeout(20)
            assert waiting.recv(10) == b"second"
        assert ended(thief) == ""
        second.stop(0)
    with pytest.raises(ConnectionRefusedError):
        greeting(port)


def test_only_a_listening_socket_at_the_address_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    right, other = free_ports(2)
    read, write = os.pipe()
    with listen(HOST, right) as held, listen(HOST, other) as elsewhere, socket.socket() as idle:
        numbers = [read, idle.fileno(), elsewhere.fileno(), os.dup(held.fileno())]
        monkeypatch.setenv(listening.VARIABLE, ",".join(map(str, [*numbers, 10_000, "x"])))
        with listen(HOST, right) as taken:
            assert taken.fileno() == numbers[-1]
            assert not taken.get_inheritable()
        assert elsewhere.getsockname()[1] == other, "what was not meant stays open"
        with pytest.raises(StackError, match=rf"^Port {right} of {HOST} cannot be listened on: Address already in use"):
            listen(HOST, right)
    os.close(read)
    os.close(write)
    assert handed_on([]) == {}


class Listening:
    """A service of which only the ports matter."""

    def __init__(self, *ports: int) -> None:
        self.listens = ports


def test_a_port_taken_at_the_last_moment_is_chosen_anew() -> None:
    first, taken, third = free_ports(3)
    chosen = [taken, third]

    def assemble() -> object:
        class Stack:
            services = (Listening(first), Listening(chosen.pop(0)))

        return Stack()

    with socket.create_server((HOST, taken)):
        _, listeners = claim(assemble)  # pyright: ignore[reportArgumentType] - only its services matter
        assert set(listeners) == {first, third}
        for each in listeners.values():
            each.close()
        with pytest.raises(StackError):
            open_listeners([Listening(first), Listening(taken)])  # pyright: ignore[reportArgumentType]
        with listen(HOST, first):
            pass  # it was not left open


@pytest.mark.stack
@pytest.mark.attack
def test_no_port_of_a_stack_can_be_taken_while_its_services_are_killed(stack_settings: Settings) -> None:
    """As another user: all ports, at the moment that each service is killed, and while it starts again."""
    home = Home(stack_settings.home)
    ports = load_ports(home)
    assert isinstance(ports, Ports)
    services = assembled(home, stack_settings).services
    held = sorted({port for service in services for port in service.listens} | {ports.supervisor_metrics})
    assert {ports.s3, ports.filer_grpc, ports.broker, ports.predictor, ports.worklist, ports.gateway} < set(held)
    names = ["predictor", "gateway", "worklist", "broker", "store", "bridge", "trigger"]
    before = stack.status(stack_settings)
    thief = squatter(12, *held)
    for name in names:
        pid = before.service(name).pid
        assert pid
        os.kill(pid, signal.SIGTERM if name in {"gateway", "worklist"} else signal.SIGKILL)  # an orderly end, too
        if name == "predictor":  # a client that comes now waits, and is answered by the next process
            begun = time.monotonic()
            url = f"http://{HOST}:{ports.predictor}/v2/health/live"
            assert httpx.get(url, timeout=30).status_code == 200
            assert time.monotonic() - begun < 20
        if name == "gateway":
            assert echo(ports.gateway) == 0
    eventually(lambda: all(_is_back(stack_settings, before.service(name).restarts, name) for name in names), 60)
    assert ended(thief) == ""


def _is_back(settings: Settings, restarts: int, name: str) -> bool:
    service = stack.status(settings).service(name)
    return service.restarts > restarts and service.state == "ready"
