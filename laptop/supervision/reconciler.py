"""Looks for lost uploads whenever a service that events pass through has restarted.

It waits until all these services are ready and stay so, and until the trigger has processed every event that was in
Kafka by then. An upload that still has no result was lost; its event is sent again, once after each restart.
"""

import logging
import threading
import time
from datetime import UTC, datetime, timedelta

from eventing.kafka import TRIGGER_GROUP, make_consumer
from eventing.offsets import assign_uncommitted
from lungline.errors import LunglineError, Unavailable
from lungline.service_state import State
from lungline.settings import Settings

# The services that can lose an event.
SERVICES = frozenset({"store", "broker", "bridge", "trigger"})
QUIET_SECONDS = 2.0
PAUSE_SECONDS = 10.0
# By then the trigger has moved an event that fails again and again to the dead letters.
DRAIN_SECONDS = 120.0
# The time of a multipart upload may be that of its beginning.
LONGEST_UPLOAD = timedelta(days=1)
QUIET_POLL_SECONDS = 0.5
DRAIN_POLL_SECONDS = 1.0
KAFKA_SECONDS = 5.0

log = logging.getLogger("lungline.reconciler")


class Reconciler:
    """Follows the states of services, and reconciles on a thread of its own, which ends with the process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._states: dict[str, State] = {}
        self._restarted: set[str] = set()
        self._changed = time.monotonic()
        self._due = threading.Event()
        self._since: datetime | None = None

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, name="reconciler", daemon=True).start()

    def on_state(self, service: str, state: State) -> None:
        """Take note of a service's new state."""
        if service not in SERVICES:
            return
        self._states[service] = state
        self._changed = time.monotonic()
        if state == "starting":
            self._restarted.add(service)
        elif state == "ready" and service in self._restarted:
            self._restarted.discard(service)
            self._due.set()

    def _run(self) -> None:
        while self._due.wait():
            if not self._is_quiet():
                time.sleep(QUIET_POLL_SECONDS)
                continue
            self._due.clear()
            if not self._reconcile():
                self._due.set()
            time.sleep(PAUSE_SECONDS)

    def _is_quiet(self) -> bool:
        """Whether all services have been ready for a while."""
        ready = all(state == "ready" for state in list(self._states.values()))
        return ready and time.monotonic() - self._changed > QUIET_SECONDS

    def _reconcile(self) -> bool:
        """Look for lost uploads; False when it must be tried again."""
        from eventing.reconcile import resend  # a second's worth of libraries that a start can do without

        until = datetime.now(UTC)
        try:
            self._await_trigger(until)
            margin = (datetime.now(UTC) - until).total_seconds()
            resent = resend(self._settings, since=self._since, grace_seconds=margin)
        except Unavailable as exc:
            log.warning("The search for lost uploads failed and is tried again: %s", exc)
            return False
        except LunglineError as exc:
            log.warning("The search for lost uploads failed: %s", exc)
            return True
        except Exception:
            log.exception("The search for lost uploads failed.")
            return True
        log.info("A service has restarted. %s", resent)
        if not resent.sent:
            # Nothing before this moment is missing; an event that was sent again may be lost once more.
            self._since = until - LONGEST_UPLOAD
        return True

    def _await_trigger(self, until: datetime) -> None:
        """Wait until the trigger has processed what was in Kafka by then: such an upload is not lost."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < deadline and not is_handled(self._settings, until):
            time.sleep(DRAIN_POLL_SECONDS)


def is_handled(settings: Settings, until: datetime, topic: str | None = None, group: str = TRIGGER_GROUP) -> bool:
    """Whether a group, by default the trigger's, has committed every record of its topic from before a moment."""
    from confluent_kafka import KafkaError, KafkaException

    consumer = make_consumer(settings, group, {"enable.partition.eof": True})
    try:
        unread = set(assign_uncommitted(consumer, topic or settings.uploads_topic, KAFKA_SECONDS))
        while unread:
            message = consumer.poll(KAFKA_SECONDS)
            if message is None:
                return False
            error = message.error()
            if error and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - so the client names it
                return False
            if not error and message.timestamp()[1] <= until.timestamp() * 1000:
                return False
            unread.discard(message.partition() or 0)
    except KafkaException:
        return False
    finally:
        consumer.close()
    return True
