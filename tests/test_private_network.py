"""A server in a network of its own, and in the machine's where there can be none."""

import os
import socket
import sys
import threading
from contextlib import suppress

import pytest

from laptop.services import private_network
from laptop.services.private_network import PrivateNetwork, Program
from lungline.network import HOST
from tests.support.object_store import free_ports
from tests.support.waiting import eventually

# It answers each connection with what the lent port says.
ECHO = (
    "import socket, sys\n"
    "server = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
    "while True:\n"
    "    client, _ = server.accept()\n"
    "    client.sendall(b'here')\n"
    "    client.close()\n"
)


def answer(made: socket.socket, port: int) -> bytes:
    with made:
        made.settimeout(5)
        if made.connect_ex((HOST, port)):
            return b""
        with suppress(ConnectionResetError):  # it ends just now
            return made.recv(10)
        return b""


@pytest.mark.parametrize("allowed", [True, False])
def test_a_server_is_reached_through_its_network(monkeypatch: pytest.MonkeyPatch, *, allowed: bool) -> None:
    def refuse() -> None:
        raise PermissionError

    if not allowed:  # as on macOS, and on Linux where ordinary users may make no namespace
        monkeypatch.setattr(private_network, "_leave_network", refuse)
    (port,) = free_ports(1)
    network = PrivateNetwork.start(Program((sys.executable, "-c", ECHO, str(port)), os.environ, port))
    try:
        eventually(lambda: answer(network.socket(), port) == b"here")
        assert answer(socket.socket(), port) == (b"" if network.is_private else b"here")
        assert allowed or not network.is_private
    finally:
        network.end()
    eventually(lambda: answer(socket.socket(), port) == b"")


# It answers with what our own process says at the port that it was lent.
ASK = (
    "import socket, sys\n"
    "server = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
    "while True:\n"
    "    client, _ = server.accept()\n"
    "    with socket.create_connection(('127.0.0.1', int(sys.argv[2])), 5) as lent:\n"
    "        client.sendall(lent.recv(10))\n"
    "    client.close()\n"
)


@pytest.mark.parametrize("allowed", [True, False])
def test_a_server_reaches_the_port_that_it_is_lent(monkeypatch: pytest.MonkeyPatch, *, allowed: bool) -> None:
    def refuse() -> None:
        raise PermissionError

    if not allowed:
        monkeypatch.setattr(private_network, "_leave_network", refuse)
    port, lent = private_network.free_ports(2)
    network = PrivateNetwork.start(Program((sys.executable, "-c", ASK, str(port), str(lent)), os.environ, port, lent))
    try:
        assert network.lent
        threading.Thread(target=_answer_all, args=(network.lent,), daemon=True).start()
        eventually(lambda: answer(network.socket(), port) == b"lent")
        assert answer(socket.socket(), lent) == (b"" if network.is_private else b"lent"), "others reach it not, or too"
    finally:
        network.end()


def _answer_all(listener: socket.socket) -> None:
    with suppress(OSError):  # it is closed at the end
        while True:
            client, _ = listener.accept()
            with client:
                client.sendall(b"lent")
