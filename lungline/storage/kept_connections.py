"""HTTP/1.1 over kept connections, for one store: a request is one write, and a response is read without more.

urllib3 takes twice the CPU for it, and sends the body by itself, for which the store wakes up once more. Only what
object stores answer is understood; anything else ends the connection with an OSError.
"""

import re
import select
import socket
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader

from lungline.errors import ObjectTooLarge

CONNECT_SECONDS = 2.0
READ_SECONDS = 10.0
TRANSFER_SECONDS = 60.0  # of one object, however slowly its bytes arrive
KEPT = 64

_CHUNK = 2**20
_ONE_WRITE = 2**16  # larger bodies are not copied
_LINE = 65_536
_MOST_HEADERS = 100
_HEXADECIMAL = re.compile(rb"[0-9a-fA-F]{1,12}")
_CODE = re.compile(rb"<Code>([^<]*)</Code>")
_BODILESS = frozenset((204, 304))


@dataclass(frozen=True, slots=True)
class S3Response:
    """A store's response with its whole body; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def code(self) -> str:
        """The error code in the XML body, or else the status as text."""
        match = _CODE.search(self.data)
        return match[1].decode("ascii", "replace") if match else str(self.status)


class KeptConnections:
    """Connections to one host, which stay open between requests; threads may share it."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._idle: list[_Connection] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._idle)

    def exchange(
        self, method: str, target: str, headers: Mapping[str, str], data: bytes, limit: int | None = None
    ) -> S3Response:
        """Send a request and read its response. Raises OSError, and ObjectTooLarge for more bytes than `limit`."""
        connection = self._take()
        try:
            connection.send(method, target, headers, data)
            response = connection.receive(method, limit)
        except BaseException:
            connection.close()  # the rest of the response must not be read as the next one
            raise
        self._keep(connection)
        return response

    def close(self) -> None:
        """Close the idle connections; the next request opens new ones."""
        with self._lock:
            _close(self._idle)

    def _take(self) -> "_Connection":
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return _Connection(self._address)
            if connection.is_open:
                return connection
            connection.close()

    def _keep(self, connection: "_Connection") -> None:
        if connection.keeps:
            with self._lock:
                if len(self._idle) < KEPT:
                    self._idle.append(connection)
                    return
        connection.close()


class _Connection:
    """One connection; `keeps` says after a response whether another request may follow."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, CONNECT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(READ_SECONDS)
        self._file = self._socket.makefile("rb")
        self.keeps = True

    @property
    def is_open(self) -> bool:
        """Whether nothing has come since the last response, not even the end."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def send(self, method: str, target: str, headers: Mapping[str, str], data: bytes) -> None:
        """Write a request."""
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        if data or method == "PUT":
            lines.append(f"content-length: {len(data)}")
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError("A header has a line break.")
        head = "\r\n".join((*lines, "\r\n")).encode("latin-1")
        with suppress(BrokenPipeError):  # a store may answer and close before it has read the body
            if len(data) <= _ONE_WRITE:
                self._socket.sendall(head + data)
            else:
                self._socket.sendall(head)
                self._socket.sendall(data)

    def receive(self, method: str, limit: int | None) -> S3Response:
        """Read a response."""
        status, headers = self._head()
        while 100 <= status < 200:
            status, headers = self._head()
        if headers.get("connection", "").lower() == "close":
            self.keeps = False
        if method == "HEAD" or status in _BODILESS:
            return S3Response(status, headers, b"")
        return S3Response(status, headers, self._body(headers, limit if status < 300 else None))

    def close(self) -> None:
        """Close it."""
        with suppress(OSError):
            self._file.close()
        self._socket.close()

    def _head(self) -> tuple[int, dict[str, str]]:
        version, _, rest = self._line().partition(b" ")
        if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
            raise ConnectionError("the answer is not HTTP")
        self.keeps = self.keeps and version == b"HTTP/1.1"
        headers: dict[str, str] = {}
        while line := self._line():
            name, _, value = line.partition(b":")
            headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
            if len(headers) > _MOST_HEADERS:
                raise ConnectionError("the answer has too many headers")
        return int(rest[:3]), headers

    def _line(self) -> bytes:
        line = self._file.readline(_LINE)
        if not line.endswith(b"\n"):
            raise ConnectionError("the answer broke off")
        return line.rstrip(b"\r\n")

    def _body(self, headers: Mapping[str, str], limit: int | None) -> bytes:
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return self._chunked(limit)
        length = headers.get("content-length")
        if length is None:  # it ends with the connection
            self.keeps = False
            return self._bytes(None, limit)
        if not length.isascii() or not length.isdigit():
            raise ConnectionError("the answer has no length")
        if limit is not None and int(length) > limit:
            raise ObjectTooLarge(f"The object has {int(length)} bytes; the limit is {limit}.")
        return self._bytes(int(length), limit)

    def _chunked(self, limit: int | None) -> bytes:
        data = bytearray()
        deadline = time.monotonic() + TRANSFER_SECONDS
        while size := self._chunk_size():
            data += self._bytes(size, None if limit is None else limit - len(data))
            self._line()
            _require_before(deadline)
        while self._line():  # trailers
            _require_before(deadline)
        return bytes(data)

    def _chunk_size(self) -> int:
        size = self._line().partition(b";")[0].strip()
        if not _HEXADECIMAL.fullmatch(size):
            raise ConnectionError("the answer has no length")
        return int(size, 16)

    def _bytes(self, size: int | None, limit: int | None) -> bytes:
        """So many bytes, or all that come until the connection ends."""
        if size is None or size > _CHUNK:
            return _slowly(self._file, size, limit)
        if limit is not None and size > limit:
            raise ObjectTooLarge("The object has more bytes than the limit.")
        data = self._file.read(size)
        if len(data) < size:
            raise ConnectionError("the answer broke off")
        return data


def _slowly(file: BufferedReader, size: int | None, limit: int | None) -> bytes:
    deadline = time.monotonic() + TRANSFER_SECONDS
    data = bytearray()
    while size is None or len(data) < size:
        part = file.read1(_CHUNK if size is None else min(_CHUNK, size - len(data)))
        if not part:
            if size is None:
                break
            raise ConnectionError("the answer broke off")
        data += part
        if limit is not None and len(data) > limit:
            raise ObjectTooLarge("The object has more bytes than the limit.")
        _require_before(deadline)
    return bytes(data)


def _require_before(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError("the object comes too slowly")


def _close(connections: list[_Connection]) -> None:
    while connections:
        connections.pop().close()
