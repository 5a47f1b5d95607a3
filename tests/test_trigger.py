"""The trigger between a real broker and a sink whose responses the tests choose."""

import base64
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # pyright: ignore[reportPrivateImportUsage] - as its docs do
from pydantic import SecretStr

from eventing import subscription
from eventing.kafka import DEAD_LETTERS_GROUP, RESULTS_GROUP, TRIGGER_GROUP, client_options
from eventing.routes import RetryPolicy
from eventing.sink import CircuitBreaker, Sink
from eventing.trigger import Trigger
from laptop.services.broker import running_broker
from laptop.services.process import running
from laptop.services.trigger import TriggerService
from lungline.home import Home
from lungline.service_state import read_state
from lungline.settings import Settings, WorklistSettings
from tests.support.fake_predictor import FakePredictor, fake_predictor
from tests.support.kafka_tail import tail

pytestmark = pytest.mark.stack

IN_FLIGHT = 16
DEFAULT = RetryPolicy()
QUICK = RetryPolicy(first_backoff_seconds=0.01, max_backoff_seconds=0.05)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A broker that keeps its log in memory."""
    with running_broker(tmp_path_factory.mktemp("broker"), Settings()) as settings:
        yield settings


@pytest.fixture
def topics(broker: Settings, request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Topics of the test's own, with several partitions, and a home of its own."""
    return topics_in(broker, request.node.name[:80], tmp_path)


def topics_in(broker: Settings, name: str, home: Path) -> Settings:
    admin = AdminClient(client_options(broker))
    values = {"uploads_topic": name, "results_topic": f"{name}-results", "dead_letters_topic": f"{name}-dead"}
    for future in admin.create_topics([NewTopic(topic, 3, 1) for topic in values.values()]).values():
        future.result(10)
    return broker.model_copy(update={**values, "home": home})


def produce(settings: Settings, *values: str, headers: Any = None) -> None:
    producer = Producer(client_options(settings))
    for value in values:
        producer.produce(settings.uploads_topic, value, key=value, headers=headers)
    assert producer.flush(10) == 0


def committed(settings: Settings, group: str = TRIGGER_GROUP, topic: str | None = None) -> int:
    """How many records the trigger has committed."""
    consumer = Consumer(client_options(settings) | {"group.id": group})
    try:
        partitions = [TopicPartition(topic or settings.uploads_topic, number) for number in range(3)]
        return sum(max(0, position.offset) for position in consumer.committed(partitions, timeout=10))
    finally:
        consumer.close()


@contextmanager
def running_trigger(
    settings: Settings, fake: FakePredictor, worklist: str | None = None, retry: RetryPolicy = DEFAULT
) -> Iterator[Trigger]:
    aimed = settings.model_copy(update={"predictor_uri": fake.uri})
    trigger = Trigger(Home.make(settings.home), aimed, worklist, retry)
    thread = threading.Thread(target=trigger.run)
    thread.start()
    try:
        yield trigger
    finally:
        trigger.stop()
        thread.join(15)
        assert not thread.is_alive()


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_records_of_all_partitions_are_delivered_as_binary_cloudevents(topics: Settings) -> None:
    values = [json.dumps({"number": number}) for number in range(30)]
    produce(topics, *values, headers=[("content-type", b"application/json")])
    with fake_predictor() as fake, running_trigger(topics, fake):
        eventually(lambda: len(fake.counts) == 30)
    assert set(fake.counts.values()) == {1}
    headers = [headers for _, headers, _ in fake.deliveries]
    assert {sent["ce-type"] for sent in headers} == {"dev.knative.kafka.event"}
    assert {sent["content-type"] for sent in headers} == {"application/json"}
    assert len({sent["ce-id"] for sent in headers}) == 30
    assert len({sent["ce-subject"].partition("#")[0] for sent in headers}) == 3


def test_a_reply_event_goes_to_the_results_topic(topics: Settings) -> None:
    reply = {"ce-specversion": "1.0", "ce-id": "1", "ce-type": "t", "ce-source": "s", "ce-subject": "abc"}
    with fake_predictor(lambda *_: (200, reply)) as fake, running_trigger(topics, fake):
        produce(topics, "x")
        with tail(topics, topics.results_topic) as results:
            (record,) = results.until(lambda records: len(records) == 1)
    assert record.value() == b"done"
    assert record.key() == b"abc"
    assert dict(record.headers() or [])["ce_type"] == b"t"


def test_a_refusal_is_a_dead_letter_at_once(topics: Settings) -> None:
    with fake_predictor(lambda value, _: 400 if value == "poison" else 200) as fake, running_trigger(topics, fake):
        produce(topics, "poison", *"abcdef")
        with tail(topics, topics.dead_letters_topic) as letters:
            (letter,) = letters.until(lambda records: len(records) == 1)
            eventually(lambda: len(fake.counts) == 7)
            assert len(letters.settled(0.5)) == 1
    assert fake.counts["poison"] == 1
    assert letter.value() == b"poison"
    headers = dict(letter.headers() or [])
    assert headers["ce_knativeerrordest"] == f"{fake.uri}/v1/models/pneumonia:predict".encode()
    assert headers["ce_knativeerrorcode"] == b"400"
    assert base64.b64decode(headers["ce_knativeerrordata"] or b"") == b'{"error": "no"}'


@pytest.mark.parametrize("status", [500, 503, 404, 408, 409, 429, 0])
def test_retryable_statuses_are_retried_until_delivered(topics: Settings, status: int) -> None:
    with (
        fake_predictor(lambda _, count: 200 if count > 3 else status) as fake,
        running_trigger(topics, fake, retry=QUICK),
    ):
        produce(topics, "x")
        eventually(lambda: fake.counts["x"] >= 4)
        with tail(topics, topics.dead_letters_topic) as letters:
            assert letters.settled(0.3) == []


def test_a_dead_letter_after_ten_retries_blocks_no_others(topics: Settings) -> None:
    with (
        fake_predictor(lambda value, _: 500 if value == "poison" else 200) as fake,
        running_trigger(topics, fake, retry=QUICK),
    ):
        produce(topics, "poison", *"abcdef")
        eventually(lambda: len(fake.counts) == 7)
        with tail(topics, topics.dead_letters_topic) as letters:
            (letter,) = letters.until(lambda records: len(records) == 1)
    assert fake.counts["poison"] == 11
    assert dict(letter.headers() or [])["ce_knativeerrorcode"] == b"500"


def test_pauses_between_attempts_double(topics: Settings) -> None:
    with fake_predictor(lambda _, count: 500 if count < 4 else 200) as fake, running_trigger(topics, fake):
        produce(topics, "x")
        eventually(lambda: fake.counts["x"] == 4)
    first, second, third, fourth = fake.times("x")
    assert second - first >= 0.2
    assert third - second >= 0.4
    assert fourth - third >= 0.8


def test_events_wait_while_the_predictor_is_not_ready(topics: Settings) -> None:
    """Waiting uses up no retries."""
    with fake_predictor(lambda *_: 200 if fake.ready else 503) as fake, running_trigger(topics, fake, retry=QUICK):
        eventually(lambda: read_state(Home(topics.home), "trigger").get("state") == "ready")
        fake.ready = False
        produce(topics, *"abcdefghijklmnopqrstuvwxyz")
        eventually(lambda: read_state(Home(topics.home), "trigger").get("state") == "waiting")
        with tail(topics, topics.dead_letters_topic) as letters:
            assert letters.settled(1) == []
        assert sum(fake.counts.values()) <= IN_FLIGHT
        fake.ready = True
        eventually(lambda: len(fake.counts) == 26)
    assert max(fake.counts.values()) < QUICK.retries


def test_concurrent_deliveries_are_limited(topics: Settings) -> None:
    released = threading.Event()
    with fake_predictor(lambda *_: 200 if released.wait(20) else 500) as fake, running_trigger(topics, fake):
        produce(topics, *(str(number) for number in range(100)))
        eventually(lambda: fake.at_once == IN_FLIGHT)
        released.set()
        eventually(lambda: len(fake.counts) == 100)
    assert fake.most_at_once == IN_FLIGHT


def test_a_killed_trigger_resumes_without_loss(topics: Settings) -> None:
    released = threading.Event()
    home = Home.make(topics.home)
    stuck = "3"
    with fake_predictor(lambda value, _: 200 if value != stuck or released.wait(20) else 500) as fake:
        service = TriggerService(home, topics.model_copy(update={"predictor_uri": fake.uri}))
        with running(service, home.log("trigger")) as process:
            produce(topics, *(str(number) for number in range(30)))
            eventually(lambda: len(fake.counts) == 30 and committed(topics) > 0)
            os.kill(process.pid, signal.SIGKILL)
        released.set()
        with running(service, home.log("trigger")):
            eventually(lambda: fake.counts[stuck] == 2)
    # What it had committed does not come again; only the partition of the stuck record does.
    assert len(fake.deliveries) < 60


def test_a_stopped_trigger_repeats_nothing(topics: Settings) -> None:
    with fake_predictor() as fake:
        for start in (0, 20):
            with running_trigger(topics, fake):
                produce(topics, *(str(number) for number in range(start, start + 20)))
                eventually(lambda start=start: len(fake.counts) == start + 20)
    assert set(fake.counts.values()) == {1}


def predict(value: str, _: int) -> tuple[int, dict[str, str]]:
    """A predictor's response; it refuses poison."""
    if value == "poison":
        return 400, {}
    return 200, {"ce-specversion": "1.0", "ce-id": value, "ce-type": "org.lungline.result.v1", "ce-source": "s"}


def test_a_stop_does_not_wait_for_a_broker_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waited for the answer to its last commit as long as the broker was away.

    The broker is this test's own: where nobody could say goodbye, the group's next members wait for a while.
    """
    for name in ("LAST_COMMIT_SECONDS", "CLOSE_SECONDS"):
        monkeypatch.setattr(subscription, name, 1.0)
    answering = threading.Event()
    with (
        running_broker(tmp_path / "broker", Settings()) as broker,
        fake_predictor(lambda *_: 200 if answering.wait(30) else 500) as fake,
    ):
        topics = topics_in(broker, "uploads", tmp_path)
        gate = os.getpgid(json.loads((tmp_path / "broker" / "run" / "kafka_gate.json").read_bytes())["pid"])
        try:
            with running_trigger(topics, fake):
                produce(topics, "x")
                eventually(lambda: fake.counts["x"] == 1)
                os.killpg(gate, signal.SIGSTOP)
                answering.set()
        finally:
            os.killpg(gate, signal.SIGCONT)


def test_results_and_dead_letters_reach_the_worklist(topics: Settings) -> None:
    """With their own attributes, and with the worklist's token."""
    guarded = topics.model_copy(update={"worklist": WorklistSettings(event_token=SecretStr("sesame"))})
    with (
        fake_predictor(predict) as predictor,
        fake_predictor(lambda *_: 204) as worklist,
        running_trigger(guarded, predictor, worklist.uri),
    ):
        produce(topics, "a", "poison", "b")
        eventually(lambda: worklist.counts == {"done": 2, "poison": 1})
    results = {headers["ce-id"]: headers for value, headers, _ in worklist.deliveries if value == "done"}
    assert set(results) == {"a", "b"}
    assert {headers["ce-type"] for headers in results.values()} == {"org.lungline.result.v1"}
    (letter,) = (headers for value, headers, _ in worklist.deliveries if value == "poison")
    assert (letter["ce-type"], letter["ce-knativeerrorcode"]) == ("dev.knative.kafka.event", "400")
    assert {headers["authorization"] for _, headers, _ in worklist.deliveries} == {"Bearer sesame"}
    assert "authorization" not in predictor.deliveries[0][1]


def test_results_that_wait_share_requests_and_a_bad_one_holds_up_no_other(topics: Settings) -> None:
    results = [json.dumps({"number": number}) for number in range(40)] + ['"poison"']
    event = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_type", b"t"), ("ce_source", b"s")]
    produce(
        topics.model_copy(update={"uploads_topic": topics.results_topic}),
        *results,
        headers=[*event, ("content-type", b"application/json")],
    )

    def behave(value: str, _: int) -> int:
        return 400 if "poison" in value else 204

    with (
        fake_predictor() as predictor,
        fake_predictor(behave) as worklist,
        running_trigger(topics, predictor, worklist.uri) as trigger,
    ):
        eventually(lambda: committed(topics, RESULTS_GROUP, topics.results_topic) == 41)
        eventually(lambda: committed(topics, DEAD_LETTERS_GROUP, topics.dead_letters_topic) == 1)
        counts = trigger.subscriptions[1].dispatcher.counts
    batches = [json.loads(value) for value, sent, _ in worklist.deliveries if "batch" in sent["content-type"]]
    alone = [value for value, sent, _ in worklist.deliveries if "batch" not in sent["content-type"]]
    shared = [json.dumps(event["data"]) for batch in batches for event in batch]
    assert len(batches) >= 1
    assert len(batches) < 20
    assert set(shared) | set(alone) == set(results)
    assert (counts["delivered"], counts["retried"], counts["dead_letters"]) == (40, 0, 1)


def test_an_unavailable_worklist_blocks_no_uploads(topics: Settings) -> None:
    """It gets every result later."""
    values = [str(number) for number in range(40)]
    with fake_predictor(predict) as predictor, fake_predictor(lambda *_: 204 if worklist.ready else 503) as worklist:
        worklist.ready = False
        with running_trigger(topics, predictor, worklist.uri):
            produce(topics, *values)
            eventually(lambda: len(predictor.counts) == 40 and committed(topics) == 40)
            assert read_state(Home(topics.home), "trigger")["state"] == "ready"
        worklist.deliveries.clear()
        worklist.ready = True
        with running_trigger(topics, predictor, worklist.uri):
            eventually(lambda: committed(topics, RESULTS_GROUP, topics.results_topic) == 40)
    assert {headers["ce-id"] for _, headers, _ in worklist.deliveries} == set(values)
    assert set(predictor.counts.values()) == {1}


def test_a_result_that_is_refused_is_dead_lettered_once(topics: Settings) -> None:
    with (
        fake_predictor(predict) as predictor,
        fake_predictor(lambda *_: 400) as worklist,
        running_trigger(topics, predictor, worklist.uri),
    ):
        produce(topics, "a")
        eventually(lambda: committed(topics, DEAD_LETTERS_GROUP, topics.dead_letters_topic) == 1)
        with tail(topics, topics.dead_letters_topic) as letters:
            (letter,) = letters.settled(0.5)
    assert dict(letter.headers() or [])["ce_knativeerrordest"] == f"{worklist.uri}/".encode()
    assert dict(letter.headers() or [])["ce_type"] == b"org.lungline.result.v1"
    assert worklist.counts == {"done": 2}


def test_a_closed_idle_connection_uses_up_no_retry() -> None:
    with fake_predictor() as fake:
        sink = Sink(f"{fake.uri}/x")
        assert sink.post(b"1", {}).delivered
        fake.hang_up()
        assert sink.post(b"2", {}).delivered
        sink.close()


def test_a_breaker_closes_when_its_sink_is_ready() -> None:
    with fake_predictor() as fake:
        sink = Sink(f"{fake.uri}/x")
        breaker = CircuitBreaker(sink, poll_seconds=0.01)
        fake.ready = False
        breaker.trip()
        assert not breaker.is_closed
        fake.ready = True
        assert breaker.wait()
        sink.close()


def test_a_sink_without_a_readiness_path_is_ready() -> None:
    with fake_predictor() as fake:
        sink = Sink(f"{fake.uri}/x")
        fake.readiness_status = 404
        assert sink.is_ready()
    assert not Sink(f"{fake.uri}/x").is_ready()
    sink.close()


@pytest.mark.attack
def test_a_busy_predictor_costs_no_attempt(topics: Settings) -> None:
    """503 with Retry-After: the record is delivered, however often the predictor was busy before."""
    once = RetryPolicy(retries=1, first_backoff_seconds=0.01, max_backoff_seconds=0.01)
    with (
        fake_predictor(lambda _, times: (503, {"retry-after": "0"}) if times <= 6 else 200) as fake,
        running_trigger(topics, fake, retry=once) as trigger,
    ):
        produce(topics, "patient")
        eventually(lambda: trigger.subscriptions[0].dispatcher.counts["delivered"] == 1)
        assert trigger.subscriptions[0].dispatcher.counts["dead_letters"] == 0
    assert fake.counts["patient"] == 7
