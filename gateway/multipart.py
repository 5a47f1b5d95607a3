"""Splits a multipart body (RFC 2046 5.1) as it arrives, within bounds."""

from collections.abc import Iterator
from email.parser import BytesHeaderParser
from typing import Literal

_MOST_HEADER_BYTES = 16 * 1024
_MOST_PREAMBLE_BYTES = 64 * 1024
_END = b"\r\n\r\n"

Event = tuple[Literal["begin"], str] | tuple[Literal["data"], bytes] | tuple[Literal["end"], None]
"""A part begins with its content type, has data, and ends."""


class MultipartMalformed(Exception):
    """The body is not multipart with this boundary, or breaks a bound."""


class Parts:
    """The parts of one body."""

    def __init__(self, boundary: str) -> None:
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._buffer = bytearray(b"\r\n")  # the first delimiter needs no line break before it
        self._state: Literal["preamble", "delimiter", "head", "data", "done"] = "preamble"
        self._skipped = 0

    @property
    def is_complete(self) -> bool:
        """Whether the closing delimiter has come."""
        return self._state == "done"

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that more bytes bring. Raises MultipartMalformed."""
        self._buffer += data
        while True:
            before = self._state, len(self._buffer)
            match self._state:
                case "preamble":
                    self._skip()
                case "delimiter":
                    self._begin_or_end()
                case "head":
                    yield from self._head()
                case "data":
                    yield from self._data()
                case "done":
                    self._buffer.clear()
            if (self._state, len(self._buffer)) == before:
                return

    def _skip(self) -> None:
        at = self._buffer.find(self._delimiter)
        cut = at if at >= 0 else max(0, len(self._buffer) - len(self._delimiter) + 1)
        self._skipped += cut
        if self._skipped > _MOST_PREAMBLE_BYTES:
            raise MultipartMalformed("The body does not begin with its boundary.")
        del self._buffer[: cut + (len(self._delimiter) if at >= 0 else 0)]
        if at >= 0:
            self._state = "delimiter"

    def _begin_or_end(self) -> None:
        if len(self._buffer) < 2:
            return
        if self._buffer[:2] == b"--":
            self._state = "done"
            return
        line = self._buffer.find(b"\r\n")
        if line > 64 or (line < 0 and len(self._buffer) > 64) or self._buffer[: max(0, line)].strip(b" \t"):
            raise MultipartMalformed("A boundary is followed by other text.")
        if line >= 0:
            del self._buffer[:line]  # its line break stays: with no header it is half of the empty line
            self._state = "head"

    def _head(self) -> Iterator[Event]:
        at = self._buffer.find(_END)
        if at > _MOST_HEADER_BYTES or (at < 0 and len(self._buffer) > _MOST_HEADER_BYTES):
            raise MultipartMalformed("The headers of a part are too long.")
        if at < 0:
            return
        headers = BytesHeaderParser().parsebytes(bytes(self._buffer[2:at]))
        del self._buffer[: at + len(_END)]
        self._state = "data"
        yield "begin", str(headers.get("content-type", ""))

    def _data(self) -> Iterator[Event]:
        at = self._buffer.find(self._delimiter)
        cut = at if at >= 0 else max(0, len(self._buffer) - len(self._delimiter) + 1)
        if cut:
            yield "data", bytes(self._buffer[:cut])
            del self._buffer[:cut]
        if at >= 0:
            del self._buffer[: len(self._delimiter)]
            self._state = "delimiter"
            yield "end", None
