"""What an event says is taken out of a stored batch of Kafka, and everything else of the batch stays."""

import struct

import pytest

from laptop.erasing.kafka_batches import Unreadable, count_marked, crc32c, redacted


def varint(number: int) -> bytes:
    number = (number << 1) ^ (number >> 63)
    made = bytearray()
    while True:
        made.append(number & 0x7F | (0x80 if number > 0x7F else 0))
        number >>= 7
        if not number:
            return bytes(made)


def record(offset: int, key: bytes, value: bytes, *headers: tuple[bytes, bytes]) -> bytes:
    body = b"\0" + varint(offset) + varint(offset) + varint(len(key)) + key + varint(len(value)) + value
    body += varint(len(headers))
    for name, text in headers:
        body += varint(len(name)) + name + varint(len(text)) + text
    return varint(len(body)) + body


def batch(*records: bytes, attributes: int = 0) -> bytes:
    checked = struct.pack(">hiqqqhii", attributes, len(records) - 1, 1, 2, -1, -1, -1, len(records)) + b"".join(records)
    head = struct.pack(">qiibI", 7, len(checked) + 9, 0, 2, crc32c(checked))
    return head + checked


VALUES = (b'{"key":"ward/Doe"}', b'{"key":"ward/other"}', b"x" * 300)


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_marked_records_say_nothing_and_others_stay() -> None:
    records = [record(at, b"k%d" % at, value, (b"ce_id", b"%d" % at)) for at, value in enumerate(VALUES)]
    before = batch(*records)
    assert count_marked(before, [b'"ward/Doe"', b"nowhere"]) == 1
    after = redacted(before, [b'"ward/Doe"'])
    expected = batch(record(0, b"k0", b"{}".ljust(len(VALUES[0])), (b"ce_id", b"0")), *records[1:])
    assert after == expected
    assert count_marked(after, [b'"ward/Doe"']) == 0
    assert count_marked(redacted(after, [b"k0"]), [b"k0"]) == 0


@pytest.mark.parametrize(
    "data", [b"", b"no batch", batch(record(0, b"", b"x"), attributes=1), batch(record(0, b"", b"x" * 90))[:-20]]
)
def test_what_is_no_plain_batch_is_left_alone(data: bytes) -> None:
    with pytest.raises(Unreadable):
        redacted(data, [b"x"])
