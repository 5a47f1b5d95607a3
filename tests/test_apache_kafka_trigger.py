"""The trigger on Apache Kafka itself: positions, gaps, partitions and leaders that the embedded broker lacks."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import NewPartitions, NewTopic, TopicMetadata  # pyright: ignore[reportPrivateImportUsage] - as its docs do

from eventing.kafka import TRIGGER_GROUP, ensure_topics
from eventing.replay import replay
from eventing.routes import RetryPolicy
from eventing.subscription import Subscription
from eventing.trigger import Trigger
from lungline.home import Home
from lungline.settings import Settings
from tests.support.apache_kafka import ADMIN, ApacheKafka, running_kafka
from tests.support.fake_predictor import FakePredictor, fake_predictor
from tests.support.waiting import eventually

pytestmark = pytest.mark.kafka

QUICK = RetryPolicy(retries=2, first_backoff_seconds=0.01, max_backoff_seconds=0.05)
PARTITIONS = 3


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    with running_kafka(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka


@pytest.fixture
def ours(kafka: ApacheKafka, request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Topics of the test's own."""
    return with_topics(kafka, request.node.name[5:60], tmp_path)


def with_topics(kafka: ApacheKafka, name: str, home: Path) -> Settings:
    names = {"uploads_topic": name, "results_topic": f"{name}-results", "dead_letters_topic": f"{name}-dead"}
    admin = kafka.admin()
    new = [NewTopic(topic, PARTITIONS, len(kafka.nodes)) for topic in names.values()]
    for future in admin.create_topics(new, operation_timeout=10).values():
        future.result(15)
    return kafka.settings(ADMIN, home=home, **names)


def produce(kafka: ApacheKafka, topic: str, values: Sequence[str], partition: int = -1) -> None:
    # A broker that has just started may answer late: what is sent again then must not become a second record.
    producer = Producer(kafka.options(ADMIN) | {"enable.idempotence": True})
    for value in values:
        producer.produce(topic, value, partition=partition)
    assert producer.flush(20) == 0


def named(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


@contextmanager
def consumer(kafka: ApacheKafka, group: str = TRIGGER_GROUP) -> Iterator[Consumer]:
    client = Consumer(kafka.options(ADMIN) | {"group.id": group, "enable.auto.commit": False})
    try:
        yield client
    finally:
        client.close()


def committed(kafka: ApacheKafka, topic: str) -> int | None:
    """The sum of the trigger's offsets; None while their coordinator is moving."""
    with consumer(kafka) as client:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        try:
            return sum(max(0, position.offset) for position in client.committed(partitions, timeout=15))
        except KafkaException:
            return None


@contextmanager
def running_trigger(settings: Settings, fake: FakePredictor) -> Iterator[Subscription]:
    aimed = settings.model_copy(update={"predictor_uri": fake.uri})
    trigger = Trigger(Home.make(settings.home), aimed, None, QUICK)
    thread = threading.Thread(target=trigger.run)
    thread.start()
    try:
        yield trigger.subscriptions[0]
    finally:
        trigger.stop()
        thread.join(30)
        assert not thread.is_alive()


def letters(kafka: ApacheKafka, topic: str) -> list[Message]:
    with consumer(kafka, "lungline-tests") as client:
        client.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
        return client.consume(100, timeout=2)


def test_offsets_beyond_the_end_lose_no_record(kafka: ApacheKafka, ours: Settings) -> None:
    """A topic that was created anew, or a broker restored from a backup: the group has offsets that do not exist."""
    produce(kafka, ours.uploads_topic, named("a", 9))
    with consumer(kafka) as client:
        client.commit(
            offsets=[TopicPartition(ours.uploads_topic, n, 1000) for n in range(PARTITIONS)], asynchronous=False
        )
    with fake_predictor() as fake, running_trigger(ours, fake) as subscription:
        eventually(lambda: {*fake.counts} == {*named("a", 9)})
        produce(kafka, ours.uploads_topic, named("b", 9))
        eventually(lambda: len(fake.counts) == 18)
        eventually(lambda: subscription.lag() == 0)
    assert {*fake.counts.values()} == {1}
    assert committed(kafka, ours.uploads_topic) == 18


def test_records_that_retention_deleted_are_passed_over(kafka: ApacheKafka, ours: Settings) -> None:
    produce(kafka, ours.uploads_topic, named("a", 10), partition=1)
    admin = kafka.admin()
    for future in admin.delete_records([TopicPartition(ours.uploads_topic, 1, 6)], request_timeout=15).values():
        future.result(20)
    with fake_predictor() as fake, running_trigger(ours, fake) as subscription:
        eventually(lambda: {*fake.counts} == {*named("a", 10)[6:]})
        eventually(lambda: subscription.lag() == 0)
    assert committed(kafka, ours.uploads_topic) == 10


def test_the_ends_of_transactions_are_no_records(kafka: ApacheKafka, ours: Settings) -> None:
    """They have offsets: an end that waits for the record before the last offset would wait for ever."""
    for topic, value in ((ours.uploads_topic, "a"), (ours.dead_letters_topic, "no event")):
        producer = Producer(kafka.options(ADMIN) | {"transactional.id": f"test-{topic}"})
        producer.init_transactions(30)
        producer.begin_transaction()
        producer.produce(topic, value, partition=0)
        producer.commit_transaction(30)
    with fake_predictor() as fake, running_trigger(ours, fake):
        eventually(lambda: {*fake.counts} == {"a"})
        produce(kafka, ours.uploads_topic, ["b"], partition=0)
        eventually(lambda: {*fake.counts} == {"a", "b"})
    assert committed(kafka, ours.uploads_topic) == 3
    assert replay(ours).hopeless == 1
    assert replay(ours).hopeless == 0


def test_partitions_that_a_topic_is_given_later_are_read(
    kafka: ApacheKafka, ours: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventing.subscription.PARTITIONS_SECONDS", 0.5)
    with fake_predictor() as fake, running_trigger(ours, fake) as subscription:
        eventually(lambda: subscription.is_ready)
        admin = kafka.admin()
        for future in admin.create_partitions([NewPartitions(ours.uploads_topic, PARTITIONS + 2)]).values():
            future.result(15)
        produce(kafka, ours.uploads_topic, ["late"], partition=PARTITIONS + 1)
        eventually(lambda: {*fake.counts} == {"late"})


def test_a_dead_letter_that_is_too_large_blocks_nothing(kafka: ApacheKafka, ours: Settings) -> None:
    large = "x" * 1_048_400  # with the headers of a dead letter more than a record may be
    producer = Producer(kafka.options(ADMIN) | {"message.max.bytes": 2_000_000})
    producer.produce(ours.uploads_topic, large, partition=0)
    assert producer.flush(20) == 0
    with fake_predictor(lambda value, _: 400 if value in {large, "bad"} else 200) as fake:
        with running_trigger(ours, fake):
            produce(kafka, ours.uploads_topic, ["bad", "good"], partition=0)
            eventually(lambda: "good" in fake.counts)
            eventually(lambda: committed(kafka, ours.uploads_topic) == 3)
        assert fake.counts[large] == 1
    assert [letter.value() for letter in letters(kafka, ours.dead_letters_topic)] == [b"bad"]


def test_two_triggers_lose_nothing_when_one_ends(kafka: ApacheKafka, ours: Settings, tmp_path: Path) -> None:
    """They share no partitions: each delivers every record, and the predictor recognises the second as a duplicate."""
    other = ours.model_copy(update={"home": tmp_path / "other"})
    with fake_predictor() as fake, running_trigger(ours, fake):
        with running_trigger(other, fake) as second:
            eventually(lambda: second.is_ready)
            produce(kafka, ours.uploads_topic, named("a", 30))
            eventually(lambda: len(fake.counts) == 30)
        produce(kafka, ours.uploads_topic, named("b", 30))
        eventually(lambda: len(fake.counts) == 60)
        eventually(lambda: committed(kafka, ours.uploads_topic) == 60)


def test_a_killed_broker_loses_no_record(kafka: ApacheKafka, ours: Settings) -> None:
    with fake_predictor() as fake, running_trigger(ours, fake) as subscription:
        produce(kafka, ours.uploads_topic, named("a", 20))
        eventually(lambda: len(fake.counts) == 20)
        kafka.restart(killed=True)
        produce(kafka, ours.uploads_topic, named("b", 20))
        eventually(lambda: len(fake.counts) == 40, 60)
        eventually(lambda: committed(kafka, ours.uploads_topic) == 40, 60)
        eventually(lambda: subscription.lag() == 0)


def replicas(topic: TopicMetadata | None) -> int:
    """The number of replicas of the first partition; 0 for a topic that a broker does not know yet."""
    return len(topic.partitions[0].replicas) if topic is not None and topic.partitions else 0


def test_a_new_leader_takes_over(tmp_path: Path) -> None:
    """Three brokers, each topic with three replicas of which two must have every record; one broker is killed."""
    config = {"default.replication.factor": 3, "min.insync.replicas": 2}
    with running_kafka(tmp_path, nodes=3, config=config) as kafka:
        made = kafka.settings(ADMIN, uploads_topic="made", results_topic="made-results", dead_letters_topic="made-dead")
        ensure_topics(made)
        admin = kafka.admin()
        # Any broker answers, and each learns of the topic by itself. With one replica it would take no record at all.
        eventually(lambda: replicas(admin.list_topics(timeout=10).topics.get("made")) == 3, 30)
        ours = with_topics(kafka, "leaders", tmp_path / "home")
        with fake_predictor() as fake, running_trigger(ours, fake):
            produce(kafka, "leaders", named("a", 12))
            eventually(lambda: len(fake.counts) == 12, 60)
            leader = kafka.admin().list_topics(timeout=10).topics["leaders"].partitions[0].leader
            kafka.nodes[leader - 1].stop(0)
            produce(kafka, "leaders", named("b", 12))
            eventually(lambda: len(fake.counts) == 24, 60)
        with consumer(kafka) as client:
            leaders = client.list_topics("leaders", timeout=10).topics["leaders"].partitions
            assert leader not in {partition.leader for partition in leaders.values()}
