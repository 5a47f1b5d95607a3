"""Which records of a stream are done, and where reading resumes.

Only records without a gap before them may be committed: after a crash everything behind the gap is read again.
"""

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from confluent_kafka import Consumer

OFFSET_BEGINNING = -2
"""librdkafka's."""


def assign_uncommitted(
    consumer: "Consumer", topic: str, timeout_seconds: float, *, from_beginning: bool = False
) -> dict[int, int]:
    """Assign all partitions of a topic, each from its committed offset, or from its beginning where none is committed.

    `from_beginning` ignores committed offsets. Returns the start offset by partition; librdkafka's OFFSET_BEGINNING is
    negative. Assigning costs nothing, joining a consumer group seconds. Raises KafkaException.
    """
    from confluent_kafka import TopicPartition

    starts = starts_of(consumer, topic, partitions_of(consumer, topic, timeout_seconds), timeout_seconds)
    if from_beginning:
        starts = dict.fromkeys(starts, OFFSET_BEGINNING)
    consumer.assign([TopicPartition(topic, number, start) for number, start in starts.items()])
    return starts


def assign_end(consumer: "Consumer", topic: str, timeout_seconds: float = 10.0) -> None:
    """Assign all partitions of a topic in addition to others, each from where it ends now. Raises KafkaException."""
    from confluent_kafka import TopicPartition

    partitions = [TopicPartition(topic, number) for number in partitions_of(consumer, topic, timeout_seconds)]
    for partition in partitions:
        partition.offset = consumer.get_watermark_offsets(partition, timeout=timeout_seconds)[1]
    consumer.incremental_assign(partitions)


def partitions_of(consumer: "Consumer", topic: str, timeout_seconds: float) -> list[int]:
    """The numbers of a topic's partitions. Raises KafkaException, also when it is missing or may not be seen."""
    from confluent_kafka import KafkaException

    topic_metadata = consumer.list_topics(topic, timeout=timeout_seconds).topics[topic]
    if topic_metadata.error:  # it then has no partitions
        raise KafkaException(topic_metadata.error)
    return list(topic_metadata.partitions)


def starts_of(consumer: "Consumer", topic: str, numbers: list[int], timeout_seconds: float) -> dict[int, int]:
    """The committed offsets of partitions, OFFSET_BEGINNING where none is committed. Raises KafkaException."""
    from confluent_kafka import TopicPartition

    partitions = [TopicPartition(topic, number) for number in numbers]
    committed = consumer.committed(partitions, timeout=timeout_seconds) if partitions else []
    return {position.partition: OFFSET_BEGINNING if position.offset < 0 else position.offset for position in committed}


class OffsetTracker:
    """Tracks records that begin in order and finish in any order; may be shared by threads.

    Each record has a position (an offset, a time), which is what would be committed for it. Positions may repeat or
    step back a little; the ticket that `begin` returns tells records apart.
    """

    def __init__(self, done: int) -> None:
        self._done = done
        self._last_ticket = 0
        self._begun: OrderedDict[int, int] = OrderedDict()
        self._finished: set[int] = set()
        self._lock = threading.Lock()

    @property
    def done(self) -> int:
        """The highest position up to which everything is finished."""
        with self._lock:
            return self._done

    @property
    def open(self) -> int:
        """How many records have begun and are not covered by `done`."""
        with self._lock:
            return len(self._begun)

    def begin(self, position: int) -> int:
        """Track a record; returns its ticket."""
        with self._lock:
            self._last_ticket += 1
            self._begun[self._last_ticket] = position
            return self._last_ticket

    def finish(self, ticket: int) -> None:
        """Mark a record as done; finishing it twice changes nothing."""
        with self._lock:
            if ticket in self._begun:
                self._finished.add(ticket)
            while self._begun and (first := next(iter(self._begun))) in self._finished:
                self._finished.remove(first)
                self._done = max(self._done, self._begun.pop(first))
