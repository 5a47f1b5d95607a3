"""Carries records to a receiver, by Knative's rules, until each is taken or a dead letter.

Knative tries again after statuses from 500 on, 404, 408, 409, 429 and when the sink is silent: here 10 times, after
0.2 s, 0.4 s, ... 30 s (111 s together). Any other status is a dead letter at once. While the receiver is away or says
that it is not ready, records wait and no attempt is counted.
"""

import heapq
import itertools
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from eventing.kafka_record import KafkaRecord, dead_letter_headers, reply_headers
from eventing.offsets import OffsetTracker
from eventing.producer import Outbox
from eventing.routes import Route
from eventing.sink import CircuitBreaker, Sink, SinkResponse
from lungline import tracing
from lungline.events.cloudevents import Headers, http_headers

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

RETRIES = 10
FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 0.2, 30.0
REFUSED_SECONDS = 1.0
POLL_SECONDS = 0.1

log = logging.getLogger("lungline.trigger")


@dataclass(order=True, slots=True)
class Delivery:
    """A record on its way; ordered by when its next attempt is due."""

    due: float
    number: int
    record: KafkaRecord = field(compare=False)
    progress: OffsetTracker = field(compare=False)
    """Of its partition."""
    place: int = field(compare=False)
    """In that progress."""
    attempts: int = field(default=0, compare=False)

    def finish(self) -> None:
        """Nothing is left to do for it."""
        self.progress.finish(self.place)


class Dispatcher:
    """Delivers side by side and in no order; what is not delivered when it ends is not finished either."""

    def __init__(self, route: Route, outbox: Outbox) -> None:
        self._route = route
        self._sink = Sink(route.url)
        self.breaker = CircuitBreaker(self._sink)
        self._outbox = outbox
        self._pool = ThreadPoolExecutor(route.side_by_side, "delivery")
        self._places = threading.Semaphore(route.side_by_side)
        self._waiting: list[Delivery] = []
        self._waiting_changed = threading.Condition()
        self._numbers = itertools.count()
        self._counts = {"delivered": 0, "retried": 0, "dead_letters": 0}
        self._counting = threading.Lock()
        self._stopping = threading.Event()

    @property
    def counts(self) -> dict[str, int]:
        """What it has done since it was made."""
        with self._counting:
            return dict(self._counts)

    def has_place(self, seconds: float) -> bool:
        """Whether another delivery could begin within so many seconds."""
        if not self._places.acquire(timeout=seconds):
            return False
        self._places.release()
        return True

    def dispatch(self, record: KafkaRecord, progress: OffsetTracker) -> None:
        """Deliver a record; it is finished in `progress` when it has been taken or is a dead letter."""
        self._send(Delivery(0.0, next(self._numbers), record, progress, progress.begin(record.offset)))

    def retry_due(self) -> None:
        """Deliver again what is due, until `end`; runs in a thread of its own."""
        while not self._stopping.is_set():
            with self._waiting_changed:
                left = self._waiting[0].due - time.monotonic() if self._waiting else POLL_SECONDS
                if left > 0:
                    self._waiting_changed.wait(min(left, POLL_SECONDS))
                    continue
                delivery = heapq.heappop(self._waiting)
            self._send(delivery)

    def end(self) -> None:
        """Finish the attempts that are under way, and wait for the broker to have their replies."""
        self._stopping.set()
        self.breaker.end()
        self._pool.shutdown(cancel_futures=True)
        self._outbox.flush(2)
        self._sink.close()

    def _send(self, delivery: Delivery) -> None:
        self._places.acquire()
        try:
            self._pool.submit(self._attempt, delivery)
        except RuntimeError:  # the pool is shut down: the record comes again after the next start
            self._places.release()

    def _attempt(self, delivery: Delivery) -> None:
        try:
            if self.breaker.wait():
                self._acknowledge(delivery, self._post(delivery.record))
        except Exception:
            log.exception("Delivery of %s failed.", delivery.record)
            self._retry(delivery, SinkResponse(None, b"dispatch error: in the trigger"))
        finally:
            self._places.release()

    def _post(self, record: KafkaRecord) -> SinkResponse:
        headers = http_headers(record.attributes(), record.content_type) | self._route.headers
        with tracing.span(f"deliver to {self._route.name}", record.trace, "client", topic=record.topic) as span:
            if span.traceparent:
                headers |= {tracing.HEADER: span.traceparent, tracing.ATTRIBUTE: span.traceparent}
            answer = self._sink.post(record.value, headers)
            span.add(status=answer.status)
        identity = tracing.identity_of(record.trace)
        log.info("delivered to %s", self._route.name, extra={"identity": identity, "status": answer.status})
        return answer

    def _acknowledge(self, delivery: Delivery, answer: SinkResponse) -> None:
        if answer.delivered:
            self._count("delivered")
            self._reply(delivery, answer)
            return
        if answer.away:
            self.breaker.trip()
        if answer.temporary:
            self._retry(delivery, answer)
        else:
            self._dead_letter(delivery, answer)

    def _retry(self, delivery: Delivery, answer: SinkResponse) -> None:
        if delivery.attempts >= RETRIES:
            self._dead_letter(delivery, answer)
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

    def _reply(self, delivery: Delivery, answer: SinkResponse) -> None:
        headers = reply_headers(answer.headers)
        if headers is None or self._route.replies is None:
            delivery.finish()
            return
        attributes = dict(headers)
        key = attributes.get("ce_partitionkey") or attributes.get("ce_subject")
        self._produce(self._route.replies, answer.body, key, headers, delivery)

    def _dead_letter(self, delivery: Delivery, answer: SinkResponse) -> None:
        record = delivery.record
        self._count("dead_letters")
        log.warning("The %s did not take %s: status %s.", self._route.name, record, answer.status)
        if self._route.dead_letters is None:
            delivery.finish()
            return
        headers = dead_letter_headers(record, self._sink.url, answer.status or 500, answer.body)
        self._produce(self._route.dead_letters, record.value, record.key, headers, delivery)

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

    def _count(self, what: str) -> None:
        with self._counting:
            self._counts[what] += 1
