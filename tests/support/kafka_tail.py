"""The records of a Kafka topic, read from its beginning."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from eventing.kafka import client_options
from lungline.events.uploads import Upload, parse
from lungline.settings import Settings


def uploads_of(records: list[Message]) -> list[Upload]:
    """The uploads of upload events."""
    return [upload for record in records for upload in parse(record.value() or b"")]


class Tail:
    """The records of one topic so far, in the order of their arrival."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self.records: list[Message] = []

    def until(self, enough: Callable[[list[Message]], bool], seconds: float = 20) -> list[Message]:
        """Read until `enough` is true of the records; fails when it is not in time."""
        deadline = time.monotonic() + seconds
        while not enough(self.records):
            assert time.monotonic() < deadline, f"{len(self.records)} records are not enough after {seconds} s"
            self._read(0.1)
        return self.records

    def settled(self, quiet_seconds: float = 1.0) -> list[Message]:
        """All records, after none has arrived for this many seconds."""
        quiet = time.monotonic() + quiet_seconds
        while time.monotonic() < quiet:
            if self._read(0.1):
                quiet = time.monotonic() + quiet_seconds
        return self.records

    def _read(self, seconds: float) -> bool:
        message = self._consumer.poll(seconds)
        if message is None or message.error():
            return False
        self.records.append(message)
        return True


@contextmanager
def tail(settings: Settings, topic: str) -> Iterator[Tail]:
    """Read a topic while the context lasts."""
    options = client_options(settings) | {"group.id": "tests", "enable.auto.commit": False}
    consumer = Consumer({**options, "fetch.wait.max.ms": 50, "log_level": 0, "reconnect.backoff.max.ms": 500})
    try:
        numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in numbers])
        yield Tail(consumer)
    finally:
        consumer.close()
