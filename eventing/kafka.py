"""How a client reaches Kafka: address, user and trust, as options of librdkafka; every client starts from them."""

# confluent-kafka's admin types are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from lungline.errors import KafkaUnavailable, SettingsError
from lungline.settings import Settings

MECHANISM = "SCRAM-SHA-512"
"""What Strimzi's users log in with (manifests/base/kafka/users.yaml)."""

Options = dict[str, str | int | float | bool]


def bootstrap(settings: Settings) -> str:
    """The bootstrap servers that the settings name. Raises KafkaUnavailable when they name none."""
    if not settings.kafka_bootstrap:
        raise KafkaUnavailable(
            "No Kafka broker is set: start the stack with `lungline up`, or set LUNGLINE_KAFKA_BOOTSTRAP."
        )
    return settings.kafka_bootstrap


def client_options(settings: Settings) -> Options:
    """What any client of these brokers needs; in the clear only where neither a user nor an authority is set.

    Raises KafkaUnavailable when no broker is set, and SettingsError for half a login or an authority that is not there.
    """
    options: Options = {"bootstrap.servers": bootstrap(settings)}
    if settings.kafka_ca is not None:
        # librdkafka would say the same in the words of OpenSSL, and not name the file.
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


# One: the trigger delivers side by side all the same, and fewer partitions make larger batches. A topic that somebody
# else has made may have any number.
PARTITIONS = 1
# Each route of the trigger notes its own progress.
TRIGGER_GROUP = "lungline-trigger"
RESULTS_GROUP, DEAD_LETTERS_GROUP = "lungline-worklist", "lungline-worklist-dead-letters"
TIMEOUT_SECONDS = 5


def ensure_topics(settings: Settings) -> None:
    """Make the topics that are not there yet. Raises KafkaUnavailable."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient, NewTopic  # pyright: ignore[reportPrivateImportUsage] - as its docs do

    # log_level 0: the client would write to our standard error while the broker starts.
    admin = AdminClient(client_options(settings) | {"log_level": 0})
    try:
        known = admin.list_topics(timeout=TIMEOUT_SECONDS).topics
        wanted = (settings.uploads_topic, settings.results_topic, settings.dead_letters_topic)
        missing = [NewTopic(name, PARTITIONS, 1) for name in wanted if name not in known]
        made = admin.create_topics(missing, operation_timeout=TIMEOUT_SECONDS) if missing else {}
        for future in made.values():
            try:
                future.result(TIMEOUT_SECONDS)
            except KafkaException as exc:
                if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
    except (KafkaException, TimeoutError) as exc:
        raise KafkaUnavailable(f"The Kafka broker at {bootstrap(settings)} does not answer.") from exc
