"""The trigger: each record of the uploads topic goes to the predictor, as Knative's KafkaSource would send it.

Delivery is at least once and in no order, several at a time. An offset is committed when it and all before it are
done, that is: taken by the predictor with its reply in Kafka, or a dead letter. Retries are Knative's: statuses from
500 on, 404, 408, 409, 429 and a silent sink, 10 times, after 0.2 s, 0.4 s, ... 30 s (111 s together); any other
status is a dead letter at once. While the predictor says that it is not ready, events wait and no attempt is counted.
`lungline replay` delivers dead letters again.
"""

import heapq
import itertools
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laptop.cloudevents import Record, dead_letter_headers, http_headers, reply_headers
from laptop.home import Home
from laptop.notes import leave_note, noted_state
from laptop.outbox import Headers, Outbox
from laptop.part import Command, State, base_environment, settings_environment
from laptop.process import running
from laptop.progress import Progress
from laptop.sink import Answer, Gate, Sink
from laptop.topics import TRIGGER_GROUP, bootstrap, ensure_topics
from lungline.errors import KafkaUnavailable, LunglineError, StackError
from lungline.settings import Settings, load_settings

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, TopicPartition

IN_FLIGHT = 16  # requests at once
HELD = 10_000  # records taken and not done: in flight, or between two attempts
RETRIES = 10
FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 0.2, 30.0
REFUSED_SECONDS = 1.0
COMMIT_SECONDS = 0.5
POLL_SECONDS = 0.1

log = logging.getLogger("lungline.trigger")


@dataclass(frozen=True)
class TriggerPart:
    """The trigger as a part of the stack; `settings` name broker and predictor."""

    home: Home
    settings: Settings

    name = "trigger"
    address = None
    after = ()  # it waits for broker and predictor by itself
    grace = 5.0
    watched = True

    def command(self) -> Command:
        """How to start it."""
        env = base_environment() | settings_environment(self.settings)
        return Command((sys.executable, "-P", "-m", "laptop.trigger"), env, self.home.path)

    def probe(self, pid: int) -> State:
        """What it has noted of itself."""
        return noted_state(self.home, self.name, pid)

    def tend(self) -> None:
        """Nothing to do."""


@contextmanager
def running_trigger(home: Path, settings: Settings) -> Iterator[None]:
    """A trigger alone, between a broker and a predictor."""
    made = Home.make(home)
    part = TriggerPart(made, settings)
    with running(part, made.log(part.name)):
        yield


@dataclass(order=True, slots=True)
class Delivery:
    """A record on its way; ordered by when its next attempt is due."""

    due: float
    number: int
    record: Record = field(compare=False)
    progress: Progress = field(compare=False)
    """Of its partition."""
    place: int = field(compare=False)
    """In that progress."""
    attempts: int = field(default=0, compare=False)

    def finish(self) -> None:
        """Nothing is left to do for it."""
        self.progress.finish(self.place)


class Trigger:
    """Delivers records; `run` until `stop`, from another thread or a signal handler."""

    def __init__(self, home: Home, settings: Settings) -> None:
        from confluent_kafka import Consumer

        if not settings.predictor_uri:
            raise StackError("No predictor is set: start the stack with `lungline up`, or set LUNGLINE_PREDICTOR_URI.")
        self._home = home
        self._settings = settings
        self._sink = Sink(f"{settings.predictor_uri}/v1/models/{settings.model_name}:predict")
        self._gate = Gate(self._sink)
        self._pool = ThreadPoolExecutor(IN_FLIGHT, "delivery")
        self._places = threading.Semaphore(IN_FLIGHT)
        self._waiting: list[Delivery] = []
        self._waiting_changed = threading.Condition()
        self._numbers = itertools.count()
        self._progress: dict[int, Progress] = {}
        self._asked: dict[int, int] = {}
        self._counts = {"delivered": 0, "retried": 0, "dead_letters": 0}
        self._counting = threading.Lock()
        self._stopping = threading.Event()
        self._outbox = Outbox(settings)
        self._consumer = Consumer(self._consumer_options())

    def run(self) -> None:
        """Deliver until `stop`; then finish what is in flight and commit."""
        threads = [threading.Thread(target=work) for work in (self._serve_outbox, self._send_due, self._keep_notes)]
        for thread in threads:
            thread.start()
        self._assign()
        committed = time.monotonic()
        while not self._stopping.is_set():
            if self._has_room() and (message := self._consumer.poll(POLL_SECONDS)):
                self._take(message)
            if time.monotonic() - committed > COMMIT_SECONDS:
                self._commit()
                committed = time.monotonic()
        self._gate.end()
        self._pool.shutdown(cancel_futures=True)
        self._outbox.flush(2)
        for thread in threads:
            thread.join()
        self._commit(last=True)
        self._consumer.close()
        self._sink.close()

    def stop(self) -> None:
        """End `run` soon."""
        self._stopping.set()

    def _assign(self) -> None:
        """Take all partitions, each from its committed offset on; joining a group would cost seconds."""
        from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition

        topic = self._settings.uploads_topic
        while not self._stopping.is_set():
            try:
                ensure_topics(self._settings)
                numbers = self._consumer.list_topics(topic, timeout=5).topics[topic].partitions
                known = self._consumer.committed([TopicPartition(topic, number) for number in numbers], timeout=5)
            except (KafkaUnavailable, KafkaException) as exc:
                log.warning("%s Trying again.", exc)
                self._stopping.wait(0.2)
                continue
            # Where nothing is committed: from the beginning, because an upload must not be missed.
            starts = {one.partition: one.offset if one.offset >= 0 else OFFSET_BEGINNING for one in known}
            self._progress = {number: Progress(start - 1) for number, start in starts.items()}
            self._consumer.assign([TopicPartition(topic, number, start) for number, start in starts.items()])
            log.info("Delivering %d partitions of %s to %s.", len(starts), topic, self._sink.url)
            return

    def _has_room(self) -> bool:
        """Whether another record may be taken: back-pressure, the others stay in Kafka."""
        if sum(progress.open for progress in self._progress.values()) >= HELD:
            self._stopping.wait(POLL_SECONDS)
            return False
        if self._places.acquire(timeout=POLL_SECONDS):
            self._places.release()
            return True
        return False

    def _take(self, message: "Message") -> None:
        if error := message.error():
            log.warning("The broker says: %s.", error)
            return
        record = _record(message)
        progress = self._progress[record.partition]
        if record.offset <= progress.done:
            # The topic has been made anew, and counts from the beginning again.
            progress = self._progress[record.partition] = Progress(record.offset - 1)
        self._send(Delivery(0.0, next(self._numbers), record, progress, progress.begin(record.offset)))

    def _send(self, delivery: Delivery) -> None:
        self._places.acquire()
        try:
            self._pool.submit(self._attempt, delivery)
        except RuntimeError:  # the pool is shut down: the record comes again after the next start
            self._places.release()

    def _attempt(self, delivery: Delivery) -> None:
        try:
            if self._gate.wait():
                self._settle(delivery, self._sink.post(delivery.record.value, http_headers(delivery.record)))
        except Exception:
            log.exception("Delivery of %s failed.", delivery.record)
            self._retry(delivery, Answer(None, b"dispatch error: in the trigger"))
        finally:
            self._places.release()

    def _settle(self, delivery: Delivery, answer: Answer) -> None:
        if answer.delivered:
            self._count("delivered")
            self._reply(delivery, answer)
            return
        if answer.away:
            self._gate.doubt()
        if answer.temporary:
            self._retry(delivery, answer)
        else:
            self._bury(delivery, answer)

    def _retry(self, delivery: Delivery, answer: Answer) -> None:
        if delivery.attempts >= RETRIES:
            self._bury(delivery, answer)
            return
        self._count("retried")
        backoff = min(FIRST_BACKOFF_SECONDS * 2**delivery.attempts, LONGEST_BACKOFF_SECONDS)
        delivery.attempts += 1
        self._send_later(delivery, backoff)

    def _send_later(self, delivery: Delivery, seconds: float) -> None:
        delivery.due = time.monotonic() + seconds
        with self._waiting_changed:
            heapq.heappush(self._waiting, delivery)
            self._waiting_changed.notify()

    def _reply(self, delivery: Delivery, answer: Answer) -> None:
        headers = reply_headers(answer.headers)
        if headers is None:
            delivery.finish()
            return
        attributes = dict(headers)
        key = attributes.get("ce_partitionkey") or attributes.get("ce_subject")
        self._produce(self._settings.results_topic, answer.body, key, headers, delivery)

    def _bury(self, delivery: Delivery, answer: Answer) -> None:
        record = delivery.record
        self._count("dead_letters")
        log.warning("Dead letter: partition %d, offset %d, status %s.", record.partition, record.offset, answer.status)
        headers = dead_letter_headers(record, self._sink.url, answer.status or 500, answer.body)
        self._produce(self._settings.dead_letters_topic, record.value, record.key, headers, delivery)

    def _produce(self, topic: str, value: bytes, key: str | bytes | None, headers: Headers, done: Delivery) -> None:
        """Write to Kafka; `done` is finished when the broker has it."""

        def delivered(error: "KafkaError | None", _: "Message") -> None:
            if error is None:
                done.finish()
            elif not self._stopping.is_set():
                log.error("The broker refused a record for %s: %s. Delivering again.", topic, error)
                self._send_later(done, REFUSED_SECONDS)

        while not self._outbox.put(topic, value, key, delivered, headers):
            if self._stopping.wait(POLL_SECONDS):
                return

    def _commit(self, *, last: bool = False) -> None:
        from confluent_kafka import KafkaException, TopicPartition

        topic = self._settings.uploads_topic
        now = {number: progress.done + 1 for number, progress in self._progress.items() if progress.done >= 0}
        changed = {number: offset for number, offset in now.items() if self._asked.get(number) != offset}
        if changed:
            self._asked |= changed
            offsets = [TopicPartition(topic, number, offset) for number, offset in changed.items()]
            try:
                self._consumer.commit(offsets=offsets, asynchronous=not last)
            except KafkaException as exc:
                log.warning("Offsets could not be committed: %s.", exc)

    def _committed(self, error: "KafkaError | None", _: "list[TopicPartition]") -> None:
        if error:
            self._asked.clear()  # ask again

    def _send_due(self) -> None:
        """Deliver again what is due."""
        while not self._stopping.is_set():
            with self._waiting_changed:
                left = self._waiting[0].due - time.monotonic() if self._waiting else POLL_SECONDS
                if left > 0:
                    self._waiting_changed.wait(min(left, POLL_SECONDS))
                    continue
                delivery = heapq.heappop(self._waiting)
            self._send(delivery)

    def _serve_outbox(self) -> None:
        while not self._stopping.is_set():
            self._outbox.serve(POLL_SECONDS)

    def _keep_notes(self) -> None:
        noted: Any = None
        while not self._stopping.is_set():
            state: State = "ready" if self._progress and self._gate.is_open else "waiting"
            held = sum(progress.open for progress in list(self._progress.values()))
            if (now := (state, held, *self._counts.values())) != noted:
                leave_note(self._home, "trigger", state, held=held, **self._counts)
                noted = now
            self._stopping.wait(POLL_SECONDS)

    def _count(self, what: str) -> None:
        with self._counting:
            self._counts[what] += 1

    def _consumer_options(self) -> dict[str, Any]:
        return {
            "bootstrap.servers": bootstrap(self._settings),
            "group.id": TRIGGER_GROUP,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            # The embedded broker looks for new records as often as a request ends: 50 ms would cost an upload 13 ms
            # more on average, 500 ms 200 ms. An idle trigger asks, and costs the broker 4 % of a core.
            "fetch.wait.max.ms": 10,
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


def _record(message: "Message") -> Record:
    content_type = dict(message.headers() or []).get("content-type")
    key = message.key()
    return Record(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        value=message.value() or b"",
        key=key.encode() if isinstance(key, str) else key,
        content_type=content_type.decode(errors="replace") if isinstance(content_type, bytes) else None,
        milliseconds=message.timestamp()[1],
    )


def main() -> None:
    """Run a trigger until SIGTERM."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    settings = load_settings()
    trigger = Trigger(Home.make(settings.home), settings)
    signal.signal(signal.SIGTERM, lambda *_: trigger.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the supervisor, which decides who ends when
    trigger.run()


if __name__ == "__main__":
    try:
        main()
    except LunglineError as exc:
        log.error("%s", exc)  # noqa: TRY400 - the sentence says it; a traceback would not add to it
        sys.exit(1)
