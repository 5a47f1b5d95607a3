"""Apache Kafka itself under our clients: logins, rights, and what a person reads when they are wrong."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from eventing.event_search import events_of
from eventing.kafka import ensure_topics
from eventing.producer import Sender
from eventing.replay import replay
from lungline.errors import KafkaUnavailable
from lungline.events.uploads import parse
from lungline.settings import Settings
from tests.support.apache_kafka import ADMIN, ApacheKafka, running_kafka
from tests.support.kafka_manifests import topics
from tests.support.manifests_of import fresh_secrets
from tests.support.object_store import free_ports

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    with running_kafka(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka


def send(settings: Settings, topic: str, size: int = 1, patience: float = 3) -> None:
    sender = Sender(settings, patience)
    sender.send(topic, b"x" * size, "key")
    sender.flush()


def test_the_manifests_topics_exist(kafka: ApacheKafka) -> None:
    metadata = kafka.admin().list_topics(timeout=10).topics
    assert {name: len(topic.partitions) for name, topic in metadata.items() if name in topics()} == topics()


@pytest.mark.parametrize(
    ("user", "topic", "allowed"),
    [
        ("object-store", "xray-uploads", True),
        ("object-store", "xray-results", False),
        ("eventing", "xray-results", True),
        ("eventing", "xray-uploads", False),
        ("tools", "xray-uploads", True),
        ("tools", "xray-broker", True),
        ("tools", "xray-results", False),
        ("tools", "xray-dead-letters", False),
        ("dossier", "xray-uploads", False),
    ],
)
def test_users_write_where_the_manifests_let_them(kafka: ApacheKafka, user: str, topic: str, *, allowed: bool) -> None:
    if allowed:
        send(kafka.settings(user), topic)
        return
    with pytest.raises(KafkaUnavailable) as refused:
        send(kafka.settings(user), topic)
    assert str(refused.value) == f"Kafka user {user} lacks a right on topic {topic}."


def test_commands_of_the_cluster_have_the_rights_that_they_need(kafka: ApacheKafka) -> None:
    tools = kafka.settings("tools")
    ensure_topics(tools)
    assert replay(tools).replayed == 0


def test_dossiers_read_the_events_of_an_upload(kafka: ApacheKafka) -> None:
    part = {"bucket": {"name": "xray-uploads"}, "object": {"key": "ward/1.jpeg", "eTag": "e" * 32}}
    event = json.dumps({"Records": [{"eventName": "s3:ObjectCreated:Put", "s3": part}]}).encode()
    (upload,) = parse(event)
    sender = Sender(kafka.settings("tools"), 3)
    sender.send("xray-uploads", event, "key")
    sender.flush()
    seen = events_of(upload.identity, "e" * 32, kafka.settings("dossier"))
    assert [(each.topic, each.kind) for each in seen] == [("xray-uploads", "upload")]
    with pytest.raises(KafkaUnavailable, match="user tools lacks a right on topic xray-uploads"):
        events_of(upload.identity, "e" * 32, kafka.settings("tools"))


def test_replay_names_the_right_that_is_missing(kafka: ApacheKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KafkaUnavailable, match="object-store lacks a right on topic xray-dead-letters"):
        replay(kafka.settings("object-store"))
    monkeypatch.setattr("eventing.replay.GROUP", "other-replay")
    with pytest.raises(KafkaUnavailable, match="eventing lacks the right to read as consumer group other-replay"):
        replay(kafka.settings("eventing"), timeout_seconds=3)


def test_a_missing_topic_is_no_empty_one(kafka: ApacheKafka) -> None:
    """Without its name among the errors, `lungline replay` would report that it delivered nothing, and succeed."""
    admin = kafka.settings(ADMIN, dead_letters_topic="xray-lost")
    with pytest.raises(KafkaUnavailable, match="has no topic xray-lost"):
        replay(admin)
    with pytest.raises(KafkaUnavailable, match="has no topic xray-lost"):
        send(admin, "xray-lost", patience=15)
    with pytest.raises(KafkaUnavailable, match="user tools sees no topic xray-lost and may not create it"):
        ensure_topics(kafka.settings("tools"), ["xray-lost"])


def test_a_message_that_is_too_large_is_one_sentence(kafka: ApacheKafka) -> None:
    send(kafka.settings("tools"), "xray-uploads", 1_040_000)  # more than the client's default, less than the broker's
    with pytest.raises(KafkaUnavailable, match="A message is larger than topic xray-uploads"):
        send(kafka.settings("tools"), "xray-uploads", 1_100_000)


def test_a_wrong_password_is_one_sentence_without_it(kafka: ApacheKafka) -> None:
    wrong = kafka.settings("tools").model_copy(update={"kafka_password": SecretStr("hidden")})
    for call in (
        lambda: ensure_topics(wrong, timeout_seconds=2),
        lambda: send(wrong, "xray-uploads", patience=2),
        lambda: replay(wrong, timeout_seconds=2),
    ):
        with pytest.raises(KafkaUnavailable, match="refuses the login of user tools: expected") as refused:
            call()
        assert "hidden" not in str(refused.value)


def test_what_is_wrong_with_the_connection_is_told(kafka: ApacheKafka, tmp_path: Path) -> None:
    held = {secret["metadata"]["name"]: secret["stringData"] for secret in fresh_secrets()}
    stranger = tmp_path / "ca.crt"
    stranger.write_text(held["xray-cluster-ca-cert"]["ca.crt"])
    right = kafka.settings("tools")
    nowhere = f"127.0.0.1:{free_ports(1)[0]}"
    for settings, expected in (
        (right.model_copy(update={"kafka_ca": stranger}), "certificate .* is refused: expected one for this host"),
        (Settings(kafka_bootstrap=kafka.bootstrap), "ends every connection: it may expect TLS"),
        (Settings(kafka_bootstrap=kafka.bootstrap, kafka_ca=kafka.authority), "ends every connection: .* or a login"),
        (right.model_copy(update={"kafka_bootstrap": nowhere}), f"{nowhere} does not answer"),
        (right.model_copy(update={"kafka_bootstrap": "kafka.invalid:9093"}), "kafka.invalid:9093 is unknown"),
    ):
        with pytest.raises(KafkaUnavailable, match=expected):
            ensure_topics(settings, timeout_seconds=2)


@pytest.mark.parametrize("killed", [False, True])
def test_records_and_offsets_outlive_the_broker(kafka: ApacheKafka, *, killed: bool) -> None:
    tools = kafka.settings("tools", dead_letters_topic="xray-dead-letters")
    sent = kafka.settings("eventing")
    send(sent, sent.dead_letters_topic)
    assert replay(tools).hopeless == 1
    send(sent, sent.dead_letters_topic)
    began = time.monotonic()
    kafka.restart(killed=killed)
    assert replay(tools).hopeless == 1, "the one after the restart"
    assert time.monotonic() - began < 60
