"""Listening sockets that are opened once and handed on, so that a port never changes hands while its server restarts.

The laptop's supervisor opens the sockets and every new process of a service inherits them. While a service is down, the
kernel keeps the connections of its clients: they wait for the next process, and never meet another program.
"""

import os
import socket
from collections.abc import Iterator, Sequence

from lungline.errors import StackError

VARIABLE = "LISTENING_SOCKETS"
"""The variable with the descriptors handed on, separated by commas."""
BACKLOG = 128
"""Clients that wait while nobody accepts them; more are kept waiting by their own systems, which ask again."""


def listen(host: str, port: int, backlog: int = BACKLOG) -> socket.socket:
    """The socket that was handed on for an address, else a new one. Raises StackError when the port is taken."""
    for candidate in _inherited():
        if _is_at(candidate, host, port):
            candidate.set_inheritable(False)
            candidate.listen(backlog)
            return _prompt(candidate)
        candidate.detach()
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return _prompt(socket.create_server((host, port), family=family, backlog=backlog))
    except OSError as exc:
        raise StackError(f"Port {port} of {host} cannot be listened on: {exc.strerror}.") from exc


def _prompt(listener: socket.socket) -> socket.socket:
    """The listener, whose connections send what they have at once.

    They inherit that. asyncio asks for it only where a socket names its protocol, which these do not; without it the
    second part of an answer waits up to 40 ms for a client that acknowledges late.
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def handed_on(sockets: Sequence[socket.socket]) -> dict[str, str]:
    """The environment in which `listen` finds these sockets; the process must inherit their descriptors."""
    return {VARIABLE: ",".join(str(each.fileno()) for each in sockets)} if sockets else {}


def _inherited() -> Iterator[socket.socket]:
    for number in os.environ.get(VARIABLE, "").split(","):
        try:
            yield socket.socket(fileno=int(number))
        except (OSError, ValueError):  # no descriptor, or no socket
            continue


def _is_at(candidate: socket.socket, host: str, port: int) -> bool:
    try:
        listens = candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return bool(listens) and candidate.getsockname()[:2] == (host, port)
    except OSError:
        return False
