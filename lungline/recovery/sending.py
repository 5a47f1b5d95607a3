"""Messages into Kafka that must all arrive: a command that says `sent` means that the brokers have it."""

from typing import TYPE_CHECKING

from lungline.errors import KafkaUnavailable
from lungline.kafka import bootstrap, client_options
from lungline.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

# As long as a broker that restarts may take.
PATIENCE_SECONDS = 60
# Held here while the brokers take them; more wait in `send`.
HELD = 5_000

# Typed as confluent-kafka has it.
Headers = list[tuple[str, str | bytes | None]]


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
