"""Which records share a request, and what it holds: CloudEvents in batched mode.

Only records that wait share one, so that a single one waits for none; never more than a receiver takes as one event.
"""

from collections.abc import Sequence

from eventing.kafka_record import KafkaRecord
from lungline import tracing
from lungline.events import cloudevents
from lungline.events.cloudevents import MAX_EVENT_BYTES

MOST_BYTES = MAX_EVENT_BYTES // 2
# What JSON makes of a character of an attribute, at most: \u00e9.
_ESCAPED = 6


def joins(waiting: Sequence[KafkaRecord], record: KafkaRecord, most: int) -> bool:
    """Whether a record fits into the batch; each record but the first was checked when it was added."""
    if len(waiting) >= most or sum(map(_size, waiting)) + _size(record) > MOST_BYTES:
        return False
    return all(map(_fits, (waiting[0], record) if len(waiting) == 1 else (record,)))


def body_of(records: Sequence[KafkaRecord], traces: Sequence[str | None]) -> bytes:
    """The body of their request; each event belongs to the trace at its place, where there is one."""
    attributes = (
        record.attributes() | ({tracing.HEADER: trace} if trace else {})
        for record, trace in zip(records, traces, strict=True)
    )
    return cloudevents.batch(zip(attributes, (record.value for record in records), strict=True))


def _fits(record: KafkaRecord) -> bool:
    return bool(record.event) and cloudevents.fits_batch(record.event, record.content_type, record.value)


def _size(record: KafkaRecord) -> int:
    return len(record.value) + _ESCAPED * sum(len(name) + len(value) + 8 for name, value in record.event.items())
