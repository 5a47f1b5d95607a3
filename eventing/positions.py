"""Where a consumer group stands in a topic, set from outside by those who read no record."""

from collections.abc import Callable

from eventing.kafka import make_consumer, unavailable
from eventing.offsets import partitions_of
from lungline.settings import Settings

NOWHERE = 2**62
"""The position of a group that wants no more records: nobody keeps any for it."""


def begin_at_end(settings: Settings, topic: str, group: str, timeout_seconds: float = 10.0) -> None:
    """Let a group begin with the records that come from now on, whatever it has read. Raises KafkaUnavailable."""
    _commit(settings, topic, group, timeout_seconds, lambda _, high: high)


def retire(settings: Settings, topic: str, group: str, timeout_seconds: float = 10.0) -> None:
    """Say for a group that it wants no more records of a topic. Raises KafkaUnavailable."""
    _commit(settings, topic, group, timeout_seconds, lambda _low, _high: NOWHERE)


def _commit(
    settings: Settings, topic: str, group: str, timeout_seconds: float, position: Callable[[int, int], int]
) -> None:
    """Commit for each partition the position that follows from where it begins and ends."""
    from confluent_kafka import KafkaException, TopicPartition

    consumer = make_consumer(settings, group, {})
    try:
        partitions = [TopicPartition(topic, number) for number in partitions_of(consumer, topic, timeout_seconds)]
        for partition in partitions:
            partition.offset = position(*consumer.get_watermark_offsets(partition, timeout=timeout_seconds))
        consumer.commit(offsets=partitions, asynchronous=False)
    except KafkaException as exc:
        raise unavailable(settings, exc, topic=topic, group=group) from exc
    finally:
        consumer.close()
