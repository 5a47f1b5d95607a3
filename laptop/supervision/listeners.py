"""The sockets at which the services listen, opened once: from `up` to `down` no other program gets their ports."""

import contextlib
import socket
from collections.abc import Callable, Iterable

from laptop.services.service import Service
from laptop.supervision.assembly import Assembly
from lungline.errors import StackError
from lungline.listening import listen
from lungline.network import HOST

Listeners = dict[int, socket.socket]
# Between the choice of a free port and its opening another program may take it; the next choice is another port.
ATTEMPTS = 5


def claim(assemble: Callable[[], Assembly]) -> tuple[Assembly, Listeners]:
    """A stack and its open sockets by port. Raises StackError when its ports are taken again and again."""
    for _ in range(ATTEMPTS - 1):
        assembly = assemble()
        with contextlib.suppress(StackError):
            return assembly, open_listeners(assembly.services)
    assembly = assemble()
    return assembly, open_listeners(assembly.services)


def open_listeners(services: Iterable[Service]) -> Listeners:
    """A socket for each port of the services. Raises StackError when one is taken; then none is left open."""
    opened: Listeners = {}
    try:
        for port in (port for service in services for port in service.listens):
            opened[port] = listen(HOST, port)
    except StackError:
        for each in opened.values():
            each.close()
        raise
    return opened
