"""One route at work: reads its topic from the committed offset, delivers the records, commits what is done."""

import logging
import threading
import time
from typing import TYPE_CHECKING

from eventing.batches import joins
from eventing.delivery import Dispatcher
from eventing.kafka import LONG_RUNNING, ensure_topics, make_consumer, unavailable
from eventing.kafka_record import KafkaRecord
from eventing.offsets import OFFSET_BEGINNING, OffsetTracker, assign_uncommitted, partitions_of, starts_of
from eventing.producer import Outbox
from eventing.routes import Route
from lungline.errors import KafkaUnavailable
from lungline.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, TopicPartition

HELD = 10_000  # records read and not done: in flight, or waiting for a retry
# What is not committed is delivered again after a kill, which does no harm; the embedded broker writes two objects for
# each commit.
COMMIT_SECONDS = 2.0
# A record ends both waits. The first is what a stop may have to wait for.
POLL_SECONDS, FETCH_MILLISECONDS = 0.2, 2000
# Of routes that rest.
SHORT_FETCH_MILLISECONDS = 20
WATERMARK_SECONDS = 0.5
PARTITIONS_SECONDS, LOOK_SECONDS = 30.0, 2.0
# The broker must prove itself this often, and has failed when its last proof is older than the second.
PROOF_SECONDS, PROVEN_SECONDS = 5.0, 12.0
# A position beyond the end is given up after so many looks: an answer may be older than a record.
LOOKS_BEYOND = 3
# How long a stop waits for brokers that may be gone: what they do not learn is delivered again after the next start.
LAST_COMMIT_SECONDS, CLOSE_SECONDS = 5.0, 5.0

log = logging.getLogger("lungline.trigger")


class Subscription:
    """Delivers the records of one topic; `run` until `stopping` is set.

    Delivery is at least once: an offset is committed when its record and all before it are done, that is accepted by
    the sink with the reply in Kafka, or a dead letter.
    """

    def __init__(self, settings: Settings, route: Route, outbox: Outbox, stopping: threading.Event) -> None:
        self.route = route
        self.dispatcher = Dispatcher(route, outbox)
        self._settings = settings
        self._stopping = stopping
        self._trackers: dict[int, OffsetTracker] = {}
        self._requested: dict[int, int] = {}
        """Offsets by partition, as the last commit requested them."""
        self._open_commits = 0
        """Commits that the broker has not answered yet."""
        self._commit_fault = ""
        """Why the last commit failed; logged once."""
        self._watermarks: dict[int, tuple[int, int]] = {}
        self._at_end: set[int] = set()
        """Partitions that were read to their end since the last rest."""
        self._ahead: KafkaRecord | None = None
        """A record that was read and could not share a request with those before it."""
        self._beyond: dict[int, int] = {}
        """By partition, in how many looks its position lay beyond its end."""
        self.mended = 0
        """How many such positions were given up."""
        self._proven = 0.0
        """When the broker last answered, on the monotonic clock."""
        self._consumer = self._make_consumer()

    @property
    def is_ready(self) -> bool:
        """Whether the broker has answered its reader lately and its sink accepts records."""
        proven = time.monotonic() - self._proven < PROVEN_SECONDS
        return proven and bool(self._trackers) and self.dispatcher.breaker.is_closed

    @property
    def held(self) -> int:
        """How many records are read and not done."""
        return sum(tracker.open for tracker in list(self._trackers.values()))

    def lag(self) -> int:
        """How many records of its topic are not done, by the broker's last answer."""
        watermarks = list(self._watermarks.items())
        return sum(max(0, high - max(self._trackers[number].done + 1, low)) for number, (low, high) in watermarks)

    def run(self) -> None:
        """Deliver until stopped; then finish what is in flight and commit."""
        try:
            self._assign()
            self._deliver()
        finally:
            self.dispatcher.end()
            self._commit_last()
            self._close()

    def _deliver(self) -> None:
        committed = looked = proved = compared = time.monotonic()
        while not self._stopping.is_set():
            if self._has_room() and (records := self._waiting()):
                self.dispatcher.dispatch_batch([(record, self._tracker_of(record)) for record in records])
            if time.monotonic() - looked > PARTITIONS_SECONDS:
                self._add_partitions()
                looked = time.monotonic()
            if time.monotonic() - proved > PROOF_SECONDS:
                self._prove()
                proved = time.monotonic()
            if time.monotonic() - committed > COMMIT_SECONDS:
                self._commit()
                committed = time.monotonic()
            if time.monotonic() - compared > WATERMARK_SECONDS:
                self._read_watermarks()
                self._mend_positions()
                compared = time.monotonic()

    def _assign(self) -> None:
        """Assign all partitions, once the broker answers."""
        from confluent_kafka import KafkaException

        route, topic = self.route, self.route.topic
        written = (topic, route.replies, route.dead_letters)
        while not self._stopping.is_set():
            try:
                ensure_topics(self._settings, [name for name in written if name])
                starts = assign_uncommitted(self._consumer, topic, timeout_seconds=5)
            except (KafkaUnavailable, KafkaException) as exc:
                named = isinstance(exc, KafkaUnavailable)
                reason = exc if named else unavailable(self._settings, exc, topic=topic, group=route.group)
                log.warning("%s Trying again.", reason)
                self._stopping.wait(0.2)
                continue
            self._trackers = {number: OffsetTracker(start - 1) for number, start in starts.items()}
            self._proven = time.monotonic()
            log.info("Delivering %d partitions of %s to %s.", len(starts), topic, self.route.url)
            return

    def _add_partitions(self) -> None:
        """Read also partitions that the topic was given since; the embedded broker's topics keep theirs."""
        from confluent_kafka import KafkaException, TopicPartition

        topic = self.route.topic
        try:
            numbers = partitions_of(self._consumer, topic, LOOK_SECONDS)
            starts = starts_of(self._consumer, topic, sorted({*numbers} - {*self._trackers}), LOOK_SECONDS)
        except KafkaException:
            return  # what cannot be read now is read after the next look
        if starts:
            self._consumer.incremental_assign([TopicPartition(topic, *start) for start in starts.items()])
            self._trackers |= {number: OffsetTracker(start - 1) for number, start in starts.items()}
            log.info("Delivering %d more partitions of %s.", len(starts), topic)

    def _read_watermarks(self) -> None:
        """Remember where the topic begins and ends, as the client knows from its fetches.

        In this thread: the client blocks other threads while one polls.
        """
        from confluent_kafka import TopicPartition

        for number in self._trackers:
            partition = TopicPartition(self.route.topic, number)
            self._watermarks[number] = self._consumer.get_watermark_offsets(partition, cached=True)

    def _prove(self) -> None:
        """Ask the broker for something; in this thread, so that the answer also proves that the thread goes on."""
        from confluent_kafka import KafkaException

        try:
            partitions_of(self._consumer, self.route.topic, LOOK_SECONDS)
        except KafkaException:
            return
        self._proven = time.monotonic()

    def _mend_positions(self) -> None:
        """Give up positions beyond the end of a partition, where the embedded broker would let it wait for ever.

        Such a position was committed by somebody else, or the topic lost its last records. What was delivered is
        unknown, so everything that the broker keeps is delivered again, which does no harm.
        """
        for number, (_, high) in list(self._watermarks.items()):
            is_beyond = 0 <= high < self._trackers[number].done + 1
            self._beyond[number] = self._beyond.get(number, 0) + 1 if is_beyond else 0
            if self._beyond[number] >= LOOKS_BEYOND:
                self._begin_anew(number, high)

    def _begin_anew(self, number: int, high: int) -> None:
        from confluent_kafka import KafkaException, TopicPartition

        topic, position = self.route.topic, self._trackers[number].done + 1
        log.error(
            "Group %s is at offset %d of %s, which ends at %d: reading again from its beginning.",
            *(self.route.group, position, topic, high),
        )
        try:
            self._consumer.commit(offsets=[TopicPartition(topic, number, 0)], asynchronous=True)
            self._consumer.seek(TopicPartition(topic, number, OFFSET_BEGINNING))
        except KafkaException as exc:
            log.warning("%s", unavailable(self._settings, exc, topic=topic, group=self.route.group))
            return  # the next look tries again
        if self._ahead and self._ahead.partition == number:
            self._ahead = None  # it comes again
        self._trackers[number] = OffsetTracker(-1)
        self._requested.pop(number, None)
        self._beyond[number] = 0
        self.mended += 1

    def _has_room(self) -> bool:
        """Whether another record may be read; back-pressure leaves the others in Kafka."""
        if self.held < HELD:
            return self.dispatcher.has_free_slot(POLL_SECONDS)
        self._stopping.wait(POLL_SECONDS)
        return False

    def _waiting(self) -> list[KafkaRecord]:
        """The next record, and those that wait behind it and may share its request; empty when there is none."""
        first, self._ahead = self._ahead or self._read(POLL_SECONDS), None
        if first is None and self.route.rest_seconds and len(self._at_end) >= len(self._trackers):
            self._rest()
        records = [first] if first else []
        while first and len(records) < self.route.batch and (record := self._read(0)):
            if not joins(records, record, self.route.batch):
                self._ahead = record
                break
            records.append(record)
        return records

    def _read(self, seconds: float) -> KafkaRecord | None:
        from confluent_kafka import KafkaError

        message = self._consumer.poll(seconds)
        if message and (error := message.error()):
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - so the client names it
                self._at_end.add(message.partition() or 0)
                return None
            log.warning("%s", unavailable(self._settings, error, topic=self.route.topic))
            return None
        return KafkaRecord.of(message) if message else None

    def _rest(self) -> None:
        """Let no fetch wait at the broker for a while."""
        from confluent_kafka import TopicPartition

        partitions = [TopicPartition(self.route.topic, number) for number in self._trackers]
        self._consumer.pause(partitions)
        self._stopping.wait(self.route.rest_seconds)
        self._consumer.resume(partitions)
        self._at_end.clear()

    def _tracker_of(self, record: KafkaRecord) -> OffsetTracker:
        if record.offset <= self._trackers[record.partition].done:
            # The topic was created anew, and its offsets start from 0 again; or the position was beyond the end, and
            # Apache Kafka has sent the reader back to the beginning.
            log.error("Offsets of %s step back to %d: delivering from there.", self.route.topic, record.offset)
            self.mended += 1
            self._trackers[record.partition] = OffsetTracker(record.offset - 1)
        return self._trackers[record.partition]

    def _commit_last(self) -> None:
        """Commit what is done, and wait a while for the answer; records that come meanwhile are read again."""
        deadline = time.monotonic() + LAST_COMMIT_SECONDS
        while time.monotonic() < deadline:
            self._commit()  # again after one that failed
            if not self._open_commits:
                return
            self._consumer.poll(POLL_SECONDS)

    def _close(self) -> None:
        """Close the consumer; in a thread, because it waits for its group's broker as long as that is away."""
        closing = threading.Thread(target=self._consumer.close, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)

    def _commit(self) -> None:
        from confluent_kafka import KafkaException, TopicPartition

        done = {number: tracker.done + 1 for number, tracker in self._trackers.items() if tracker.done >= 0}
        changed = {number: offset for number, offset in done.items() if self._requested.get(number) != offset}
        if changed:
            self._requested |= changed
            offsets = [TopicPartition(self.route.topic, number, offset) for number, offset in changed.items()]
            try:
                self._consumer.commit(offsets=offsets, asynchronous=True)
            except KafkaException as exc:
                log.warning("Offsets could not be committed: %s.", exc)
            else:
                self._open_commits += 1

    def _committed(self, error: "KafkaError | None", _: "list[TopicPartition]") -> None:
        self._open_commits = max(0, self._open_commits - 1)
        fault = str(unavailable(self._settings, error, topic=self.route.topic, group=self.route.group)) if error else ""
        if fault and fault != self._commit_fault:
            log.warning("Offsets of %s could not be committed; trying again. %s", self.route.topic, fault)
        self._commit_fault = fault
        if error:
            self._requested.clear()

    def _make_consumer(self) -> "Consumer":
        options = {
            # A record ends the wait: brokers see to that, and the embedded one's gate.
            "fetch.wait.max.ms": SHORT_FETCH_MILLISECONDS if self.route.rest_seconds else FETCH_MILLISECONDS,
            "enable.partition.eof": bool(self.route.rest_seconds),
            "queued.min.messages": 100,
            "queued.max.messages.kbytes": 4096,
            # Records are read when there is room for them, however long that takes.
            "max.poll.interval.ms": 86_400_000,
            "on_commit": self._committed,
        }
        return make_consumer(self._settings, self.route.group, LONG_RUNNING | options)
