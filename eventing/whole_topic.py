"""Reads a topic to the end that it has now, and no further."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from lungline.errors import KafkaUnavailable

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

OnSilence = Callable[[Mapping[int, int]], KafkaUnavailable]
"""Why no message comes; called with the starts of the partitions that have not ended."""


def messages_to_end(
    consumer: "Consumer", topic: str, starts: Mapping[int, int], timeout_seconds: float, on_silence: OnSilence
) -> Iterator["Message"]:
    """Messages of assigned partitions up to the last that exists now; none that arrive later.

    `starts` are the offsets from which they were assigned; the consumer reports ends (`enable.partition.eof`). Raises
    KafkaException, and what `on_silence` makes when nothing comes for `timeout_seconds`.
    """
    from confluent_kafka import KafkaError, KafkaException, TopicPartition

    unread = set(starts)
    ends: dict[int, int] = {}
    while unread:
        message = consumer.poll(timeout_seconds)
        if message is None:
            raise on_silence({number: starts[number] for number in unread})
        number, offset = message.partition() or 0, message.offset() or 0
        if error := message.error():
            if error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - so the client names it
                raise KafkaException(error)
            unread.discard(number)
            continue
        if number not in ends:
            # Where the log ended when it was first read. An earlier answer may be wrong: the embedded broker counts
            # only the first record of its last batch.
            ends[number] = consumer.get_watermark_offsets(TopicPartition(topic, number), cached=True)[1]
        if offset < ends[number]:
            yield message
        if offset + 1 >= ends[number]:
            unread.discard(number)
