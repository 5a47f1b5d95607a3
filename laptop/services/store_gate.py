"""The object store in a network of its own, of which this machine sees two ports.

    client -- S3, signed ----------> gate -- as it is --> store
    bridge -- gRPC, certificates --> gate -- as it is --> filer

The store's master and volume servers answer whoever reaches them, also with `security.toml`: `GET /col/delete` deletes
a bucket, `GET /dir/assign` hands out tokens to write with. So nobody reaches them. S3 asks for a signature and the
filer's gRPC port for a certificate; their bytes are handed on. This process starts the store and ends with it.
"""

import argparse
import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from laptop.services.private_network import BACKLOG, PrivateNetwork, Program
from lungline.network import HOST

CHUNK = 2**18


async def _serve(
    network: PrivateNetwork, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """One connection, from its begin to its end."""
    try:
        made = await asyncio.to_thread(network.socket)
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, (HOST, port))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        inner = await asyncio.open_connection(sock=made, limit=CHUNK)
    except OSError:  # the store is starting, or has ended
        writer.close()
        return
    with contextlib.suppress(OSError):
        await asyncio.gather(_pump(reader, inner[1]), _pump(inner[0], writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hand on bytes until there are no more; then the other end gets no more either."""
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


async def _run(network: PrivateNetwork, listeners: Sequence[socket.socket]) -> int:
    loop = asyncio.get_running_loop()
    ended = loop.create_task(asyncio.to_thread(os.waitpid, network.pid, 0))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: None)  # the store gets the same signal, and this process ends with it
    for listener in listeners:
        port = int(listener.getsockname()[1])
        await asyncio.start_server(partial(_serve, network, port), sock=listener, limit=CHUNK)
    _, status = await ended
    return os.waitstatus_to_exitcode(status)


def main(argv: Sequence[str]) -> int:
    """Start the store and let clients through to its ports until it ends; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m laptop.services.store_gate", description=__doc__)
    parser.add_argument("--port", type=int, action="append", required=True, help="a port that this machine sees")
    parser.add_argument("--report", type=Path, required=True, help="where to write whether the others are out of reach")
    parser.add_argument("program", nargs="+", help="the store's command")
    arguments = parser.parse_args(argv)
    # Two descriptors a connection; the usual 1,024 would be fewer connections than the store itself takes.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536) if hard > 0 else 65_536, hard))
    network = PrivateNetwork.start(Program(arguments.program, dict(os.environ), arguments.port[0]))
    arguments.report.write_text(json.dumps({"pid": os.getpid(), "private": network.is_private}))
    # Where there is no network of its own, the store listens on these ports itself.
    listeners = [socket.create_server((HOST, port), backlog=BACKLOG) for port in arguments.port if network.is_private]
    return asyncio.run(_run(network, listeners))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
