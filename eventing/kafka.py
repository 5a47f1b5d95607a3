"""Kafka clients: address, login and trust from the settings, and the options that all of them share."""

# confluent-kafka's admin types are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lungline.errors import KafkaUnavailable, SettingsError
from lungline.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer

MECHANISM = "SCRAM-SHA-512"
"""How Strimzi's users log in (manifests/base/kafka/users.yaml)."""

# One, because the trigger delivers concurrently all the same, and fewer partitions make larger batches. A topic that
# was created elsewhere may have any number.
PARTITIONS = 1
# Each route of the trigger commits its own offsets.
TRIGGER_GROUP = "lungline-trigger"
RESULTS_GROUP, DEAD_LETTERS_GROUP = "lungline-worklist", "lungline-worklist-dead-letters"

Options = dict[str, Any]

# Level 0 keeps librdkafka from writing to a command's standard error.
_SHARED: Options = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 1000, "log_level": 0}
# For the bridge and the trigger: small messages leave at once, and broker errors reach their logs.
LONG_RUNNING: Options = {"socket.nagle.disable": True, "reconnect.backoff.max.ms": 500, "log_level": 3}


def bootstrap(settings: Settings) -> str:
    """The bootstrap servers of the settings. Raises KafkaUnavailable when none are set."""
    if not settings.kafka_bootstrap:
        raise KafkaUnavailable(
            "No Kafka broker is set: start the stack with `lungline up`, or set LUNGLINE_KAFKA_BOOTSTRAP."
        )
    return settings.kafka_bootstrap


def client_options(settings: Settings) -> Options:
    """How librdkafka reaches the brokers; without TLS only where neither a user nor an authority is set.

    Raises KafkaUnavailable when no broker is set, and SettingsError for half a login or a missing authority file.
    """
    options: Options = {"bootstrap.servers": bootstrap(settings)}
    if settings.kafka_ca is not None:
        # librdkafka would report this as an OpenSSL error, without the file's name.
        if not settings.kafka_ca.is_file():
            raise SettingsError(
                f"Setting kafka_ca: expected a file of certificates, found none at {settings.kafka_ca}."
            )
        options |= {"security.protocol": "SSL", "ssl.ca.location": str(settings.kafka_ca)}
    if bool(settings.kafka_username) != bool(settings.kafka_password):
        raise SettingsError("Settings kafka_username and kafka_password: expected both or neither, found one.")
    if settings.kafka_username and settings.kafka_password:
        options |= {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": MECHANISM,
            "sasl.username": settings.kafka_username,
            "sasl.password": settings.kafka_password.get_secret_value(),
        }
    return options


def make_producer(settings: Settings, options: Mapping[str, Any]) -> "Producer":
    """A producer that waits for all in-sync replicas; `options` are librdkafka's, in addition to the shared ones."""
    from confluent_kafka import Producer

    return Producer(client_options(settings) | _SHARED | {"acks": "all"} | dict(options))


def make_consumer(settings: Settings, group: str, options: Mapping[str, Any]) -> "Consumer":
    """A consumer that commits only when asked to; `options` are librdkafka's, in addition to the shared ones."""
    from confluent_kafka import Consumer

    ours: Options = {"group.id": group, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
    return Consumer(client_options(settings) | _SHARED | ours | dict(options))


def ensure_topics(settings: Settings, timeout_seconds: float = 5.0) -> None:
    """Create the topics that do not exist yet. Raises KafkaUnavailable."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient, NewTopic  # pyright: ignore[reportPrivateImportUsage] - as its docs do

    admin = AdminClient(client_options(settings) | _SHARED)
    try:
        existing = admin.list_topics(timeout=timeout_seconds).topics
        names = (settings.uploads_topic, settings.results_topic, settings.dead_letters_topic)
        missing = [NewTopic(name, PARTITIONS, 1) for name in names if name not in existing]
        futures = admin.create_topics(missing, operation_timeout=timeout_seconds) if missing else {}
        for future in futures.values():
            try:
                future.result(timeout_seconds)
            except KafkaException as exc:
                if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
    except (KafkaException, TimeoutError) as exc:
        raise KafkaUnavailable(f"The Kafka broker at {bootstrap(settings)} does not answer.") from exc
