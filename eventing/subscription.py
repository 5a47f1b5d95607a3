"""One route at work: reads its topic from where it left off, has its dispatcher deliver, commits what is done."""

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from eventing.delivery import Dispatcher
from eventing.kafka import client_options, ensure_topics
from eventing.kafka_record import KafkaRecord
from eventing.offsets import OffsetTracker
from eventing.producer import Outbox
from eventing.routes import Route
from lungline.errors import KafkaUnavailable
from lungline.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, TopicPartition

HELD = 10_000  # records taken and not done: in flight, or between two attempts
COMMIT_SECONDS = 0.5
POLL_SECONDS = 0.1

log = logging.getLogger("lungline.trigger")


class Subscription:
    """Delivers the records of one topic; `run` until `stopping` is set.

    Delivery is at least once: an offset is committed when it and all before it are done, that is taken by the
    receiver with its reply in Kafka, or a dead letter.
    """

    def __init__(self, settings: Settings, route: Route, outbox: Outbox, stopping: threading.Event) -> None:
        from confluent_kafka import Consumer

        self.route = route
        self.dispatcher = Dispatcher(route, outbox)
        self._settings = settings
        self._stopping = stopping
        self._progress: dict[int, OffsetTracker] = {}
        self._asked: dict[int, int] = {}
        self._marks: dict[int, tuple[int, int]] = {}
        self._consumer = Consumer(self._consumer_options())

    @property
    def is_ready(self) -> bool:
        """Whether it reads its topic and its receiver takes records."""
        return bool(self._progress) and self.dispatcher.breaker.is_closed

    @property
    def held(self) -> int:
        """How many records are taken and not done."""
        return sum(one.open for one in list(self._progress.values()))

    def lag(self) -> int:
        """How many records of its topic are not done, by what the broker said last."""
        marks = self._marks.items()
        return sum(max(0, high - max(self._progress[number].done + 1, low)) for number, (low, high) in list(marks))

    def run(self) -> None:
        """Deliver until told to stop; then finish what is in flight and commit."""
        try:
            self._assign()
            self._deliver()
        finally:
            self.dispatcher.end()
            self._commit(last=True)
            self._consumer.close()

    def _deliver(self) -> None:
        committed = time.monotonic()
        while not self._stopping.is_set():
            if self._has_room() and (message := self._consumer.poll(POLL_SECONDS)):
                self._take(message)
            if time.monotonic() - committed > COMMIT_SECONDS:
                self._commit()
                self._look()
                committed = time.monotonic()

    def _assign(self) -> None:
        """Take all partitions, each from its committed offset on; joining a group would cost seconds."""
        from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition

        topic = self.route.topic
        while not self._stopping.is_set():
            try:
                ensure_topics(self._settings)
                numbers = self._consumer.list_topics(topic, timeout=5).topics[topic].partitions
                known = self._consumer.committed([TopicPartition(topic, number) for number in numbers], timeout=5)
            except (KafkaUnavailable, KafkaException) as exc:
                log.warning("%s Trying again.", exc)
                self._stopping.wait(0.2)
                continue
            # Where nothing is committed: from the beginning, because nothing must be missed.
            starts = {one.partition: one.offset if one.offset >= 0 else OFFSET_BEGINNING for one in known}
            self._progress = {number: OffsetTracker(start - 1) for number, start in starts.items()}
            self._consumer.assign([TopicPartition(topic, number, start) for number, start in starts.items()])
            log.info("Delivering %d partitions of %s to %s.", len(starts), topic, self.route.url)
            return

    def _look(self) -> None:
        """Note where the topic begins and ends; the client knows it from what it has fetched.

        In this thread: the client lets nobody else in while somebody polls.
        """
        from confluent_kafka import TopicPartition

        for number in self._progress:
            partition = TopicPartition(self.route.topic, number)
            self._marks[number] = self._consumer.get_watermark_offsets(partition, cached=True)

    def _has_room(self) -> bool:
        """Whether another record may be taken: back-pressure, the others stay in Kafka."""
        if self.held < HELD:
            return self.dispatcher.has_place(POLL_SECONDS)
        self._stopping.wait(POLL_SECONDS)
        return False

    def _take(self, message: "Message") -> None:
        if error := message.error():
            log.warning("The broker says: %s.", error)
            return
        record = KafkaRecord.of(message)
        if record.offset <= self._progress[record.partition].done:
            # The topic has been made anew, and counts from the beginning again.
            self._progress[record.partition] = OffsetTracker(record.offset - 1)
        self.dispatcher.dispatch(record, self._progress[record.partition])

    def _commit(self, *, last: bool = False) -> None:
        from confluent_kafka import KafkaException, TopicPartition

        now = {number: progress.done + 1 for number, progress in self._progress.items() if progress.done >= 0}
        changed = {number: offset for number, offset in now.items() if self._asked.get(number) != offset}
        if changed:
            self._asked |= changed
            offsets = [TopicPartition(self.route.topic, number, offset) for number, offset in changed.items()]
            try:
                self._consumer.commit(offsets=offsets, asynchronous=not last)
            except KafkaException as exc:
                log.warning("Offsets could not be committed: %s.", exc)

    def _committed(self, error: "KafkaError | None", _: "list[TopicPartition]") -> None:
        if error:
            self._asked.clear()  # ask again

    def _consumer_options(self) -> dict[str, Any]:
        return client_options(self._settings) | {
            "group.id": self.route.group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": self.route.wait_milliseconds,
            "queued.min.messages": 100,
            "queued.max.messages.kbytes": 4096,
            # We take records when there is room for them, however long that is.
            "max.poll.interval.ms": 86_400_000,
            "socket.nagle.disable": True,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 500,
            "on_commit": self._committed,
            "log_level": 3,
        }
