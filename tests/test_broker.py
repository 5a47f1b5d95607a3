"""The embedded Kafka broker with its log on the embedded store."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from eventing.kafka import RESULTS_GROUP, TRIGGER_GROUP, client_options, ensure_topics
from laptop.home.credentials import claim_credentials
from laptop.home.ports import load_ports
from laptop.services.broker import Broker, prune, running_broker
from laptop.services.process import running
from laptop.services.store import running_store
from lungline.errors import KafkaUnavailable
from lungline.home import Home
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.kafka_tail import tail
from tests.support.open_ports import command_line, listening

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that does not run yet, on a store that does."""
    home = Home.make(tmp_path_factory.mktemp("broker"))
    with running_store(home.path, Settings(home=home.path)) as settings:
        ports = load_ports(home)
        assert ports
        yield Broker(home, settings, ports, claim_credentials(home))


def test_records_and_offsets_outlive_the_broker(broker: Broker) -> None:
    settings = broker.connected()
    partition = TopicPartition(settings.uploads_topic, 0, 7)
    with running(broker, broker.home.log("broker")) as process:
        producer = Producer(client_options(settings))
        producer.produce(settings.uploads_topic, b"kept", partition=0)
        assert producer.flush(10) == 0
        consumer = Consumer(client_options(settings) | {"group.id": "g"})
        consumer.commit(offsets=[partition], asynchronous=False)
        consumer.close()
        process.stop(0)
    with running(broker, broker.home.log("broker")), tail(settings, settings.uploads_topic) as records:
        assert records.until(bool)[0].value() == b"kept"
        consumer = Consumer(client_options(settings) | {"group.id": "g"})
        assert consumer.committed([partition], timeout=10)[0].offset == 7
        consumer.close()


def test_the_broker_listens_on_loopback_and_shows_no_secret(broker: Broker) -> None:
    with running(broker, broker.home.log("broker")) as process:
        assert listening(process.pid) == {"127.0.0.1"}
        secret = broker.settings.s3_secret_key
        assert secret
        assert secret.get_secret_value() not in command_line(process.pid)
        assert secret.get_secret_value() not in broker.home.log("broker").read_text()


def test_committed_batches_are_pruned(
    broker: Broker,
) -> None:
    """Records that are not committed are read as before."""
    settings = broker.connected().model_copy(update={"uploads_topic": "pruned", "results_topic": "kept"})
    storage = Storage.from_settings(settings)
    with running(broker, broker.home.log("broker")):
        ensure_topics(settings)
        producer = Producer(client_options(settings))
        for number in range(10):
            for topic in ("pruned", "kept"):
                producer.produce(topic, b"%d" % number)
                assert producer.flush(10) == 0
        assert prune(storage, settings, 2, 2) == 0  # nothing is committed
        for group, topic, offset, gone in ((TRIGGER_GROUP, "pruned", 7, 7), (RESULTS_GROUP, "kept", 4, 4)):
            consumer = Consumer(client_options(settings) | {"group.id": group})
            consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
            consumer.close()
            assert prune(storage, settings, 2, 2) == gone
        with tail(settings, "pruned") as records:
            records.until(lambda records: len(records) == 3)
            assert [record.value() for record in records.settled(0.3)] == [b"7", b"8", b"9"]
        with tail(settings, "kept") as records:  # what the worklist has not taken yet
            records.until(lambda records: len(records) == 6)
    storage.close()


def test_topics_are_made_once(tmp_path: Path) -> None:
    with running_broker(tmp_path, Settings()) as settings:
        ensure_topics(settings)
        with tail(settings, settings.dead_letters_topic) as records:
            assert records.settled(0.2) == []


def test_an_unavailable_broker_is_one_sentence() -> None:
    with pytest.raises(KafkaUnavailable, match=r"The Kafka broker at 127.0.0.1:1 does not answer\."):
        ensure_topics(Settings(kafka_bootstrap="127.0.0.1:1"), timeout_seconds=0.5)
