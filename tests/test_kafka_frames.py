"""What the gate reads of Kafka's frames: those of one partition, and of any other bytes nothing."""

import random
import struct
from collections.abc import Callable

import pytest

from laptop.services.kafka_frames import (
    Fetch,
    NotUnderstood,
    Write,
    end_of,
    fetch_of,
    first_offset_of,
    with_named_fetches,
    write_of,
)

CLIENT = struct.pack(">h", 3) + b"abc" + b"\0"
TOPIC = b"\x07xrays!"
_FETCH_HEAD = struct.pack(">iiiibii", -1, 500, 1, 2**20, 0, 0, -1)
_PARTITION = struct.pack(">iiqiqi", 0, -1, 42, -1, -1, 2**20) + b"\0"
FETCH = CLIENT + _FETCH_HEAD + b"\x02" + TOPIC + b"\x02" + _PARTITION + b"\0\x01\x01\0"
BATCH = struct.pack(">qiibIhi", 0, 80, -1, 2, 0, 0, 6) + bytes(64)
WRITE = CLIENT + b"\0" + struct.pack(">hi", -1, 1000) + b"\x02" + TOPIC + b"\x02" + bytes(4) + b"\x60" + BATCH
WRITTEN = b"\0\x02" + TOPIC + b"\x02" + struct.pack(">ihq", 0, 0, 35)
FETCHED = b"\0" + bytes(10) + b"\x02" + TOPIC + b"\x02" + struct.pack(">ihq", 0, 0, 99)
VERSIONS = bytes(6) + b"\x03" + struct.pack(">hhhbhhhb", 0, 3, 11, 0, 1, 4, 17, 0) + bytes(5)


def test_where_a_fetch_begins_and_a_write_ends_is_read() -> None:
    assert fetch_of(12, FETCH) == Fetch(b"xrays!", 0, 42, 0.5, 10)
    assert write_of(10, WRITE) == Write(b"xrays!", 0, 6)
    assert first_offset_of(WRITTEN) == 35
    assert end_of(FETCHED) == 99


def test_refused_writes_and_fetches_say_no_offset() -> None:
    refused = struct.pack(">ih", 0, 3)
    assert first_offset_of(WRITTEN.replace(bytes(6), refused)) is None
    assert end_of(b"\0" + bytes(10) + b"\x02" + TOPIC + b"\x02" + refused + bytes(8)) is None


def test_other_versions_and_several_partitions_are_not_understood() -> None:
    several = FETCH.replace(b"\x02" + TOPIC, b"\x03" + TOPIC)
    for read in (lambda: fetch_of(13, FETCH), lambda: fetch_of(12, several), lambda: write_of(13, WRITE)):
        with pytest.raises(NotUnderstood):
            read()


def test_clients_are_told_of_no_fetch_that_the_gate_cannot_read() -> None:
    limited = with_named_fetches(3, VERSIONS)
    assert struct.unpack_from(">hhhbhhh", limited, 7) == (0, 3, 11, 0, 1, 4, 12)
    assert len(limited) == len(VERSIONS)
    old = bytes(6) + struct.pack(">ihhhhhh", 2, 0, 0, 7, 1, 0, 16) + bytes(4)
    assert with_named_fetches(0, old) == old.replace(struct.pack(">hhh", 1, 0, 16), struct.pack(">hhh", 1, 0, 12))


@pytest.mark.parametrize("whole", [FETCH, WRITE, WRITTEN, FETCHED, VERSIONS])
def test_damaged_frames_are_not_understood_and_raise_nothing_else(whole: bytes) -> None:
    readers: list[Callable[[bytes], object]] = [
        lambda data: fetch_of(12, data),
        lambda data: write_of(10, data),
        first_offset_of,
        end_of,
        lambda data: with_named_fetches(3, data),
    ]
    dice = random.Random(1)
    for _ in range(2000):
        data = bytearray(whole[: dice.randrange(len(whole) + 1)])
        for _ in range(min(len(data), dice.randrange(4))):
            data[dice.randrange(len(data))] = dice.randrange(256)
        for read in readers:
            try:
                read(bytes(data))
            except NotUnderstood:
                continue
