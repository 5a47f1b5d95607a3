"""Batches of Kafka records as they are stored (magic 2): take out what a record says, and leave everything else.

The value is replaced by an empty JSON object of the same length, and what stands in keys and headers by zeros, so that
offsets, lengths and times stay as they were; the checksum is made again. A consumer that reads it later finds no event.
"""

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache

_HEAD = 61
_MAGIC, _CRC, _CHECKED, _COUNT = 16, 17, 21, 57
_COMPRESSED = 0x07


class Unreadable(Exception):
    """A batch that is compressed, or none."""


@dataclass(frozen=True, slots=True)
class _Record:
    """Where a record lies in its batch, and where its value."""

    first: int
    last: int
    value: tuple[int, int]


def count_marked(batch: bytes, marks: Collection[bytes]) -> int:
    """How many records of a batch have a mark. Raises Unreadable."""
    return sum(1 for _ in _marked(batch, marks))


def redacted(batch: bytes, marks: Collection[bytes]) -> bytes:
    """The batch without what records with a mark say, and without the marks. Raises Unreadable."""
    changed = bytearray(batch)
    for record in _marked(batch, marks):
        first, last = record.value
        changed[first:last] = (b"{}" + b" " * (last - first))[: last - first]
        content = bytes(changed[record.first : record.last])
        for mark in marks:
            content = content.replace(mark, b"0" * len(mark))
        changed[record.first : record.last] = content
    struct.pack_into(">I", changed, _CRC, crc32c(bytes(changed[_CHECKED:])))
    return bytes(changed)


def _marked(batch: bytes, marks: Collection[bytes]) -> Iterator[_Record]:
    for record in _records(batch):
        if any(mark in batch[record.first : record.last] for mark in marks):
            yield record


def _records(batch: bytes) -> Iterator[_Record]:
    if len(batch) < _HEAD or batch[_MAGIC] != 2 or batch[_CHECKED + 1] & _COMPRESSED:
        raise Unreadable
    (count,) = struct.unpack_from(">i", batch, _COUNT)
    at = _HEAD
    try:
        for _ in range(count):
            length, begin = _varint(batch, at)
            yield _record(batch, begin, begin + length)
            at = begin + length
    except IndexError:
        raise Unreadable from None


def _record(batch: bytes, first: int, last: int) -> _Record:
    at = first + 1  # attributes
    for _ in range(2):  # time and offset
        _, at = _varint(batch, at)
    length, at = _varint(batch, at)
    at += max(0, length)
    length, at = _varint(batch, at)
    if last > len(batch) or at + length > last:
        raise Unreadable
    return _Record(first, last, (at, at + max(0, length)))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in zigzag coding, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at


def crc32c(data: bytes) -> int:
    """The checksum of a batch (CRC-32C, Castagnoli)."""
    table, value = _table(), 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


@cache
def _table() -> tuple[int, ...]:
    table: list[int] = []
    for number in range(256):
        value = number
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)
