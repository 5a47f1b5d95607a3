"""A witness of the topics: reads every event while a stack works, for the laptop's broker soon drops what is done."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from eventing.kafka import PARTITIONS, client_options, ensure_topics
from lungline.errors import EventMalformed
from lungline.events.uploads import Upload, parse
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from tests.support.history.operations import Journal, Operation
from tests.support.history.traces import object_of

_PATIENCE_SECONDS = 60.0
_OPTIONS = {
    "group.id": "witness",
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
    "fetch.wait.max.ms": 50,
    "reconnect.backoff.max.ms": 200,
    "log_level": 0,
}


class Witness:
    """Writes events, replies and dead letters into a journal, and how many it missed while the broker was away."""

    def __init__(self, connected: Settings, journal: Journal) -> None:
        self._journal = journal
        self._topics = {
            connected.uploads_topic: "bridge event",
            connected.results_topic: "trigger reply",
            connected.dead_letters_topic: "trigger dead letter",
            connected.rejudge_topic: "rejudger event",
        }
        self._consumer = Consumer(client_options(connected) | _OPTIONS)
        self._ends = {(topic, number): -1 for topic in self._topics for number in range(PARTITIONS)}
        """Of each partition; negative before the broker has answered."""
        self._consumer.assign([TopicPartition(*place, OFFSET_BEGINNING) for place in self._ends])
        self._next: dict[tuple[str, int], int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def catch_up(self) -> bool:
        """Whether everything that the topics have now was read within a minute."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if all(0 <= end <= self._next.get(place, 0) for place, end in list(self._ends.items())):
                return True
            time.sleep(0.05)
        return False

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def _read(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(0.1)
            if message is not None and not message.error():
                self._write(message)
            for place in self._ends:  # as of the last answer to this reader, which comes many times a second
                self._ends[place] = self._consumer.get_watermark_offsets(TopicPartition(*place), cached=True)[1]

    def _write(self, message: Message) -> None:
        place, offset = (message.topic() or "", message.partition() or 0), message.offset() or 0
        name, expected = self._topics[place[0]], self._next.get(place, 0)
        if offset < expected:  # read again
            return
        if offset > expected:
            self._journal.note(f"{name} missed", count=offset - expected)
        at = message.timestamp()[1] / 1000
        for identity, value in _content(name, message.value() or b""):
            value |= {"partition": place[1], "offset": offset}
            self._journal.add(Operation(name, identity, value, invoked=at, returned=at))
        self._next[place] = offset + 1


def _content(name: str, data: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """The uploads of a message, with what matters of each."""
    if name != "trigger reply":
        for upload in _uploads(data):
            yield upload.identity, {"object": object_of(upload)}
        return
    document = json.loads(data)
    for each in document.get("records", [document]):
        record = ResultRecord.model_validate(each)
        yield record.upload.identity, {"version": record.model.version}


def _uploads(data: bytes) -> list[Upload]:
    try:
        return parse(data)
    except EventMalformed:
        return []


@contextmanager
def witness(connected: Settings, journal: Journal) -> Iterator[Witness]:
    """A witness for as long as the context lasts."""
    ensure_topics(connected, [connected.rejudge_topic])  # the others are there
    reading = Witness(connected, journal)
    try:
        yield reading
    finally:
        reading.close()
