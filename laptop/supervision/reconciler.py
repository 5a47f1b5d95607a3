"""Looks for lost uploads by itself, whenever a part that events pass through has come back.

Not at once and not often: first all of these parts must be ready and quiet, then the trigger must have dealt with what
was in Kafka by then. What still has no result was lost, and is sent again, once for each time that parts came back.
"""

import logging
import threading
import time
from datetime import UTC, datetime, timedelta

from eventing.kafka import TRIGGER_GROUP, client_options
from eventing.state import State
from lungline.errors import LunglineError, Unavailable
from lungline.settings import Settings

# Where an event can be lost, with the state of another part or without.
PARTS = frozenset({"store", "broker", "bridge", "trigger"})
QUIET_SECONDS = 2.0
APART_SECONDS = 10.0
# A record that is refused again and again is a dead letter by then.
PATIENCE_SECONDS = 120.0
# An upload in several parts may bear the time at which it began.
LONGEST_UPLOAD = timedelta(days=1)
LOOK_SECONDS = 0.5
ASK_SECONDS = 1.0
ANSWER_SECONDS = 5.0

log = logging.getLogger("lungline.reconciler")


class Reconciler:
    """Hears of the states of parts, and reconciles on a thread of its own, which ends with the process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._states: dict[str, State] = {}
        self._fresh: set[str] = set()
        self._changed = time.monotonic()
        self._due = threading.Event()
        self._since: datetime | None = None

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, name="reconciler", daemon=True).start()

    def hear(self, part: str, state: State) -> None:
        """A part has another state."""
        if part not in PARTS:
            return
        self._states[part] = state
        self._changed = time.monotonic()
        if state == "starting":
            self._fresh.add(part)
        elif state == "ready" and part in self._fresh:
            self._fresh.discard(part)
            self._due.set()

    def _run(self) -> None:
        while self._due.wait():
            if not self._is_quiet():
                time.sleep(LOOK_SECONDS)
                continue
            self._due.clear()
            if not self._reconcile():
                self._due.set()
            time.sleep(APART_SECONDS)

    def _is_quiet(self) -> bool:
        """Whether all parts are ready, and have been for a while."""
        ready = all(state == "ready" for state in list(self._states.values()))
        return ready and time.monotonic() - self._changed > QUIET_SECONDS

    def _reconcile(self) -> bool:
        """Look for lost uploads; False when that must be tried again."""
        from eventing.reconcile import resend  # a second's worth of libraries that a start can do without

        until = datetime.now(UTC)
        try:
            self._await_trigger(until)
            grace = (datetime.now(UTC) - until).total_seconds()
            found = resend(self._settings, since=self._since, grace_seconds=grace)
        except Unavailable as exc:
            log.warning("Lost uploads were not looked for: %s Trying again.", exc)
            return False
        except LunglineError as exc:
            log.warning("Lost uploads were not looked for: %s", exc)
            return True
        except Exception:
            log.exception("Lost uploads were not looked for.")
            return True
        log.info("A part came back. %s", found)
        if not found.sent:
            # All is settled up to here; what is sent may be lost once more.
            self._since = until - LONGEST_UPLOAD
        return True

    def _await_trigger(self, until: datetime) -> None:
        """Wait until the trigger has dealt with what was in Kafka by then: that is on its way and not lost."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and not is_handled(self._settings, until):
            time.sleep(ASK_SECONDS)


def is_handled(settings: Settings, until: datetime) -> bool:
    """Whether the trigger has committed every record of the uploads topic from before a moment."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

    topic = settings.uploads_topic
    options = {"group.id": TRIGGER_GROUP, "enable.auto.commit": False, "enable.partition.eof": True, "log_level": 0}
    consumer = Consumer(client_options(settings) | options)
    try:
        known = consumer.list_topics(topic, timeout=ANSWER_SECONDS).topics[topic].partitions
        committed = consumer.committed([TopicPartition(topic, number) for number in known], timeout=ANSWER_SECONDS)
        starts = [
            TopicPartition(topic, one.partition, one.offset if one.offset >= 0 else OFFSET_BEGINNING)
            for one in committed
        ]
        consumer.assign(starts)
        left = {one.partition for one in starts}
        while left:
            message = consumer.poll(ANSWER_SECONDS)
            if message is None:
                return False
            error = message.error()
            if error and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - so the client names it
                return False
            if not error and message.timestamp()[1] <= until.timestamp() * 1000:
                return False
            left.discard(message.partition() or 0)
    except KafkaException:
        return False
    finally:
        consumer.close()
    return True
