"""Kafka clients: address, login and trust from the settings, and the options that all of them share."""

# confluent-kafka's admin types are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eventing.kafka_errors import ConnectionErrors, sentence_of
from lungline.errors import KafkaUnavailable, SettingsError
from lungline.settings import Settings

if TYPE_CHECKING:
    from concurrent.futures import Future

    from confluent_kafka import Consumer, KafkaError, Producer

MECHANISM = "SCRAM-SHA-512"
"""How Strimzi's users log in (manifests/base/kafka/users.yaml)."""

# One, because the trigger delivers concurrently all the same, and fewer partitions make larger batches. A topic that
# was created elsewhere may have any number.
PARTITIONS = 1
# As many replicas as the cluster gives to any topic: one alone would take no message where two must have it.
BROKERS_DEFAULT = -1
GROUP_SECONDS = 5.0
# Each route of the trigger commits its own offsets.
TRIGGER_GROUP = "lungline-trigger"
RESULTS_GROUP, DEAD_LETTERS_GROUP = "lungline-worklist", "lungline-worklist-dead-letters"
# Of second opinions: what is to be judged, and what was.
SHADOW_GROUP, REJUDGE_GROUP = "lungline-shadow", "lungline-rejudge"
SHADOW_OPINIONS_GROUP, REJUDGED_OPINIONS_GROUP = "lungline-worklist-shadow", "lungline-worklist-rejudged"

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

    # A broker knows what its topics may hold, and says so; the client would refuse dead letters of the largest records.
    ours: Options = {"acks": "all", "message.max.bytes": 10_000_000}
    return Producer(client_options(settings) | _SHARED | ours | dict(options))


def make_consumer(settings: Settings, group: str, options: Mapping[str, Any]) -> "Consumer":
    """A consumer that commits only when asked to; `options` are librdkafka's, in addition to the shared ones."""
    from confluent_kafka import Consumer

    ours: Options = {"group.id": group, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
    return Consumer(client_options(settings) | _SHARED | ours | dict(options))


def ensure_topics(settings: Settings, names: Sequence[str] | None = None, timeout_seconds: float = 5.0) -> None:
    """Create those topics that do not exist yet; without names, all of ours. Raises KafkaUnavailable."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient, NewTopic  # pyright: ignore[reportPrivateImportUsage] - as its docs do

    connection = ConnectionErrors()
    options: Options = client_options(settings) | _SHARED | {"error_cb": connection.report}
    admin = AdminClient(options)
    try:
        existing = admin.list_topics(timeout=timeout_seconds).topics
        wanted = names or (settings.uploads_topic, settings.results_topic, settings.dead_letters_topic)
        missing = [NewTopic(name, PARTITIONS, BROKERS_DEFAULT) for name in wanted if name not in existing]
        futures: dict[str, Future[None]] = (
            admin.create_topics(missing, operation_timeout=timeout_seconds) if missing else {}
        )
        for name, future in futures.items():
            _await_topic(settings, name, future, timeout_seconds)
    except (KafkaException, TimeoutError) as exc:
        admin.poll(0)
        raise unavailable(settings, exc, connection) from exc


def _await_topic(settings: Settings, name: str, created: "Future[None]", timeout_seconds: float) -> None:
    from confluent_kafka import KafkaError, KafkaException

    try:
        created.result(timeout_seconds)
    except KafkaException as exc:
        code = exc.args[0].code()
        if code in {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED}:
            raise KafkaUnavailable(
                f"Kafka user {settings.kafka_username or 'ANONYMOUS'} sees no topic {name} and may not create it."
            ) from exc
        if code != KafkaError.TOPIC_ALREADY_EXISTS:
            raise


def unavailable(
    settings: Settings,
    error: "KafkaError | Exception | None",
    connection: ConnectionErrors | None = None,
    *,
    topic: str = "",
    group: str = "",
) -> KafkaUnavailable:
    """What to raise for a client's error or exception, in a call about a topic or a consumer group."""
    from confluent_kafka import KafkaError, KafkaException

    connection = connection or ConnectionErrors()
    if isinstance(error, KafkaException):
        error = error.args[0]
    if group and isinstance(error, KafkaError) and error.code() == KafkaError._TIMED_OUT:  # noqa: SLF001
        error = _error_of_group(settings, group)  # the client retries also where a right is missing
    if not isinstance(error, KafkaError):
        return KafkaUnavailable(connection.sentence(settings))
    return KafkaUnavailable(sentence_of(error, settings, connection, topic=topic, group=group))


def _error_of_group(settings: Settings, group: str) -> "KafkaError | None":
    """Why a consumer group's offsets cannot be read; None when they can, or when no broker answers."""
    from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException
    from confluent_kafka.admin import AdminClient  # pyright: ignore[reportPrivateImportUsage] - as its docs do

    admin = AdminClient(client_options(settings) | _SHARED)
    request = [ConsumerGroupTopicPartitions(group)]
    for answer in admin.list_consumer_group_offsets(request, request_timeout=GROUP_SECONDS).values():
        try:
            answer.result(2 * GROUP_SECONDS)
        except KafkaException as exc:
            return exc.args[0]
        except TimeoutError:
            return None
    return None
