"""What a Kafka client's errors mean, as one sentence for a person.

librdkafka tries again for ever and raises a timeout, whatever the cause. Only a callback gets the cause, such as a
wrong password. A missing right has a code.
"""

from typing import TYPE_CHECKING

from lungline.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import KafkaError


class ConnectionErrors:
    """Remembers why a client cannot connect: `report` is librdkafka's `error_cb`, called while the client polls."""

    def __init__(self) -> None:
        self._by_code: dict[int, str] = {}

    def report(self, error: "KafkaError") -> None:
        """Remember an error."""
        self._by_code[error.code()] = error.str()

    def sentence(self, settings: Settings) -> str:
        """The most telling error so far; without one, that the broker does not answer."""
        from confluent_kafka import KafkaError as Codes

        address = settings.kafka_bootstrap
        if Codes._AUTHENTICATION in self._by_code:  # noqa: SLF001 - so the client names it
            return (
                f"The Kafka broker at {address} refuses the login of user {settings.kafka_username}: expected the name"
                " and the password of one of its users in LUNGLINE_KAFKA_USERNAME and LUNGLINE_KAFKA_PASSWORD."
            )
        if text := self._by_code.get(Codes._SSL):  # noqa: SLF001
            return _about_tls(settings, text)
        if Codes._RESOLVE in self._by_code:  # noqa: SLF001
            return f"The host of the Kafka broker at {address} is unknown: check LUNGLINE_KAFKA_BOOTSTRAP."
        if self._by_code.keys() == {Codes._ALL_BROKERS_DOWN}:  # noqa: SLF001 - a refused connection has a code of its own
            return (
                f"The Kafka broker at {address} ends every connection: it may expect TLS (LUNGLINE_KAFKA_CA) or a login"
                " (LUNGLINE_KAFKA_USERNAME and LUNGLINE_KAFKA_PASSWORD)."
            )
        return f"The Kafka broker at {address} does not answer."


def _about_tls(settings: Settings, text: str) -> str:
    address = settings.kafka_bootstrap
    if "certificate" not in text:
        return f"The Kafka broker at {address} does not speak TLS: LUNGLINE_KAFKA_CA and a login are for those that do."
    authority = (
        f"the authority in {settings.kafka_ca}" if settings.kafka_ca else "an authority that this machine trusts"
    )
    return f"The certificate of the Kafka broker at {address} is refused: expected one for this host, by {authority}."


def sentence_of(
    error: "KafkaError", settings: Settings, connection: ConnectionErrors, *, topic: str = "", group: str = ""
) -> str:
    """What an error means, for a call about a topic or a consumer group; `connection` has the client's earlier ones."""
    from confluent_kafka import KafkaError as Codes

    user, address = settings.kafka_username or "ANONYMOUS", settings.kafka_bootstrap
    missing = f"The Kafka broker at {address} has no topic {topic}."
    sentences = {
        Codes.TOPIC_AUTHORIZATION_FAILED: f"Kafka user {user} lacks a right on topic {topic}.",
        Codes.GROUP_AUTHORIZATION_FAILED: f"Kafka user {user} lacks the right to read as consumer group {group}.",
        Codes.UNKNOWN_TOPIC_OR_PART: missing,
        Codes._UNKNOWN_TOPIC: missing,  # noqa: SLF001
        Codes.MSG_SIZE_TOO_LARGE: f"A message is larger than topic {topic} of the Kafka broker at {address} may hold.",
    }
    if sentence := sentences.get(error.code()):
        return sentence
    if error.code() > 0:  # a broker's own answer; the client's errors are negative
        return f"The Kafka broker at {address} answers: {error.str().removeprefix('Broker: ')}."
    if error.code() in {Codes._AUTHENTICATION, Codes._SSL, Codes._RESOLVE}:  # noqa: SLF001
        connection.report(error)
    return connection.sentence(settings)
