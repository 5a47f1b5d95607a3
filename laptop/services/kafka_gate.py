"""The embedded broker behind a login: TLS and SCRAM-SHA-512 in front, the broker in a network of its own.

    client -- TLS, login --> gate -- as it is --> broker -- S3 --> gate --> log.db

The broker itself (tansu 0.6) can neither keep users beside a store for objects nor read a key for TLS. So this process
listens in its place, and hands on the bytes of whoever has logged in. It is also the store that the broker writes to
(`broker_log_server`). It starts the broker and ends with it.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import ssl
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from laptop.services.broker_log_requests import BUCKET
from laptop.services.broker_log_server import Access, Server
from laptop.services.broker_pruning import Kept, prune
from laptop.services.kafka_fetches import Ends, Exchange
from laptop.services.kafka_frames import API_VERSIONS, with_named_fetches
from laptop.services.kafka_login import (
    NEWEST_AUTHENTICATE,
    NEWEST_HANDSHAKE,
    PASSWORD,
    SASL_AUTHENTICATE,
    SASL_HANDSHAKE,
    USER,
    LoginRefused,
    Request,
    Scram,
    Verifier,
    authenticate_reply,
    handshake_reply,
    token_of,
)
from laptop.services.private_network import BACKLOG, PrivateNetwork, Program, free_ports
from laptop.services.relay import CHUNK, Crowd, Stream, end, hand_on, most_relayed
from lungline.listening import listen
from lungline.network import HOST

LOGIN_SECONDS = 10.0
# Who has not logged in sends small requests, and may not take every connection.
MAX_FRAME, MAX_STRANGERS = 4096, 64
REFUSAL_SECONDS = 0.5
log = logging.getLogger("lungline.broker")


class Gate:
    """Lets clients that log in through to the broker."""

    def __init__(self, network: PrivateNetwork, port: int, verifier: Verifier) -> None:
        self._network = network
        self._port = port
        self._verifier = verifier
        self._strangers = Crowd(MAX_STRANGERS)
        self._clients = Crowd(most_relayed())
        self._ends = Ends()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, from its login to its end."""
        broker: Stream | None = None
        try:
            with self._strangers.member(writer):
                async with asyncio.timeout(LOGIN_SECONDS):
                    broker = await self._connect()
                    await self._admit((reader, writer), broker)
            with self._clients.member(writer) as move:
                exchange = Exchange(self._ends)
                await hand_on((reader, writer), broker, move, pumps=(exchange.requests, exchange.responses))
        except (OSError, EOFError, LoginRefused, TimeoutError, ssl.SSLError):
            pass  # clients come and go; they are told what they need to know
        finally:
            end((reader, writer))
            if broker:
                end(broker)

    async def _connect(self) -> Stream:
        made = await asyncio.to_thread(self._network.socket)
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, (HOST, self._port))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return await asyncio.open_connection(sock=made, limit=CHUNK)

    async def _admit(self, client: Stream, broker: Stream) -> None:
        """Answer a client's requests until it has logged in. Raises LoginRefused."""
        login = Scram(self._verifier)
        while not login.is_done:
            frame = await _frame(client[0])
            request = Request.parse(frame)
            if request.key == API_VERSIONS:
                broker[1].write(struct.pack(">i", len(frame)) + frame)
                reply = with_named_fetches(request.version, await _frame(broker[0], CHUNK))
                client[1].write(struct.pack(">i", len(reply)) + reply)
            elif request.key == SASL_HANDSHAKE and 0 <= request.version <= NEWEST_HANDSHAKE:
                client[1].write(handshake_reply(request))
            elif request.key == SASL_AUTHENTICATE and 0 <= request.version <= NEWEST_AUTHENTICATE:
                await self._authenticate(request, login, client[1])
            else:
                raise LoginRefused
            await client[1].drain()

    async def _authenticate(self, request: Request, login: Scram, client: asyncio.StreamWriter) -> None:
        try:
            client.write(authenticate_reply(request, login.answer(token_of(request))))
        except LoginRefused:
            await asyncio.sleep(REFUSAL_SECONDS)
            client.write(authenticate_reply(request, None))
            with contextlib.suppress(OSError):
                await client.drain()
            raise


async def _frame(reader: asyncio.StreamReader, limit: int = MAX_FRAME) -> bytes:
    (length,) = struct.unpack(">i", await reader.readexactly(4))
    if not 8 <= length <= limit:
        raise LoginRefused
    return await reader.readexactly(length)


async def _run(
    arguments: argparse.Namespace, network: PrivateNetwork, listener: socket.socket, gate: Gate, server: Server
) -> int:
    loop = asyncio.get_running_loop()
    ended = loop.create_task(asyncio.to_thread(os.waitpid, network.pid, 0))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: None)  # the broker gets the same signal, and this process ends with it
    tidying = loop.create_task(server.writer.keep_tidy(lambda log: prune(log, arguments.keep)))
    if network.lent:
        await server.serve(network.lent)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(arguments.certificate, arguments.key)
    options = {"limit": CHUNK, "backlog": BACKLOG, "ssl": context, "ssl_handshake_timeout": LOGIN_SECONDS}
    await asyncio.start_server(gate.serve, sock=listener, **options)
    _, status = await ended
    tidying.cancel()
    return os.waitstatus_to_exitcode(status)


def main(argv: Sequence[str]) -> int:
    """Start a broker and let clients in until it ends; returns its exit code."""
    arguments = _arguments(argv)
    verifier = Verifier.of(USER, os.environ.pop(PASSWORD))
    listener = listen(HOST, arguments.port, BACKLOG)
    if arguments.move:
        _move(arguments.log)
    port, log_port = free_ports(2)
    access = Access(log_port)
    address = f"tcp://{HOST}:{arguments.port}"
    command = (arguments.broker, "broker", "--listener-url", f"tcp://{HOST}:{port}")
    command += ("--advertised-listener-url", address, "--storage-engine", f"s3://{BUCKET}/")
    network = PrivateNetwork.start(Program(command, dict(os.environ) | access.environment(), port, log_port))
    report = {"pid": os.getpid(), "private": network.is_private, "port": port, "log": str(arguments.log)}
    arguments.report.write_text(json.dumps(report))
    gate = Gate(network, port, verifier)
    with contextlib.closing(Server(arguments.log, access)) as server:
        return uvloop.run(_run(arguments, network, listener, gate, server))


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m laptop.services.kafka_gate", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="where clients connect")
    parser.add_argument("--log", type=Path, required=True, help="where the broker's log is kept")
    parser.add_argument("--keep", type=Kept.parse, action="append", default=[], help="TOPIC:PARTITION:GROUP:BATCHES")
    parser.add_argument("--move", action="store_true", help="the log is still in the store that the settings name")
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--report", type=Path, required=True, help="where to write whether the broker is out of reach")
    parser.add_argument("broker", help="the broker's program")
    return parser.parse_args(argv)


def _move(path: Path) -> None:
    """Fetch the log from where an earlier release kept it; what that imports takes half a second."""
    from laptop.services.broker_move import move_from_store
    from lungline.settings import PREFIX, load_settings

    move_from_store(path, load_settings())
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]  # they are no business of the broker's


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
