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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs, unquote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from laptop.services.broker_log import BrokerLog, Change, Listed
from lungline.network import HOST

BUCKET = "log"
MOST_HEAD, MOST_BODY, MOST_KEYS = 16 * 1024, 64 * 2**20, 1000
# Who has not shown the key may neither stay for long nor take every connection.
STRANGER_SECONDS, MOST_STRANGERS = 5.0, 64
TIDY_SECONDS = 1.0
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
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

Written = asyncio.Future[list[int | None]]


class Writer:
    """Writes in an order and on a thread of its own; what waits at a time is one transaction."""

    def __init__(self, path: Path) -> None:
        self._log = BrokerLog(path)
        self._tidying = BrokerLog(path)
        self._thread = ThreadPoolExecutor(1, "broker-log")
        self._waiting: list[tuple[list[Change], Written]] = []
        self._work: asyncio.Task[None] | None = None
        self.transactions = 0

    def write(self, changes: list[Change]) -> Written:
        """Make changes together; the result is as of `BrokerLog.write`."""
        written: Written = asyncio.get_running_loop().create_future()
        self._waiting.append((changes, written))
        if self._work is None:
            self._work = asyncio.create_task(self._write_all())
        return written

    async def keep_tidy(self, prune: Callable[[BrokerLog], object]) -> None:
        """Prune the log and keep its journal short, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            try:
                await loop.run_in_executor(self._thread, prune, self._log)
                # The most of it beside the writes, and between two writes what they have added meanwhile.
                await asyncio.to_thread(self._tidying.tidy)
                await loop.run_in_executor(self._thread, self._log.tidy)
            except sqlite3.Error as exc:
                log.warning("The broker's log cannot be kept short: %s.", exc)

    def close(self) -> None:
        """Finish what has begun."""
        self._thread.shutdown()
        self._tidying.close()
        self._log.close()

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            changes = [change for together, _ in batch for change in together]
            self.transactions += 1
            try:
                versions = await loop.run_in_executor(self._thread, self._log.write, changes)
            except (sqlite3.Error, RuntimeError) as exc:  # RuntimeError: it has been closed
                for _, written in batch:
                    if not written.done():
                        written.set_exception(exc)
                continue
            place = 0
            for together, written in batch:
                if not written.done():
                    written.set_result(versions[place : place + len(together)])
                place += len(together)
        self._work = None


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


class Refused(Exception):
    """A request that is answered with a status and nothing else."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """A request; header names are lower case."""

    method: str
    key: str
    query: dict[str, str]
    headers: dict[bytes, bytes]
    length: int

    @classmethod
    def parse(cls, head: bytes) -> "Request":
        """From its head without the empty line. Raises Refused."""
        first, *lines = head.split(b"\r\n")
        try:
            method, target, _ = first.decode("ascii").split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
            length = int(headers.get(b"content-length", b"0"))
            path, _, query = target.partition("?")
            bucket, _, key = unquote(path.removeprefix("/"), errors="strict").partition("/")
            fields = {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}
        except ValueError as exc:
            raise Refused(400) from exc
        if b"transfer-encoding" in headers or length < 0:
            raise Refused(400)
        if length > MOST_BODY:
            raise Refused(413)
        if bucket != BUCKET:
            raise Refused(404)
        return cls(method, key, fields, headers, length)

    def version(self, header: bytes) -> int | None:
        """The version that a condition names; None where there is no such condition."""
        value = self.headers.get(header)
        if value is None:
            return None
        try:
            return int(value.strip(b'"'), 16)
        except ValueError:
            return -1


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
                self._respond(200, f'<DeleteResult xmlns="{_NAMESPACE}"></DeleteResult>'.encode())
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


def listing(reader: BrokerLog, query: dict[str, str]) -> bytes:
    """An answer to ListObjectsV2."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    after = query.get("continuation-token") or query.get("start-after", "")
    listed = reader.listed(prefix, after, MOST_KEYS + 1)
    shown, more = listed[:MOST_KEYS], len(listed) > MOST_KEYS
    folders = dict.fromkeys(filter(None, (_folder(each.key, prefix, delimiter) for each in shown)))
    objects = [each for each in shown if not _folder(each.key, prefix, delimiter)]
    token = f"<NextContinuationToken>{escape(shown[-1].key)}</NextContinuationToken>" if more else ""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="{_NAMESPACE}"><Name>{BUCKET}</Name>'
        f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(map(_contents, objects))}"
        f"{''.join(f'<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>' for each in folders)}"
        "</ListBucketResult>"
    ).encode()


def _folder(key: str, prefix: str, delimiter: str) -> str:
    """The part of a key up to the first delimiter after a prefix; empty without one."""
    end = key.find(delimiter, len(prefix)) if delimiter else -1
    return key[: end + len(delimiter)] if end >= 0 else ""


@lru_cache(maxsize=4096)  # each fetch lists a whole partition again
def _contents(listed: Listed) -> str:
    # The broker takes the youngest batch for the last, so that a second is too coarse.
    written = f"{moment_of(listed.version).isoformat(timespec='seconds')[:19]}.{listed.version % 10**9:09}Z"
    return (
        f"<Contents><Key>{escape(listed.key)}</Key><LastModified>{written}</LastModified>"
        f'<ETag>"{listed.version:x}"</ETag><Size>{listed.size}</Size></Contents>'
    )


def moment_of(version: int) -> datetime:
    """When a version was written."""
    return datetime.fromtimestamp(version // 10**9, UTC)


def keys_of(body: bytes) -> list[str]:
    """The keys in a request to delete several. Raises Refused."""
    try:
        keys = [each.text or "" for each in ET.fromstring(body).iter(f"{{{_NAMESPACE}}}Key")]  # noqa: S314 - of the broker, which has shown its key
    except ET.ParseError as exc:
        raise Refused(400) from exc
    return keys
