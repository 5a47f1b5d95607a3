"""The embedded broker behind a login: TLS and SCRAM-SHA-512 in front, the broker in a network of its own.

    client -- TLS, login --> gate -- as it is --> broker -- as it is --> gate --> object store

The broker itself (tansu 0.6) can neither keep users beside an object store nor read a key for TLS. So this process
listens in its place, and hands on the bytes of whoever has logged in. It starts the broker and ends with it.
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
from laptop.services.private_network import BACKLOG, PrivateNetwork, Program, free_port
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


async def _lend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """One connection of the broker to a port of this machine."""
    try:
        there = await asyncio.open_connection(HOST, port, limit=CHUNK)
    except OSError:
        writer.close()
        return
    await hand_on((reader, writer), there, lambda: None)


async def _run(arguments: argparse.Namespace, network: PrivateNetwork, port: int, listener: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    ended = loop.create_task(asyncio.to_thread(os.waitpid, network.pid, 0))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: None)  # the broker gets the same signal, and this process ends with it
    if network.lent:
        await asyncio.start_server(
            lambda reader, writer: _lend(reader, writer, arguments.store_port), sock=network.lent, limit=CHUNK
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(arguments.certificate, arguments.key)
    gate = Gate(network, port, Verifier.of(USER, os.environ.pop(PASSWORD)))
    options = {"limit": CHUNK, "backlog": BACKLOG, "ssl": context, "ssl_handshake_timeout": LOGIN_SECONDS}
    await asyncio.start_server(gate.serve, sock=listener, **options)
    _, status = await ended
    return os.waitstatus_to_exitcode(status)


def main(argv: Sequence[str]) -> int:
    """Start a broker and let clients in until it ends; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m laptop.services.kafka_gate", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="where clients connect")
    parser.add_argument("--store_port", type=int, help="port of the object store on this machine")
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--report", type=Path, required=True, help="where to write whether the broker is out of reach")
    parser.add_argument("--storage_engine", required=True)
    parser.add_argument("broker", help="the broker's program")
    arguments = parser.parse_args(argv)
    listener = listen(HOST, arguments.port, BACKLOG)
    port = free_port()
    address = f"tcp://{HOST}:{arguments.port}"
    command = (arguments.broker, "broker", "--listener-url", f"tcp://{HOST}:{port}")
    command += ("--advertised-listener-url", address, "--storage-engine", arguments.storage_engine)
    env = {name: value for name, value in os.environ.items() if name != PASSWORD}
    network = PrivateNetwork.start(Program(command, env, port, arguments.store_port))
    arguments.report.write_text(json.dumps({"pid": os.getpid(), "private": network.is_private, "port": port}))
    return asyncio.run(_run(arguments, network, port, listener))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
