"""Kafka messages on their way out: sent at once at low load, in batches at high load.

The embedded broker writes two objects for each batch, and readers list and fetch them, which costs the same for one
message as for fifty.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from eventing.kafka import LONG_RUNNING, make_producer, unavailable
from eventing.kafka_errors import ConnectionErrors
from lungline.errors import KafkaUnavailable
from lungline.events.cloudevents import Headers
from lungline.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, Producer

# As long as a broker may take to restart.
PATIENCE_SECONDS = 60.0
# Messages that a Sender holds while the brokers take them; `send` waits when there are more.
HELD = 5_000
# A topic that brokers do not know for this long is missing; a new one reaches them sooner.
MISSING_TOPIC_MILLISECONDS = 5_000
# More messages than this in the last second are high load.
BUSY = 20
BATCH_MILLISECONDS = 50

Delivered = Callable[["KafkaError | None", "Message"], None]


class Sender:
    """Sends messages, those of `linger_milliseconds` together; `flush` returns when all have arrived.

    Every call raises KafkaUnavailable when a message did not arrive within `patience_seconds`.
    """

    def __init__(
        self, settings: Settings, patience_seconds: float = PATIENCE_SECONDS, linger_milliseconds: int = 20
    ) -> None:
        self._settings = settings
        self._patience = patience_seconds
        self._connection = ConnectionErrors()
        self._fault: KafkaUnavailable | None = None
        options = {
            "linger.ms": linger_milliseconds,
            "message.timeout.ms": int(patience_seconds * 1000),
            "queue.buffering.max.messages": HELD,
            "error_cb": self._connection.report,
            "topic.metadata.propagation.max.ms": MISSING_TOPIC_MILLISECONDS,
        }
        self._producer = make_producer(settings, options)

    def send(self, topic: str, value: str | bytes, key: str | bytes | None, headers: Headers | None = None) -> None:
        """Send a message; waits while too many are in flight."""
        while True:
            self._check()
            try:
                self._producer.produce(topic, value, key, headers=headers or [], on_delivery=self._delivered)
            except BufferError:
                self._producer.poll(0.5)
            else:
                self._producer.poll(0)
                return

    def flush(self) -> None:
        """Wait until every message has arrived."""
        if self._producer.flush(self._patience + 5):
            self._fault = self._fault or unavailable(self._settings, None, self._connection)
        self._check()

    def _delivered(self, error: "KafkaError | None", message: "Message") -> None:
        if error and not self._fault:
            self._fault = unavailable(self._settings, error, self._connection, topic=message.topic() or "")

    def _check(self) -> None:
        if self._fault:
            raise self._fault


class Outbox:
    """Keeps each message until the broker has it, however long the broker is away; may be shared by threads.

    Under high load a message waits up to `gathering_milliseconds` for others, at low load `prompt_milliseconds`.
    """

    def __init__(
        self, settings: Settings, gathering_milliseconds: int = BATCH_MILLISECONDS, prompt_milliseconds: int = 0
    ) -> None:
        self._prompt = _make_patient_producer(settings, prompt_milliseconds)
        self._batching = _make_patient_producer(settings, gathering_milliseconds)
        self._times: deque[float] = deque(maxlen=BUSY)

    def put(
        self,
        topic: str,
        value: str | bytes,
        key: str | bytes | None,
        delivered: Delivered,
        headers: Headers | None = None,
    ) -> bool:
        """Send a message; `serve` calls `delivered`. False when the outbox is full: then serve, and try again."""
        now = time.monotonic()
        self._times.append(now)
        busy = len(self._times) == BUSY and now - self._times[0] < 1
        producer = self._batching if busy else self._prompt
        try:
            producer.produce(topic, value, key, headers=headers or [], on_delivery=delivered)
        except BufferError:
            return False
        return True

    def serve(self, seconds: float) -> None:
        """Wait up to `seconds` for the broker's acknowledgements, and call their callbacks."""
        self._batching.poll(0)
        self._prompt.poll(seconds)

    def flush(self, seconds: float) -> None:
        """Wait until the broker has every message, up to `seconds`."""
        deadline = time.monotonic() + seconds
        for producer in (self._batching, self._prompt):
            producer.flush(max(0.0, deadline - time.monotonic()))

    def clear(self) -> None:
        """Drop the messages that the broker does not have yet."""
        for producer in (self._batching, self._prompt):
            producer.purge()


def _make_patient_producer(settings: Settings, linger_milliseconds: int) -> "Producer":
    options = {
        "linger.ms": linger_milliseconds,
        "message.timeout.ms": 0,  # never give up
        # While a batch is in flight the next one fills.
        "max.in.flight.requests.per.connection": 1,
        "queue.buffering.max.messages": 10_000,
    }
    return make_producer(settings, LONG_RUNNING | options)
