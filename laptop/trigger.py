"""The trigger: each record of the uploads topic goes to the predictor, as Knative's KafkaSource would send it.

Delivery is at least once. An offset is committed when it and all before it are done, that is: taken by the predictor
with its reply in Kafka, or a dead letter. `lungline replay` delivers dead letters again.
"""

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laptop.cloudevents import Record
from laptop.courier import Courier
from laptop.home import Home
from laptop.notes import leave_note, noted_state
from laptop.part import Command, State, base_environment, settings_environment
from laptop.process import running
from laptop.progress import Progress
from laptop.sink import Sink
from laptop.topics import TRIGGER_GROUP, bootstrap, ensure_topics
from lungline.errors import KafkaUnavailable, LunglineError, StackError
from lungline.settings import Settings, load_settings

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, TopicPartition

HELD = 10_000  # records taken and not done: in flight, or between two attempts
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


class Trigger:
    """Delivers records; `run` until `stop`, from another thread or a signal handler."""

    def __init__(self, home: Home, settings: Settings) -> None:
        from confluent_kafka import Consumer

        if not settings.predictor_uri:
            raise StackError("No predictor is set: start the stack with `lungline up`, or set LUNGLINE_PREDICTOR_URI.")
        self._home = home
        self._settings = settings
        self._sink = Sink(f"{settings.predictor_uri}/v1/models/{settings.model_name}:predict")
        self._courier = Courier(settings, self._sink)
        self._progress: dict[int, Progress] = {}
        self._asked: dict[int, int] = {}
        self._stopping = threading.Event()
        self._fault: Exception | None = None
        self._consumer = Consumer(self._consumer_options())

    def run(self) -> None:
        """Deliver until `stop`; then finish what is in flight and commit."""
        work = (self._courier.serve, self._courier.repeat, self._keep_notes)
        threads = [threading.Thread(target=self._guarded, args=(one,)) for one in work]
        for thread in threads:
            thread.start()
        try:
            self._assign()
            self._deliver()
        finally:
            self._stopping.set()
            self._courier.end()
            for thread in threads:
                thread.join()
            self._commit(last=True)
            self._consumer.close()
        if self._fault:
            raise self._fault

    def stop(self) -> None:
        """End `run` soon."""
        self._stopping.set()

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run a thread's work; without it the trigger would be there and do nothing, so its fault ends `run`."""
        try:
            work()
        except Exception as exc:  # noqa: BLE001 - raised again by `run`
            self._fault = exc
            self._stopping.set()

    def _deliver(self) -> None:
        committed = time.monotonic()
        while not self._stopping.is_set():
            if self._has_room() and (message := self._consumer.poll(POLL_SECONDS)):
                self._take(message)
            if time.monotonic() - committed > COMMIT_SECONDS:
                self._commit()
                committed = time.monotonic()

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
        if sum(progress.open for progress in self._progress.values()) < HELD:
            return self._courier.has_place(POLL_SECONDS)
        self._stopping.wait(POLL_SECONDS)
        return False

    def _take(self, message: "Message") -> None:
        if error := message.error():
            log.warning("The broker says: %s.", error)
            return
        record = _record(message)
        if record.offset <= self._progress[record.partition].done:
            # The topic has been made anew, and counts from the beginning again.
            self._progress[record.partition] = Progress(record.offset - 1)
        self._courier.carry(record, self._progress[record.partition])

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

    def _keep_notes(self) -> None:
        noted: Any = None
        while not self._stopping.is_set():
            state: State = "ready" if self._progress and self._courier.gate.is_open else "waiting"
            counts = self._courier.counts | {"held": sum(one.open for one in list(self._progress.values()))}
            if (state, counts) != noted:
                leave_note(self._home, "trigger", state, **counts)
                noted = (state, counts)
            self._stopping.wait(POLL_SECONDS)

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
