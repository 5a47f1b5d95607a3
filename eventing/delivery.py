"""Delivers records to a sink, by Knative's rules, until each is accepted or a dead letter.

Knative retries a sink that answers 404, 408, 409, 429 or from 500 on, or does not answer: here 10 times, after 0.2 s,
0.4 s, ... 30 s (111 s in all). Any other status is a dead letter at once. While the sink is unavailable or says that
it is not ready, records wait and use up no retries; nor while it is busy (503 with Retry-After), for ten minutes. A
batch that is refused is delivered again record by record, so that a bad one holds up no other. Where sender and sink
prove themselves, only answers with a proof count: for the rest records are delivered again.
"""

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from eventing.batches import body_of
from eventing.kafka_record import KafkaRecord, bare_letter_headers, dead_letter_headers, reply_headers
from eventing.offsets import OffsetTracker
from eventing.producer import Outbox
from eventing.routes import Route
from eventing.sink import CircuitBreaker, Sink, SinkResponse
from lungline import tracing
from lungline.events.cloudevents import BATCHED, Headers, http_headers

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

BROKER_REFUSED_SECONDS = 1.0
BUSY_PATIENCE_SECONDS = 600.0
# The pause after an answer without proof is that before this retry: there is nothing to hurry for.
UNPROVED_BACKOFF = 3
POLL_SECONDS = 0.1

log = logging.getLogger("lungline.trigger")


@dataclass(order=True, slots=True)
class Delivery:
    """A record in flight; ordered by when its next attempt is due (on the monotonic clock)."""

    due: float
    number: int
    record: KafkaRecord = field(compare=False)
    tracker: OffsetTracker = field(compare=False)
    """Of its partition."""
    ticket: int = field(compare=False)
    """In the tracker."""
    retries: int = field(default=0, compare=False)
    patience: float = field(default=0.0, compare=False)
    """Until when a busy sink costs no attempt; 0 before the sink was busy."""

    def finish(self) -> None:
        """Nothing is left to do for it."""
        self.tracker.finish(self.ticket)


class Dispatcher:
    """Delivers concurrently and in no order; a delivery that is incomplete at the end is not finished either."""

    def __init__(self, route: Route, outbox: Outbox) -> None:
        self._route = route
        self._sink = Sink(route.url, route.sender)
        self.breaker = CircuitBreaker(self._sink)
        self._outbox = outbox
        self._pool = ThreadPoolExecutor(route.concurrency, "delivery")
        self._slots = threading.Semaphore(route.concurrency)
        self._scheduled: list[Delivery] = []
        self._scheduled_changed = threading.Condition()
        self._numbers = itertools.count()
        self._counts = {"delivered": 0, "retried": 0, "unproved": 0, "dead_letters": 0}
        self._counts_lock = threading.Lock()
        self._stopping = threading.Event()

    @property
    def counts(self) -> dict[str, int]:
        """Deliveries, retries, unproved answers and dead letters so far."""
        with self._counts_lock:
            return dict(self._counts)

    def has_free_slot(self, seconds: float) -> bool:
        """Whether another delivery could begin within this many seconds."""
        if not self._slots.acquire(timeout=seconds):
            return False
        self._slots.release()
        return True

    def dispatch_batch(self, batch: Sequence[tuple[KafkaRecord, OffsetTracker]]) -> None:
        """Deliver records that may share a request, each of which is finished in its tracker."""
        self._submit(
            *(
                Delivery(0.0, next(self._numbers), record, tracker, tracker.begin(record.offset))
                for record, tracker in batch
            )
        )

    def run_retries(self) -> None:
        """Repeat the deliveries that are due, until `end`; runs in a thread of its own."""
        while True:
            with self._scheduled_changed:
                if self._stopping.is_set():
                    return
                left = self._scheduled[0].due - time.monotonic() if self._scheduled else None
                if left is None or left > 0:
                    self._scheduled_changed.wait(left)
                    continue
                delivery = heapq.heappop(self._scheduled)
            self._submit(delivery)

    def end(self) -> None:
        """Finish the attempts in flight, and wait until the broker has their replies."""
        with self._scheduled_changed:  # else `run_retries` could look, not see it, and wait for ever
            self._stopping.set()
            self._scheduled_changed.notify_all()
        self.breaker.end()
        self._pool.shutdown(cancel_futures=True)
        self._outbox.flush(2)
        self._sink.close()

    def _submit(self, *deliveries: Delivery) -> None:
        self._slots.acquire()
        try:
            self._pool.submit(self._attempt, deliveries)
        except RuntimeError:  # the pool is shut down: the record is read again after the next start
            self._slots.release()

    def _attempt(self, deliveries: Sequence[Delivery]) -> None:
        try:
            if len(deliveries) > 1 and self._attempt_batch(deliveries):
                return
            for delivery in deliveries:
                self._attempt_alone(delivery)
        finally:
            self._slots.release()

    def _attempt_batch(self, deliveries: Sequence[Delivery]) -> bool:
        """Deliver records with one request; False when each has to be delivered alone."""
        if not self.breaker.wait():
            return True  # the end: they are read again after the next start
        try:
            response = self._post_batch([delivery.record for delivery in deliveries])
        except Exception:
            log.exception("A batch of %d records could not be sent.", len(deliveries))
            return False
        if not (response.delivered or response.unavailable) and response.sent:
            return False
        self._acknowledge(response, *deliveries)
        return True

    def _attempt_alone(self, delivery: Delivery) -> None:
        try:
            if self.breaker.wait():
                self._acknowledge(self._post(delivery.record), delivery)
        except Exception:
            log.exception("Delivery of %s failed.", delivery.record)
            self._retry_or_bury(delivery)

    def _post(self, record: KafkaRecord) -> SinkResponse:
        headers = http_headers(record.attributes(), record.content_type) | self._route.headers
        with tracing.span(f"deliver to {self._route.name}", record.trace, "client", topic=record.topic) as span:
            if span.traceparent:
                headers |= {tracing.HEADER: span.traceparent, tracing.ATTRIBUTE: span.traceparent}
            response = self._sink.post(record.value, headers)
            span.add(status=response.status)
        self._log_delivery(record, response)
        return response

    def _post_batch(self, records: Sequence[KafkaRecord]) -> SinkResponse:
        name = f"deliver to {self._route.name}"
        with ExitStack() as stack:
            spans = [
                stack.enter_context(tracing.span(name, record.trace, "client", topic=record.topic))
                for record in records
            ]
            body = body_of(records, [span.traceparent for span in spans])
            response = self._sink.post(body, {"content-type": BATCHED} | self._route.headers)
            for span in spans:
                span.add(status=response.status)
        for record in records:
            self._log_delivery(record, response)
        return response

    def _log_delivery(self, record: KafkaRecord, response: SinkResponse) -> None:
        identity = tracing.identity_of(record.trace)
        log.info("delivered to %s", self._route.name, extra={"identity": identity, "status": response.status})

    def _acknowledge(self, response: SinkResponse, *deliveries: Delivery) -> None:
        if response.delivered:
            self._count("delivered", len(deliveries))
            for delivery in deliveries:
                self._reply(delivery, response)
            return
        if response.unavailable:
            self.breaker.trip()
        for delivery in deliveries:
            self._deliver_again(delivery, response)

    def _deliver_again(self, delivery: Delivery, response: SinkResponse) -> None:
        """Unless it is a dead letter."""
        if not (response.sent and response.believed):
            self._wait_for_sink(delivery, response)
        elif response.retryable:
            self._retry(delivery, response)
        else:
            self._dead_letter(delivery, response)

    def _retry_or_bury(self, delivery: Delivery) -> None:
        """After an error of our own; whatever happens, the record ends, because it holds all offsets behind it."""
        try:
            self._retry(delivery, SinkResponse(None, b"dispatch error: in the trigger"))
        except Exception:
            log.exception("%s is given up: it can be neither delivered nor kept as a dead letter.", delivery.record)
            delivery.finish()

    def _retry(self, delivery: Delivery, response: SinkResponse) -> None:
        if response.busy_seconds is not None:
            # Busy is no fault of the record: it costs no attempt, for as long as a sink may be busy.
            self._spare(delivery, response, max(response.busy_seconds, self._route.retry.backoff(0)))
        else:
            self._count_attempt(delivery, response)

    def _spare(self, delivery: Delivery, response: SinkResponse, seconds: float) -> None:
        """Deliver it again without counting the attempt, unless that has gone on for too long."""
        now = time.monotonic()
        delivery.patience = delivery.patience or now + BUSY_PATIENCE_SECONDS
        if now < delivery.patience:
            self._schedule(delivery, seconds)
        else:
            self._count_attempt(delivery, response)

    def _count_attempt(self, delivery: Delivery, response: SinkResponse) -> None:
        policy = self._route.retry
        if delivery.retries >= policy.retries:
            self._dead_letter(delivery, response)
            return
        self._count("retried")
        backoff = policy.backoff(delivery.retries)
        delivery.retries += 1
        self._schedule(delivery, backoff)

    def _wait_for_sink(self, delivery: Delivery, response: SinkResponse) -> None:
        """Deliver it again without counting the attempt: it was not sent, or anybody may have given the answer."""
        if not response.believed:
            self._count("unproved")
        if not response.sent:
            self._schedule(delivery, self._route.retry.backoff(0))
            return
        log.warning("The answer to %s has no proof that the %s gave it.", delivery.record, self._route.name)
        self._spare(delivery, response, self._route.retry.backoff(UNPROVED_BACKOFF))

    def _schedule(self, delivery: Delivery, seconds: float) -> None:
        delivery.due = time.monotonic() + seconds
        with self._scheduled_changed:
            heapq.heappush(self._scheduled, delivery)
            self._scheduled_changed.notify()

    def _reply(self, delivery: Delivery, response: SinkResponse) -> None:
        headers = reply_headers(response.headers)
        if headers is None or self._route.replies is None:
            delivery.finish()
            return
        attributes = dict(headers)
        key = attributes.get("ce_partitionkey") or attributes.get("ce_subject")
        self._produce(self._route.replies, response.body, key, headers, delivery)

    def _dead_letter(self, delivery: Delivery, response: SinkResponse) -> None:
        record = delivery.record
        self._count("dead_letters")
        log.warning("The %s did not accept %s: status %s.", self._route.name, record, response.status)
        if self._route.dead_letters is None:
            delivery.finish()
            return
        code = response.status or 500
        try:
            headers = dead_letter_headers(record, self._sink.url, code, response.body)
        except Exception:
            log.exception("The dead letter of %s has no attributes of its own.", record)
            headers = bare_letter_headers(code)
        self._produce(self._route.dead_letters, record.value, record.key, headers, delivery)

    def _produce(self, topic: str, value: bytes, key: str | bytes | None, headers: Headers, delivery: Delivery) -> None:
        """Write to Kafka; the delivery is finished when the broker has the message."""
        from confluent_kafka import KafkaError

        def delivered(error: "KafkaError | None", _: "Message") -> None:
            if error is None:
                delivery.finish()
            elif error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                self._too_large(topic, delivery)
            elif not self._stopping.is_set():
                log.error("The broker refused a record for %s: %s. Delivering again.", topic, error)
                self._schedule(delivery, BROKER_REFUSED_SECONDS)

        while not self._outbox.put(topic, value, key, delivered, headers):
            if self._stopping.wait(POLL_SECONDS):
                return

    def _too_large(self, topic: str, delivery: Delivery) -> None:
        """Give up what no retry makes smaller: a reply for a dead letter, a dead letter for a line in the log."""
        log.error("What became of %s is larger than a record of %s may be.", delivery.record, topic)
        if topic == self._route.replies:
            self._dead_letter(delivery, SinkResponse(None, b"dispatch error: the reply is too large"))
        else:
            delivery.finish()

    def _count(self, name: str, number: int = 1) -> None:
        with self._counts_lock:
            self._counts[name] += number
