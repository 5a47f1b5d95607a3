"""What the gate reads of Kafka's requests and responses: where a fetch begins, and where a write ends.

Only of those that concern one partition of one topic, in the versions that clients of today use; the embedded broker's
topics have no more. For any other there is None. https://kafka.apache.org/protocol
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

PRODUCE, FETCH, API_VERSIONS = 0, 1, 18
PEEK = 4096
"""Enough of a frame for everything that is read here."""
NEWEST_NAMED_FETCH = 12
"""Newer fetches name topics by their ids."""
_NAMED_PRODUCE = range(9, 13)
_REPLIES_WITH_TAGS = 3
_LAST_OFFSET_DELTA = 23  # in a batch of records


class NotUnderstood(Exception):
    """A frame of another form."""


class _Fields:
    """The fields of a frame, one after the other. Raises NotUnderstood where there is none."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.place = 0

    def number(self, form: str) -> int:
        try:
            (value,) = struct.unpack_from(form, self._data, self.place)
        except struct.error as exc:
            raise NotUnderstood from exc
        self.place += struct.calcsize(form)
        return value

    def unsigned(self) -> int:
        value = 0
        for shift in range(0, 35, 7):
            byte = self.number(">B")
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise NotUnderstood

    def skip(self, size: int) -> None:
        self.place += max(0, size)

    def name(self) -> bytes:
        """A compact string."""
        size = self.unsigned() - 1
        self.skip(size)
        return self._data[self.place - max(0, size) : self.place]

    def no_tags(self) -> None:
        if self.unsigned():
            raise NotUnderstood

    def single(self) -> None:
        """The length of an array that must have one element."""
        if self.unsigned() != 2:
            raise NotUnderstood


@dataclass(frozen=True, slots=True)
class Fetch:
    """A fetch of one partition."""

    topic: bytes
    partition: int
    offset: int
    wait: float
    """How many seconds it may wait for records."""
    place: int
    """Where it says so."""


@dataclass(frozen=True, slots=True)
class Write:
    """A batch for one partition."""

    topic: bytes
    partition: int
    last: int
    """The offset of its last record, counted from its first."""


def fetch_of(version: int, body: bytes) -> Fetch:
    """The fetch in a request, without its head. Raises NotUnderstood."""
    if version != NEWEST_NAMED_FETCH:
        raise NotUnderstood
    fields = _after_client(body)
    fields.number(">i")  # the replica
    place = fields.place
    wait = fields.number(">i")
    fields.skip(4 + 4 + 1)  # bytes, at least and at most; isolation
    if fields.number(">i"):  # a session, whose fetches name only what has changed
        raise NotUnderstood
    fields.skip(4)
    fields.single()
    topic = fields.name()
    fields.single()
    partition = fields.number(">i")
    fields.skip(4)
    return Fetch(topic, partition, fields.number(">q"), max(0, wait) / 1000, place)


def write_of(version: int, body: bytes) -> Write:
    """The batch in a request to produce, without its head. Raises NotUnderstood."""
    if version not in _NAMED_PRODUCE:
        raise NotUnderstood
    fields = _after_client(body)
    fields.name()  # the transaction
    fields.skip(2 + 4)
    fields.single()
    topic = fields.name()
    fields.single()
    partition = fields.number(">i")
    fields.unsigned()  # how many bytes of records
    fields.skip(_LAST_OFFSET_DELTA)
    return Write(topic, partition, fields.number(">i"))


def first_offset_of(body: bytes) -> int | None:
    """Where the batch of a write begins, by its response without the head; None when it was refused.

    Raises NotUnderstood.
    """
    fields = _Fields(body)
    fields.no_tags()
    code = _partition_of(fields)
    return None if code else fields.number(">q")


def end_of(body: bytes) -> int | None:
    """Where a partition ends, by the response to a fetch of it; None with an error. Raises NotUnderstood."""
    fields = _Fields(body)
    fields.no_tags()
    fields.skip(4 + 2 + 4)  # throttling, error, session
    code = _partition_of(fields)
    return None if code else fields.number(">q")


def _partition_of(fields: _Fields) -> int:
    """Go to the one partition of the one topic in a response; its error code."""
    fields.single()
    fields.name()
    fields.single()
    fields.number(">i")
    return fields.number(">h")


def _after_client(body: bytes) -> _Fields:
    fields = _Fields(body)
    fields.skip(fields.number(">h"))
    fields.no_tags()
    return fields


def with_named_fetches(version: int, reply: bytes) -> bytes:
    """A broker's reply to the question for its versions, without newer fetches than the gate understands."""
    fields, flexible = _Fields(reply), version >= _REPLIES_WITH_TAGS
    count: Callable[[], int] = (lambda: fields.unsigned() - 1) if flexible else (lambda: fields.number(">i"))
    try:
        fields.skip(4 + 2)  # number, error
        for _ in range(count()):
            key = fields.number(">h")
            fields.number(">h")
            newest, place = fields.number(">h"), fields.place - 2
            if key == FETCH:
                return reply[:place] + struct.pack(">h", min(newest, NEWEST_NAMED_FETCH)) + reply[place + 2 :]
            if flexible:
                fields.no_tags()
    except NotUnderstood:
        pass
    return reply
