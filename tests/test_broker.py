"""The embedded Kafka broker with its log in the home."""

import contextlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from eventing.kafka import RESULTS_GROUP, TRIGGER_GROUP, client_options, ensure_topics
from laptop.home.credentials import claim_credentials
from laptop.home.ports import claim_ports, load_ports
from laptop.services.broker import Broker, kept_of, running_broker
from laptop.services.broker_log import BrokerLog, log_file
from laptop.services.broker_pruning import prune
from laptop.services.process import family, running
from laptop.services.store import BROKER_BUCKET, running_store
from lungline.errors import KafkaUnavailable
from lungline.home import Home
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.kafka_tail import tail
from tests.support.open_ports import command_line, listening
from tests.support.small_disk import full, small_disk
from tests.support.waiting import eventually

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Broker:
    """A broker that does not run yet."""
    return broker_in(tmp_path_factory.mktemp("broker"))


def broker_in(folder: Path, **changes: Any) -> Broker:
    home = Home.make(folder)
    return Broker(home, Settings(home=home.path), claim_ports(home), claim_credentials(home), **changes)


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
        secret = broker.credentials.kafka
        assert secret not in command_line(process.pid)
        assert secret not in broker.home.log("broker").read_text()


def test_committed_batches_are_pruned(
    broker: Broker,
) -> None:
    """Records that are not committed are read as before."""
    settings = broker.connected().model_copy(update={"uploads_topic": "pruned", "results_topic": "kept"})
    with running(broker, broker.home.log("broker")), log_of(broker) as log:
        ensure_topics(settings)
        producer = Producer(client_options(settings))
        for number in range(10):
            for topic in ("pruned", "kept"):
                producer.produce(topic, b"%d" % number)
                assert producer.flush(10) == 0
        assert prune(log, kept_of(settings, 2, 2)) == 0  # nothing is committed
        for group, topic, offset, gone in ((TRIGGER_GROUP, "pruned", 7, 7), (RESULTS_GROUP, "kept", 4, 4)):
            consumer = Consumer(client_options(settings) | {"group.id": group})
            consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
            consumer.close()
            assert prune(log, kept_of(settings, 2, 2)) == gone
        with tail(settings, "pruned") as records:
            records.until(lambda records: len(records) == 3)
            assert [record.value() for record in records.settled(0.3)] == [b"7", b"8", b"9"]
        with tail(settings, "kept") as records:  # what the worklist has not taken yet
            records.until(lambda records: len(records) == 6)


def test_its_gate_prunes_while_it_runs(broker: Broker) -> None:
    settings = broker.connected()
    with running(broker, broker.home.log("broker")), log_of(broker) as log:
        producer = Producer(client_options(settings))
        for number in range(5):
            producer.produce(settings.uploads_topic, b"%d" % number)
            assert producer.flush(10) == 0
        records = f"clusters/tansu_cluster/topics/{settings.uploads_topic}/partitions/0000000000/records/"
        last = int(log.listed(records)[-1].key[-26:-6])
        consumer = Consumer(client_options(settings) | {"group.id": TRIGGER_GROUP})
        consumer.commit(offsets=[TopicPartition(settings.uploads_topic, 0, last + 1)], asynchronous=False)
        consumer.close()
        eventually(lambda: len(log.listed(records)) == 1)


def test_a_full_disk_delays_records_and_loses_none(tmp_path: Path) -> None:
    broker = broker_in(tmp_path / "home")
    settings = broker.connected()
    with small_disk(broker.home.file("broker")) as folder, running(broker, broker.home.log("broker")):
        producer = Producer(client_options(broker.connected()))
        acknowledged: list[bytes] = []

        def note(error: object, message: Message) -> None:
            assert error is None
            acknowledged.append(message.value() or b"")

        with full(folder):
            for number in range(8):
                producer.produce(settings.uploads_topic, b"%d" % number * 50_000, on_delivery=note)
            producer.flush(1)
            before = len(acknowledged)
        assert producer.flush(30) == 0
        assert before < len(acknowledged) == 8
        with tail(settings, settings.uploads_topic) as records:
            assert {record.value() for record in records.until(lambda seen: len(seen) >= 8)} == {*acknowledged}


def test_the_log_of_an_earlier_release_moves_from_the_store(tmp_path: Path) -> None:
    """Its records and offsets are there, and the store has them no longer."""
    first = broker_in(tmp_path / "first")
    with running(first, first.home.log("broker")):
        produce(first, b"kept")
        consumer = Consumer(client_options(first.connected()) | {"group.id": "g"})
        consumer.commit(offsets=[TopicPartition(first.settings.uploads_topic, 0, 7)], asynchronous=False)
        consumer.close()
    with running_store(tmp_path / "home", Settings(home=tmp_path / "home")) as settings, log_of(first) as log:
        storage = Storage.from_settings(settings)
        storage.ensure_buckets(BROKER_BUCKET)
        for listed in log.listed(""):
            stored = log.get(listed.key)
            assert stored
            storage.put(BROKER_BUCKET, listed.key, stored.data)
        home = Home.make(tmp_path / "home")
        ports = load_ports(home)
        assert ports
        broker = Broker(home, settings, ports, claim_credentials(home), has_own_store=True)
        assert broker.after == ("store",)
        with running(broker, home.log("broker")) as process:
            with tail(broker.connected(), settings.uploads_topic) as records:
                assert records.until(bool)[0].value() == b"kept"
            consumer = Consumer(client_options(broker.connected()) | {"group.id": "g"})
            (committed,) = consumer.committed([TopicPartition(settings.uploads_topic, 0)], timeout=10)
            assert committed.offset == 7
            consumer.close()
            assert "LUNGLINE_" not in environment_of_broker(process.pid)
        assert list(storage.list(BROKER_BUCKET)) == []
        assert broker.after == (), "from now on it needs no store"
        storage.close()


def produce(broker: Broker, value: bytes) -> None:
    producer = Producer(client_options(broker.connected()))
    producer.produce(broker.settings.uploads_topic, value)
    assert producer.flush(10) == 0


def environment_of_broker(gate: int) -> str:
    """The environment of the program itself, where the system shows it."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{family(gate)[-1]}/environ").read_text()
    return ""


@contextmanager
def log_of(broker: Broker) -> Iterator[BrokerLog]:
    with closing(BrokerLog(log_file(broker.home.file("broker")))) as log:
        yield log


def test_topics_are_made_once(tmp_path: Path) -> None:
    with running_broker(tmp_path, Settings()) as settings:
        ensure_topics(settings)
        with tail(settings, settings.dead_letters_topic) as records:
            assert records.settled(0.2) == []


def test_an_unavailable_broker_is_one_sentence() -> None:
    with pytest.raises(KafkaUnavailable, match=r"The Kafka broker at 127.0.0.1:1 does not answer\."):
        ensure_topics(Settings(kafka_bootstrap="127.0.0.1:1"), timeout_seconds=0.5)
