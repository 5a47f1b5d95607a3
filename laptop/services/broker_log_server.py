"""The broker's log as the store for objects that the broker knows: as much of S3 over HTTP as it uses.

It runs in the process of the broker's gate. In the broker's network nobody else sees it. Where the system allows no
such network, other users of the machine can connect; it asks everybody for an access key that is drawn for each start.
"""

import asyncio
import hmac
import logging
import secrets
import socket
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from laptop.services.broker_log import BrokerLog, Change
from laptop.services.broker_log_listing import listing, moment_of
from laptop.services.broker_log_requests import NAMESPACE, Refused, Request, keys_of
from laptop.services.broker_log_writer import Writer, Written
from lungline.network import HOST

MOST_HEAD = 16 * 1024
# Who has not shown the key may neither stay for long nor take every connection.
STRANGER_SECONDS, MOST_STRANGERS = 5.0, 64
_STATUS = {
    200: "OK",
    204: "No Content",
    304: "Not Modified",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    412: "Precondition Failed",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
    507: "Insufficient Storage",
}
_CODE = {404: "NoSuchKey", 412: "PreconditionFailed", 507: "InsufficientStorage"}
log = logging.getLogger("lungline.broker")


@dataclass(frozen=True, slots=True)
class Access:
    """What the broker needs to know; drawn for one start."""

    port: int
    key: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    def environment(self) -> dict[str, str]:
        """The variables from which the broker takes it."""
        return {
            "AWS_ENDPOINT": f"http://{HOST}:{self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
            "AWS_UNSIGNED_PAYLOAD": "true",
        }


class Server:
    """The connections to a log."""

    def __init__(self, path: Path, access: Access) -> None:
        self.writer = Writer(path)
        self.reader = BrokerLog(path)
        self._key = access.key.encode()
        self._strangers: dict[Connection, None] = {}

    async def serve(self, listener: socket.socket) -> asyncio.Server:
        """Take connections from now on."""
        return await asyncio.get_running_loop().create_server(lambda: Connection(self), sock=listener)

    def close(self) -> None:
        """Finish what has begun, and close the log."""
        self.writer.close()
        self.reader.close()

    def admits(self, request: Request) -> bool:
        """Whether a request names the key; compared in a time that says nothing about it."""
        _, _, credential = request.headers.get(b"authorization", b"").partition(b"Credential=")
        return hmac.compare_digest(credential.partition(b"/")[0], self._key)

    def receive(self, stranger: "Connection") -> None:
        """Somebody has connected; the one that has stayed longest without a key makes way."""
        while len(self._strangers) >= MOST_STRANGERS:
            next(iter(self._strangers)).end()
        self._strangers[stranger] = None

    def forget(self, connection: "Connection") -> None:
        """It has shown the key, or is gone."""
        self._strangers.pop(connection, None)


class Connection(asyncio.Protocol):
    """One connection: a request, its answer, the next."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._received = bytearray()
        self._request: Request | None = None
        self._is_answering = False
        self._transport: asyncio.Transport | None = None
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nobody knows yet who it is."""
        self._transport = cast("asyncio.Transport", transport)
        self._server.receive(self)
        self._patience = asyncio.get_running_loop().call_later(STRANGER_SECONDS, self.end)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        super().connection_lost(exc)
        self._admit()
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """More of a request."""
        self._received += data
        self._go_on()

    def end(self) -> None:
        """Hang up."""
        self._server.forget(self)
        if self._transport:
            self._transport.abort()

    def _admit(self) -> None:
        self._server.forget(self)
        if self._patience:
            self._patience.cancel()
            self._patience = None

    def _go_on(self) -> None:
        """Begin what is complete; a request that comes before its predecessor is answered waits here."""
        try:
            while not self._is_answering and (self._request or self._read_head()):
                request = self._request
                if request is None or len(self._received) < request.length:
                    return
                body = bytes(memoryview(self._received)[: request.length])
                del self._received[: request.length]
                self._request = None
                self._answer(request, body)
        except Refused as refused:
            self._respond(refused.status, method="HEAD")
            if self._transport:
                self._transport.close()
        except sqlite3.Error as exc:
            self._respond_failure(exc)

    def _read_head(self) -> bool:
        end = self._received.find(b"\r\n\r\n", 0, MOST_HEAD)
        if end < 0:
            if len(self._received) >= MOST_HEAD:
                raise Refused(431)
            return False
        request = Request.parse(bytes(memoryview(self._received)[:end]))
        if not self._server.admits(request):
            raise Refused(403)
        self._admit()
        del self._received[: end + 4]
        self._request = request
        return True

    def _answer(self, request: Request, body: bytes) -> None:
        match request.method:
            case "GET" | "HEAD" if request.key:
                self._get(request)
            case "GET":
                self._respond(200, listing(self._server.reader, request.query))
            case "PUT" if request.key:
                if_version = 0 if b"if-none-match" in request.headers else request.version(b"if-match")
                self._write([Change(request.key, body, if_version)])
            case "DELETE" if request.key:
                self._write([Change(request.key, None)])
            case "POST" if not request.key and "delete" in request.query:
                self._write([Change(key, None) for key in keys_of(body)], is_bulk=True)
            case _:
                raise Refused(405)

    def _get(self, request: Request) -> None:
        unless = request.version(b"if-none-match")
        if unless is not None and unless == self._server.reader.version(request.key):
            self._respond(304, version=unless)
        elif stored := self._server.reader.get(request.key):
            self._respond(200, stored.data, stored.version, request.method)
        else:
            self._respond(404, method=request.method)

    def _write(self, changes: list[Change], *, is_bulk: bool = False) -> None:
        self._is_answering = True

        def answer(written: Written) -> None:
            self._is_answering = False
            if written.cancelled():
                return self.end()
            if exc := written.exception():
                self._respond_failure(exc)
            elif is_bulk:
                self._respond(200, f'<DeleteResult xmlns="{NAMESPACE}"></DeleteResult>'.encode())
            else:
                self._respond_written(written.result()[0])
            return self._go_on()

        self._server.writer.write(changes).add_done_callback(answer)

    def _respond_written(self, version: int | None) -> None:
        if version is None:
            self._respond(412)
        elif version:
            self._respond(200, version=version)
        else:
            self._respond(204)

    def _respond_failure(self, exc: BaseException) -> None:
        """The broker tries again after such an answer, and its clients after it."""
        is_full = isinstance(exc, sqlite3.OperationalError) and exc.sqlite_errorcode == sqlite3.SQLITE_FULL
        log.warning("The broker's log cannot be used: %s.", exc)
        self._respond(507 if is_full else 503)

    def _respond(self, status: int, body: bytes = b"", version: int = 0, method: str = "GET") -> None:
        if self._transport is None:
            return
        if status >= 400 and method != "HEAD":
            body = f"<Error><Code>{_CODE.get(status, _STATUS[status])}</Code></Error>".encode()
        head = f"HTTP/1.1 {status} {_STATUS[status]}\r\nContent-Length: {len(body)}\r\n"
        if version:
            head += f'ETag: "{version:x}"\r\nLast-Modified: {moment_of(version):%a, %d %b %Y %H:%M:%S GMT}\r\n'
        self._transport.write(head.encode() + b"\r\n" + (b"" if method == "HEAD" or status == 304 else body))
