"""The object store in a network of its own, of which this machine sees two ports.

    client -- S3, signed ----------> gate -- as it is --> store
    bridge -- gRPC, certificates --> gate -- as it is --> filer

The store's master and volume servers ask for no login: `GET /col/delete` deletes a bucket, `GET /dir/assign` hands out
tokens to write with. They require a certificate (`eventing.seaweedfs_tls`), and besides nobody reaches them. S3 asks
for a signature and the filer's gRPC port for a certificate; their bytes are handed on, answers to S3 writes once the
disk has what was written (`durable_answers`). This process starts the store and ends with it.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import uvloop

from laptop.services.durable_answers import Disk, Exchange
from laptop.services.private_network import BACKLOG, PrivateNetwork, Program, free_port
from laptop.services.relay import CHUNK, Crowd, hand_on, most_relayed
from laptop.services.store_room import Room
from laptop.services.store_sockets import ports_of, remove_sockets
from lungline.listening import listen
from lungline.network import HOST

S3 = "s3.port"
ROOM_AGAIN = 75
"""The exit code of a gate whose store must start again, because its disk was full."""


@dataclass(frozen=True, slots=True)
class Door:
    """One port of the gate: which option of the store names the port behind it, and where that is."""

    option: str
    port: int
    inner: int
    disk: Disk | None = None
    """Where an answer to a write must be before the client gets it; None where nobody writes."""
    room: Room | None = None
    """What is to know of writes that fail."""

    @classmethod
    def parse(cls, text: str) -> "Door":
        """From `OPTION=PORT`; the port behind is new at each start."""
        option, _, port = text.partition("=")
        return cls(option, int(port), free_port())

    async def serve(
        self, network: PrivateNetwork, crowd: Crowd, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One connection, from its begin to its end."""
        with crowd.member(writer) as move:
            try:
                made = await asyncio.to_thread(network.socket)
                made.setblocking(False)
                await asyncio.get_running_loop().sock_connect(made, (HOST, self.inner))
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                inner = await asyncio.open_connection(sock=made, limit=CHUNK)
            except OSError:  # the store is starting, or has ended
                writer.close()
                return
            exchange = Exchange(self.disk, self.room.write_failed) if self.disk and self.room else None
            pumps = (exchange.requests, exchange.responses) if exchange else None
            await hand_on((reader, writer), inner, move, pumps=pumps)


async def _run(network: PrivateNetwork, doors: Sequence[tuple[Door, socket.socket]], data: Path) -> int:
    disk, room = Disk(data), Room(data)
    loop = asyncio.get_running_loop()
    ended = loop.create_task(asyncio.to_thread(os.waitpid, network.pid, 0))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: None)  # the store gets the same signal, and this process ends with it
    for door, listener in doors:
        settled = replace(door, disk=disk, room=room) if door.option == S3 else door
        serve = partial(settled.serve, network, Crowd(most_relayed()))
        await asyncio.start_server(serve, sock=listener, limit=CHUNK, backlog=BACKLOG)
    again = loop.create_task(room.returned())
    await asyncio.wait({ended, again}, return_when=asyncio.FIRST_COMPLETED)
    if is_again := not ended.done():
        with contextlib.suppress(ProcessLookupError):
            os.kill(network.pid, signal.SIGKILL)  # what it has acknowledged is on the disk
    _, status = await ended
    again.cancel()
    return ROOM_AGAIN if is_again else os.waitstatus_to_exitcode(status)


def main(argv: Sequence[str]) -> int:
    """Start the store and let clients through to its ports until it ends; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m laptop.services.store_gate", description=__doc__)
    text = "an option of the store that names a port, and the port of this machine in front of it: OPTION=PORT"
    parser.add_argument("--door", type=Door.parse, action="append", required=True, help=text)
    parser.add_argument("--data", type=Path, required=True, help="the folder that answers to writes wait for")
    parser.add_argument("--report", type=Path, required=True, help="where to write whether the others are out of reach")
    parser.add_argument("program", nargs="+", help="the store's command")
    arguments = parser.parse_args(argv)
    doors: list[Door] = arguments.door
    listeners = [listen(HOST, door.port, BACKLOG) for door in doors]
    program = [*arguments.program, *(f"-{door.option}={door.inner}" for door in doors)]
    ports = ports_of(program)
    remove_sockets(_ports_of_the_last_start(arguments.report))
    network = PrivateNetwork.start(Program(program, dict(os.environ), doors[0].inner))
    arguments.report.write_text(json.dumps({"pid": os.getpid(), "private": network.is_private, "ports": ports}))
    try:
        code = uvloop.run(_run(network, list(zip(doors, listeners, strict=True)), arguments.data))
    finally:
        remove_sockets(ports)
    if code == ROOM_AGAIN:  # the last line of its log, which `lungline status` shows
        print("The disk was full and has room again: only a store that starts anew takes writes.", file=sys.stderr)
    return code


def _ports_of_the_last_start(report: Path) -> list[int]:
    try:
        return [int(port) for port in json.loads(report.read_text())["ports"]]
    except (OSError, ValueError, TypeError, KeyError):  # the first start, or a file that was cut
        return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
