"""The Kafka topics of Lungline."""

from lungline.errors import KafkaUnavailable
from lungline.kafka import bootstrap, client_options
from lungline.settings import Settings

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
