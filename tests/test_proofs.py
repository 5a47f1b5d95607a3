"""Who is ready proves it by doing: what hangs is not ready, what cannot write goes on, what cannot be is given up."""

import errno
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from eventing.bridge import Bridge
from eventing.kafka import TRIGGER_GROUP, client_options, ensure_topics
from eventing.replay import GROUP, replay
from eventing.trigger import Trigger
from laptop.home.credentials import claim_credentials
from laptop.home.ports import Ports, load_ports
from laptop.services import broker as broker_service
from laptop.services.bridge import BridgeService
from laptop.services.broker import Broker, kept_of
from laptop.services.broker_log import BrokerLog, log_file
from laptop.services.broker_pruning import prune
from laptop.services.process import running
from laptop.services.service import Service
from laptop.services.store import running_store
from laptop.services.trigger import TriggerService
from lungline import service_state as state
from lungline.errors import KafkaUnavailable
from lungline.home import Home
from lungline.service_state import read_state, state_of, write_state
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.fake_predictor import fake_predictor
from tests.support.kafka_tail import tail
from tests.support.waiting import eventually

pytestmark = pytest.mark.stack


@dataclass(frozen=True)
class Place:
    """A store and a broker that run, and what services beside them need."""

    home: Home
    settings: Settings
    ports: Ports
    broker: Broker
    broker_pid: int


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = Home.make(tmp_path_factory.mktemp("proofs"))
    with running_store(home.path, Settings(home=home.path)) as settings:
        ports = load_ports(home)
        assert ports
        broker = Broker(home, settings, ports, claim_credentials(home))
        with running(broker, home.log("broker")) as process:
            yield Place(home, broker.connected(), ports, broker, process.pid)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.killpg(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(pid, signal.SIGCONT)


def is_in(service: Service, pid: int, wanted: str) -> Callable[[], bool]:
    return lambda: service.probe(pid) == wanted


def test_a_hung_broker_is_not_ready(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_service, "PROOF_SECONDS", 0.2)
    monkeypatch.setattr(broker_service, "ANSWER_SECONDS", 0.5)
    assert place.broker.probe(place.broker_pid) == "ready"
    with stopped(place.broker_pid):
        eventually(is_in(place.broker, place.broker_pid, "not answering"))
    eventually(is_in(place.broker, place.broker_pid, "ready"))


def test_a_hung_bridge_and_a_hung_trigger_are_not_ready(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "STALE_SECONDS", state.HEARTBEAT_SECONDS + 1.5)
    with fake_predictor() as fake:
        aimed = place.settings.model_copy(update={"predictor_uri": fake.uri})
        for service in (BridgeService(place.home, aimed, place.ports), TriggerService(place.home, aimed)):
            with running(service, place.home.log(service.name)) as process:
                eventually(is_in(service, process.pid, "ready"))
                with stopped(process.pid):
                    eventually(is_in(service, process.pid, "not answering"))
                eventually(is_in(service, process.pid, "ready"))


def test_a_trigger_is_not_ready_while_its_broker_hangs(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from eventing import subscription

    for name, seconds in (("PROOF_SECONDS", 0.2), ("PROVEN_SECONDS", 1.0), ("LOOK_SECONDS", 0.5)):
        monkeypatch.setattr(subscription, name, seconds)
    with trigger_of(place) as (trigger, _):
        eventually(lambda: trigger.subscriptions[0].is_ready)
        with stopped(place.broker_pid):
            eventually(lambda: not trigger.subscriptions[0].is_ready)
        eventually(lambda: trigger.subscriptions[0].is_ready)


def test_an_old_state_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home.make(tmp_path)
    assert write_state(home, "bridge", "ready")
    assert state_of(home, "bridge", os.getpid()) == "ready"
    assert state_of(home, "bridge", os.getpid() + 1) == "starting"
    later = time.monotonic() + state.STALE_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert state_of(home, "bridge", os.getpid()) == "not answering"


@contextmanager
def trigger_of(place: Place) -> Iterator[tuple[Trigger, Any]]:
    with fake_predictor() as fake:
        trigger = Trigger(place.home, place.settings.model_copy(update={"predictor_uri": fake.uri}))
        thread = threading.Thread(target=trigger.run)
        thread.start()
        try:
            yield trigger, fake
        finally:
            trigger.stop()
            thread.join(20)


def commit(settings: Settings, group: str, topic: str, offset: int) -> None:
    """What another program may do that has logged in."""
    consumer = Consumer(client_options(settings) | {"group.id": group})
    consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
    consumer.close()


def committed(settings: Settings, group: str, topic: str) -> int:
    consumer = Consumer(client_options(settings) | {"group.id": group})
    try:
        return consumer.committed([TopicPartition(topic, 0)], timeout=10)[0].offset
    finally:
        consumer.close()


@pytest.mark.parametrize("offset", [1_000_000, 2**62])
def test_an_offset_beyond_the_end_is_mended(place: Place, offset: int, caplog: pytest.LogCaptureFixture) -> None:
    settings, topic = place.settings, place.settings.uploads_topic
    ensure_topics(settings)
    producer, value = Producer(client_options(settings)), f"before {offset}"
    producer.produce(topic, value)
    assert producer.flush(10) == 0
    commit(settings, TRIGGER_GROUP, topic, offset)
    with closing(BrokerLog(log_file(place.home.file("broker")))) as log:
        assert prune(log, kept_of(settings)) == 0, "what is not delivered is kept"
    with trigger_of(place) as (trigger, fake):
        eventually(lambda: fake.counts[value] > 0)
        assert trigger.subscriptions[0].mended == 1
        eventually(lambda: read_state(place.home, "trigger").get("mended") == 1)
        producer.produce(topic, f"after {offset}")
        producer.flush(10)
        eventually(lambda: fake.counts[f"after {offset}"] == 1)
        eventually(lambda: 0 < committed(settings, TRIGGER_GROUP, topic) < 100)
    assert f"is at offset {offset} of {topic}" in caplog.text


def test_a_replay_from_beyond_the_end_says_so(place: Place) -> None:
    ensure_topics(place.settings)
    commit(place.settings, GROUP, place.settings.dead_letters_topic, 1_000_000)
    with pytest.raises(KafkaUnavailable, match=r"at offset 1000000 of .* `lungline replay --again`"):
        replay(place.settings, timeout_seconds=3)
    replay(place.settings, again=True, timeout_seconds=3)


@contextmanager
def bridge_of(place: Place) -> Iterator[Bridge]:
    bridge = Bridge(place.home, place.settings, place.ports.filer_grpc)
    thread = threading.Thread(target=bridge.run)
    thread.start()
    try:
        yield bridge
    finally:
        bridge.stop()
        thread.join(20)
        assert not thread.is_alive()


def test_after_a_full_disk_the_bridge_saves_its_position_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    full = threading.Event()
    write = state.write_json

    def write_json(path: Path, value: Any) -> None:
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, value)

    monkeypatch.setattr(state, "write_json", write_json)
    storage = Storage.from_settings(place.settings)
    with bridge_of(place) as bridge, tail(place.settings, place.settings.uploads_topic) as uploads:
        eventually(lambda: bridge.is_ready)
        full.set()
        storage.put(place.settings.uploads_bucket, "a.jpg", b"x")
        uploads.until(bool)
        before = read_state(place.home, "bridge")["position"]
        time.sleep(1)
        full.clear()
        eventually(lambda: read_state(place.home, "bridge")["position"] > before)
        delivered = bridge.delivered
        storage.put(place.settings.uploads_bucket, "b.jpg", b"x")
        eventually(lambda: bridge.delivered > delivered)


def test_a_bridge_whose_reporting_thread_dies_ends(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = Bridge(place.home, place.settings, place.ports.filer_grpc)
    monkeypatch.setattr(bridge, "_report", lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        bridge.run()


@pytest.mark.parametrize("position", [2**63, 253_402_300_800 * 10**9, None, "soon", -1])
def test_a_position_that_cannot_be_is_given_up(place: Place, position: Any, caplog: pytest.LogCaptureFixture) -> None:
    file = place.home.file("run", "bridge.json")
    file.write_text(json.dumps({"pid": 1, "state": "ready", "position": position, "delivered": None}))
    storage = Storage.from_settings(place.settings)
    with bridge_of(place) as bridge, tail(place.settings, place.settings.uploads_topic) as uploads:
        storage.put(place.settings.uploads_bucket, f"{position}.jpg", b"x")
        uploads.until(bool)
        assert bridge.mended == 1
    assert "lies beyond its end: reading again from" in caplog.text
    assert read_state(place.home, "bridge")["position"] < time.time_ns()
