"""The Kafka topics of Lungline."""

from lungline.errors import KafkaUnavailable
from lungline.settings import Settings

# One: the trigger delivers side by side all the same, and fewer partitions make larger batches. A topic that somebody
# else has made may have any number.
PARTITIONS = 1
TRIGGER_GROUP = "lungline-trigger"
TIMEOUT_SECONDS = 5


def bootstrap(settings: Settings) -> str:
    """The bootstrap servers that the settings name. Raises KafkaUnavailable when they name none."""
    if not settings.kafka_bootstrap:
        raise KafkaUnavailable(
            "No Kafka broker is set: start the stack with `lungline up`, or set LUNGLINE_KAFKA_BOOTSTRAP."
        )
    return settings.kafka_bootstrap


def ensure_topics(settings: Settings) -> None:
    """Make the topics that are not there yet. Raises KafkaUnavailable."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient, NewTopic  # pyright: ignore[reportPrivateImportUsage] - as its docs do

    # log_level 0: the client would write to our standard error while the broker starts.
    admin = AdminClient({"bootstrap.servers": bootstrap(settings), "log_level": 0})
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
        raise KafkaUnavailable(f"The Kafka broker at {settings.kafka_bootstrap} does not answer.") from exc
