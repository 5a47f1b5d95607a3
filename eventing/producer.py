"""Kafka messages on their way out: at once while it is quiet, in batches while it is busy.

The embedded broker writes two objects for each batch and readers list and fetch them, about 7 ms of processor time.
One message then costs no more than 50 do.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from eventing.kafka import Options, bootstrap, client_options
from lungline.errors import KafkaUnavailable
from lungline.events.cloudevents import Headers
from lungline.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

# As long as a broker that restarts may take.
PATIENCE_SECONDS = 60
# Held here while the brokers take them; more wait in `send`.
HELD = 5_000


class Sender:
    """Sends messages; `flush` returns when all have arrived. Every call raises KafkaUnavailable when one did not."""

    def __init__(self, settings: Settings) -> None:
        from confluent_kafka import Producer

        self._address = bootstrap(settings)
        self._failed = False
        options = {
            "acks": "all",
            "linger.ms": 20,
            "message.timeout.ms": PATIENCE_SECONDS * 1000,
            "queue.buffering.max.messages": HELD,
            "reconnect.backoff.max.ms": 1000,
            "log_level": 0,
        }
        self._producer = Producer(client_options(settings) | options)

    def send(self, topic: str, value: str | bytes, key: str | bytes | None, headers: Headers | None = None) -> None:
        """Send a message; waits while too many are on their way."""
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
        """Wait until everything has arrived."""
        left = self._producer.flush(PATIENCE_SECONDS + 5)
        self._failed = self._failed or left > 0
        self._check()

    def _delivered(self, error: "KafkaError | None", _: "Message") -> None:
        self._failed = self._failed or error is not None

    def _check(self) -> None:
        if self._failed:
            raise KafkaUnavailable(f"The Kafka broker at {self._address} does not take messages.")


if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

# More than so many messages in the last second are busy.
BUSY = 20
GATHER_MILLISECONDS = 50

Delivered = Callable[["KafkaError | None", "Message"], None]


class Outbox:
    """Keeps each message until the broker has it, however long the broker is away; may be shared by threads."""

    def __init__(self, settings: Settings) -> None:
        from confluent_kafka import Producer

        self._prompt = Producer(_options(settings, 0))
        self._gathering = Producer(_options(settings, GATHER_MILLISECONDS))
        self._moments: deque[float] = deque(maxlen=BUSY)

    def put(
        self,
        topic: str,
        value: str | bytes,
        key: str | bytes | None,
        delivered: Delivered,
        headers: Headers | None = None,
    ) -> bool:
        """Send a message; `delivered` hears of it in `serve`. False when it is full: then serve, and try again."""
        now = time.monotonic()
        self._moments.append(now)
        busy = len(self._moments) == BUSY and now - self._moments[0] < 1
        producer = self._gathering if busy else self._prompt
        try:
            producer.produce(topic, value, key, headers=headers or [], on_delivery=delivered)
        except BufferError:
            return False
        return True

    def serve(self, seconds: float) -> None:
        """Wait for answers of the broker, and pass them on."""
        self._gathering.poll(0)
        self._prompt.poll(seconds)

    def flush(self, seconds: float) -> None:
        """Wait until the broker has everything, but no longer than `seconds`."""
        deadline = time.monotonic() + seconds
        for producer in (self._gathering, self._prompt):
            producer.flush(max(0.0, deadline - time.monotonic()))

    def clear(self) -> None:
        """Forget what the broker does not have yet."""
        for producer in (self._gathering, self._prompt):
            producer.purge()


def _options(settings: Settings, linger: int) -> Options:
    return client_options(settings) | {
        "acks": "all",
        "linger.ms": linger,
        "message.timeout.ms": 0,  # never give up
        # While a batch is on its way the next one gathers.
        "max.in.flight.requests.per.connection": 1,
        "queue.buffering.max.messages": 10_000,
        "socket.nagle.disable": True,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 500,
        "log_level": 3,
    }
