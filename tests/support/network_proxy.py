"""A network between browser and server that can go away in every way a network can."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["pass", "silent", "refuse", "buffer", "late"]


@dataclass
class Network:
    """A TCP proxy; `mode` may change at any moment.

    silent: nothing gets through and there is no error. refuse: connections break. buffer: event streams are held back,
    other responses pass. late: event streams pass after `delay` seconds.
    """

    url: str
    mode: Mode = "pass"
    delay: float = 40.0
    streams: list[float] = field(default_factory=list)


@contextmanager
def running_network(server: str) -> Iterator[Network]:
    """A proxy in front of a server at `http://127.0.0.1:port`, until the context ends."""
    port = int(server.rpartition(":")[2])
    listener = socket.create_server(("127.0.0.1", 0))
    network = Network(f"http://127.0.0.1:{listener.getsockname()[1]}")
    stopping = threading.Event()
    pumps: list[threading.Thread] = []

    def accept() -> None:
        while not stopping.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            if network.mode == "refuse":
                client.close()
                continue
            try:
                upstream = socket.create_connection(("127.0.0.1", port))
            except OSError:
                client.close()
                continue
            for source, target in ((client, upstream), (upstream, client)):
                pump = threading.Thread(target=_pump, args=(source, target, network, stopping), daemon=True)
                pump.start()
                pumps.append(pump)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield network
    finally:
        stopping.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        listener.close()
        for pump in pumps:
            pump.join(5)


def _pump(source: socket.socket, target: socket.socket, network: Network, stopping: threading.Event) -> None:
    is_stream = False
    held: list[tuple[float, bytes]] = []
    with contextlib.suppress(OSError), source, target:  # the other direction may have closed them
        source.settimeout(0.1)
        while not stopping.is_set() and network.mode != "refuse":
            with contextlib.suppress(TimeoutError):
                data = source.recv(65536)
                if not data:
                    return
                is_stream = b"content-type: text/event-stream" in data if data.startswith(b"HTTP/1.1") else is_stream
                held.append((time.monotonic(), data))
            while held and _passes(network, held[0][0], is_stream=is_stream):
                target.sendall(held.pop(0)[1])


def _passes(network: Network, arrived: float, *, is_stream: bool) -> bool:
    if network.mode == "silent" or (network.mode == "buffer" and is_stream):
        return False
    return not (network.mode == "late" and is_stream) or time.monotonic() - arrived > network.delay
