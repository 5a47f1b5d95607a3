"""The courier: each destination has its own worker, so one that is down or slow holds up no other.

A worker delivers what is due at its destination, one result after the other and over one connection. When the
destination does not take a result for now, the worker pauses, for longer each time and at most a minute; when it takes
one again, everything that waits is due.

A process that is killed between sending and noting it sends again: UIDs, identifiers and message control ids are the
same, so the destination has the result once.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, assert_never

from lungline import tracing
from lungline.errors import LunglineError, SettingsError, Unavailable
from lungline.results.readings import ReadingRecord
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from worklist import metrics
from worklist.database import audit, deliveries, entries, outbox
from worklist.database.deliveries import DueDelivery
from worklist.database.models import Delivery
from worklist.database.session import Database
from worklist.delivery.channel import AnyChannel
from worklist.delivery.dicom import DicomChannel
from worklist.delivery.fhir import FhirChannel
from worklist.delivery.hl7 import Hl7Channel
from worklist.delivery.parcel import Packer
from worklist.delivery.stow import StowChannel
from worklist.destinations import AnyDestination, DicomDestination, FhirDestination, Hl7Destination, StowDestination
from worklist.exports.csv_fhir import last_verdict
from worklist.worker import Worker

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
REPLACED = "A later result of this upload has replaced it."
TAKEN_BACK = "The reader has taken back what it was to follow."
# A connection is kept as long as results follow each other in less than this.
LINGER_SECONDS = 1.0
# How often deliveries to destinations that the file does not name are looked for.
ABANDON_SECONDS = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Attempt:
    """How an attempt ended: `put off` is made again later, `failed` is a dead letter."""

    outcome: Literal["sent", "put off", "failed", "not needed"]
    error: str = ""
    reading: str | None = None
    """Whose verdict was sent."""


class Courier:
    """The workers of all destinations."""

    def __init__(
        self, database: Database, storage: Storage, settings: Settings, destinations: Sequence[AnyDestination]
    ) -> None:
        self._database = database
        self._packer = Packer(storage, settings)
        self.destinations = tuple(destinations)
        self._abandoned = self._looked = -ABANDON_SECONDS
        self._workers = {each.name: _Worker(self, each) for each in destinations}
        self._stopping = threading.Event()

    def deliver_due(self) -> float:
        """Start the workers of destinations with due deliveries; returns without waiting.

        Returns after how many seconds there is more to do, unless the database changes.
        """
        if not self._workers and time.monotonic() - self._looked < ABANDON_SECONDS:
            return ABANDON_SECONDS
        self._looked = time.monotonic()
        with self._database.reading() as session:
            seconds = outbox.seconds_to_next(session, Delivery)
            due: set[str] = set() if seconds else deliveries.due_destinations(session)
        if due - self._workers.keys() and time.monotonic() - self._abandoned > ABANDON_SECONDS:
            self._abandoned = time.monotonic()
            with self._database.writing() as session:
                deliveries.abandon(session, list(self._workers))
        for name in due & self._workers.keys():
            self._workers[name].start()
        return seconds

    def stop(self, seconds: float) -> None:
        """End after the deliveries that are under way, at most after this long."""
        self._stopping.set()
        for worker in self._workers.values():
            worker.wake()
        deadline = time.monotonic() + seconds
        for worker in self._workers.values():
            worker.join(max(0.0, deadline - time.monotonic()))

    @property
    def is_stopping(self) -> bool:
        """Whether nothing new is to be begun."""
        return self._stopping.is_set()

    def next(self, destination: AnyDestination) -> DueDelivery | None:
        """Take the next due delivery of a destination."""
        with self._database.writing() as session:
            return next(iter(deliveries.claim(session, destination.name)), None)

    def attempt(self, destination: AnyDestination, due: DueDelivery, channel: AnyChannel) -> Attempt:
        """Deliver over a channel to the destination, and say how it went."""
        try:
            with self._database.reading() as session:
                entry = entries.find(session, due.identity)
                reading = last_verdict(session, due.identity) if entry and entry.read else None
            if entry is None or entry.record != due.record:
                return Attempt("not needed", REPLACED)
            if not deliveries.is_wanted(destination, entry, due):
                return Attempt("not needed", TAKEN_BACK)
            channel.send(self._content(destination, due, reading))
        except (Unavailable, SettingsError) as exc:
            return Attempt("put off", str(exc))
        except LunglineError as exc:
            return Attempt("failed", str(exc))
        except Exception as exc:  # noqa: BLE001 - headers of scanners hold anything; one must not stop all others
            return Attempt("failed", f"The delivery could not be made ({type(exc).__name__}).")
        return Attempt("sent", reading=reading.id if reading else None)

    def _content(self, destination: AnyDestination, due: DueDelivery, reading: ReadingRecord | None) -> Any:
        record = ResultRecord.model_validate_json(due.body)
        if isinstance(destination, DicomDestination | StowDestination):
            return self._packer.instances(record, destination.send)
        earlier = due.earlier
        if earlier and destination.after != "result":
            # A row of before version 0007 does not say whose verdict this destination has had, but it has had one.
            earlier = replace(earlier, is_final=True)
        return self._packer.finding(record, reading, earlier)

    def settle(self, destination: AnyDestination, due: DueDelivery, attempt: Attempt) -> None:
        """Record how an attempt ended, and in the audit log that a patient's data has left."""
        metrics.delivery_outcome(destination.name, attempt.outcome).inc()
        _log.info("delivery %s", attempt.outcome, extra={"identity": due.identity})
        with self._database.writing() as session:
            if attempt.outcome == "sent":
                deliveries.mark_sent(session, destination, due.number, attempt.reading)
                audit.record(
                    session, "the worklist", "none", "delivered", identity=due.identity, detail=destination.name
                )
            elif attempt.outcome == "not needed":
                deliveries.mark_not_sent(session, due, attempt.error)
            else:
                deliveries.mark_failed(session, due, attempt.error, is_final=attempt.outcome == "failed")

    def hasten(self, destination: AnyDestination) -> None:
        """Make everything due that waits for a destination."""
        with self._database.writing() as session:
            deliveries.hasten(session, destination.name)


def channel_to(destination: AnyDestination) -> AnyChannel:
    """A channel to a destination, which connects when something is sent."""
    match destination:
        case DicomDestination():
            return DicomChannel(destination)
        case StowDestination():
            return StowChannel(destination)
        case FhirDestination():
            return FhirChannel(destination)
        case Hl7Destination():
            return Hl7Channel(destination)
        case _:
            assert_never(destination)


class _Worker(Worker):
    """Delivers to one destination."""

    def __init__(self, courier: Courier, destination: AnyDestination) -> None:
        super().__init__(f"deliveries to {destination.name}", self._deliver_all)
        self._courier = courier
        self._destination = destination
        self._failures = 0
        self._paused_until = 0.0
        self._more = threading.Event()

    def start(self) -> None:
        """Deliver what is due, unless that is under way or the destination is given a pause."""
        if time.monotonic() >= self._paused_until:
            self._more.set()
            super().start()

    def wake(self) -> None:
        """Wait for nothing more."""
        self._more.set()

    def _deliver_all(self) -> None:
        try:
            with channel_to(self._destination) as channel:
                while due := self._next():
                    with tracing.span("deliver", tracing.of_upload(due.identity), "client") as span:
                        attempt = self._courier.attempt(self._destination, due, channel)
                        span.add(sent=attempt.outcome == "sent")
                    self._courier.settle(self._destination, due, attempt)
                    if not self._goes_on_after(attempt):
                        return
        except LunglineError as exc:  # the database is away; the deliveries are due again later
            _log.warning("Deliveries are retried: %s", exc)

    def _next(self) -> DueDelivery | None:
        """The next due delivery; None when there has been none for a moment."""
        while not self._courier.is_stopping:
            self._more.clear()
            if due := self._courier.next(self._destination):
                return due
            if not self._more.wait(LINGER_SECONDS):
                return None
        return None

    def _goes_on_after(self, attempt: Attempt) -> bool:
        if attempt.outcome == "put off":
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._failures, 10))
            self._failures += 1
            self._paused_until = time.monotonic() + pause
            return False
        if self._failures and attempt.outcome == "sent":
            self._failures = 0
            self._courier.hasten(self._destination)
        return True
