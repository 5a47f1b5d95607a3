"""The laptop stack on Apache Kafka itself: SCRAM over TLS, and no right that it does not need."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eventing.reconcile import resend
from eventing.replay import replay
from laptop import stack
from lungline.datasets.phantom import jpeg
from lungline.results.records import PREFIX
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.apache_kafka import ApacheKafka, running_kafka
from tests.support.kafka_manifests import add_user
from tests.support.laptop_stack import s3_client, with_champion
from tests.support.waiting import eventually
from worklist.database import entries
from worklist.database.entries import Counters
from worklist.database.session import Database

pytestmark = pytest.mark.kafka

# What the laptop's tools need of a Kafka that is not theirs; they create no topics there.
LAPTOP = [
    {
        "resource": {"type": "topic", "name": "xray-", "patternType": "prefix"},
        "operations": ["Read", "Write", "Describe"],
    },
    {"resource": {"type": "group", "name": "lungline-", "patternType": "prefix"}, "operations": ["Read", "Describe"]},
]


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    with running_kafka(tmp_path_factory.mktemp("kafka")) as kafka:
        add_user(kafka.admin(), "laptop", kafka.passwords["tools"], LAPTOP)
        yield kafka


@pytest.fixture(scope="module")
def settings(
    kafka: ApacheKafka, packages: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    login = kafka.settings("tools").model_copy(update={"kafka_username": "laptop"})
    ours = with_champion(tmp_path_factory.mktemp("stack") / "home", packages[0])
    names = ("kafka_bootstrap", "kafka_ca", "kafka_username", "kafka_password")
    settings = ours.model_copy(update={name: getattr(login, name) for name in names})
    stack.up(settings, attached=True)
    try:
        yield settings
    finally:
        stack.down(settings)


def upload(settings: Settings, **images: bytes) -> None:
    client = s3_client(stack.env(settings, scanner=True))
    for name, data in images.items():
        client.put_object(Bucket=settings.uploads_bucket, Key=f"ward/{name}.jpg", Body=data)


def shown(settings: Settings) -> Counters:
    database = Database.open(settings)
    try:
        with database.reading() as session:
            return entries.count(session)
    finally:
        database.close()


@contextmanager
def storage(settings: Settings) -> Iterator[Storage]:
    opened = Storage.from_settings(stack.connect(settings))
    try:
        yield opened
    finally:
        opened.close()


def test_uploads_reach_the_worklist_and_a_refusal_is_replayed(settings: Settings) -> None:
    assert stack.status(settings).service("broker").state == "external"
    upload(settings, a=jpeg(1, opacities=True), b=jpeg(2, opacities=False), broken=b"no image")
    eventually(lambda: (shown(settings).judged, shown(settings).refused) == (2, 1), 60)
    eventually(lambda: shown(settings).dead_lettered == 1, 60)
    assert replay(stack.connect(settings)).replayed == 1
    assert shown(settings).uploaded == 3


def test_nothing_is_lost_or_doubled_when_kafka_is_killed(kafka: ApacheKafka, settings: Settings) -> None:
    before = shown(settings)
    kafka.nodes[0].stop(0)
    upload(settings, **{f"k{number}": jpeg(10 + number, opacities=False) for number in range(4)})
    time.sleep(1)  # so that the bridge has tried
    kafka.nodes[0].start()
    kafka.wait()
    eventually(lambda: shown(settings).judged == before.judged + 4, 90)
    assert shown(settings).uploaded == before.uploaded + 4


def test_an_upload_whose_event_was_lost_is_reconciled(settings: Settings) -> None:
    with storage(settings) as objects:

        def records() -> set[str]:
            return {info.key for info in objects.list(settings.results_bucket, PREFIX)}

        before = records()
        upload(settings, lost=jpeg(30, opacities=False))
        eventually(lambda: len(records()) == len(before) + 1, 60)
        (record,) = records() - before
        objects.delete(settings.results_bucket, record)  # as if its event had never come
        assert resend(stack.connect(settings), grace_seconds=0).sent == 1
        eventually(lambda: record in records(), 60)
    assert resend(stack.connect(settings), grace_seconds=0).sent == 0
