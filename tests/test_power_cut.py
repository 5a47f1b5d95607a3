"""What was acknowledged is there after a power cut; `make power-cut` does it to a whole stack."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from sqlalchemy import func, select

from eventing.kafka import client_options
from laptop.home.credentials import claim_credentials
from laptop.home.ports import claim_ports
from laptop.services.broker import Broker
from laptop.services.durable_answers import Disk, Turns
from laptop.services.process import running
from laptop.services.store import Store
from lungline.home import Home
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.forgetful_disk import ForgetfulDisk, fault, forgetful_disk
from tests.support.kafka_tail import tail
from worklist.database import audit
from worklist.database.models import Audit
from worklist.database.session import Database

DONE = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[ForgetfulDisk]:
    if reason := fault():
        pytest.skip(reason)
    with forgetful_disk(tmp_path) as disk:
        yield disk


def test_a_disk_forgets_what_was_not_synced(disk: ForgetfulDisk) -> None:
    """Else the other tests would prove nothing."""
    (disk.path / "kept").write_bytes(b"kept")
    asyncio.run(_settle(disk.path))
    (disk.path / "forgotten").write_bytes(b"forgotten")
    disk.cut()
    disk.unmount()
    disk.mount()
    assert (disk.path / "kept").read_bytes() == b"kept"
    assert not (disk.path / "forgotten").exists()


async def _settle(folder: Path) -> None:
    with closing(Disk(folder)) as disk:
        await disk.settle()


@pytest.mark.stack
def test_the_store_has_what_it_acknowledged_before_a_power_cut(disk: ForgetfulDisk) -> None:
    home = Home.make(disk.path / "home")
    settings = Settings(home=home.path)
    store = Store(home, settings, claim_ports(home), claim_credentials(home))
    bucket, objects = settings.uploads_bucket, {f"chest {number}.jpeg": bytes([number]) * 20_000 for number in range(8)}
    with running(store, home.log(store.name)) as process:
        with closing(Storage.from_settings(store.connected())) as storage:
            for key, data in objects.items():
                storage.put(bucket, key, data)
        process.sweep()
        disk.cut()
    disk.unmount()
    disk.mount()
    with running(store, home.log(store.name)), closing(Storage.from_settings(store.connected())) as storage:
        assert {key: storage.get(bucket, key).data for key in objects} == objects


@pytest.mark.stack
def test_the_broker_has_what_it_acknowledged_before_a_power_cut(disk: ForgetfulDisk) -> None:
    """Records and offsets, although it does not wait for the disk with every object that it writes."""
    home = Home.make(disk.path / "home")
    broker = Broker(home, Settings(home=home.path), claim_ports(home), claim_credentials(home))
    settings, group = broker.connected(), {"group.id": "g"}
    partition = TopicPartition(settings.uploads_topic, 0, 3)
    with running(broker, home.log(broker.name)) as process:
        producer = Producer(client_options(broker.connected()))
        consumer = Consumer(client_options(settings) | group)
        consumer.commit(offsets=[partition], asynchronous=False)
        for number in range(8):
            producer.produce(settings.uploads_topic, b"%d" % number)
            assert producer.flush(10) == 0
        process.sweep()
        disk.cut()
        consumer.close()
    disk.unmount()
    disk.mount()
    with running(broker, home.log(broker.name)), tail(settings, settings.uploads_topic) as records:
        values = [record.value() for record in records.until(lambda seen: len(seen) >= 8)]
        assert values == [b"%d" % number for number in range(8)]
        consumer = Consumer(client_options(settings) | group)
        assert consumer.committed([partition], timeout=10)[0].offset == 3
        consumer.close()


def test_the_worklist_has_what_it_committed_before_a_power_cut(disk: ForgetfulDisk) -> None:
    """A reading that was taken, and a notice that was acknowledged."""
    settings = Settings(home=disk.path / "home")
    with closing(Database.open(settings)) as database:
        for number in range(5):
            with database.writing() as session:
                audit.record(session, "dr.adams", "reader", "corrected", identity=f"{number:032x}")
        disk.cut()
    disk.unmount()
    disk.mount()
    with closing(Database.open(settings)) as database, database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Audit)) == 5


def test_uploads_at_once_share_a_sync(tmp_path: Path) -> None:
    async def attempt() -> int:
        with closing(Disk(tmp_path)) as disk:
            await asyncio.gather(*(disk.settle() for _ in range(50)))
            return disk.syncs

    assert asyncio.run(attempt()) <= 2


def test_a_sync_that_has_begun_is_too_early_for_what_comes_later(tmp_path: Path) -> None:
    async def attempt() -> tuple[int, int]:
        with closing(Disk(tmp_path)) as disk:
            first = asyncio.create_task(disk.settle())
            while not disk.syncs:
                await asyncio.sleep(0)
            begun = disk.syncs
            await asyncio.gather(first, disk.settle())
            return begun, disk.syncs

    assert asyncio.run(attempt()) == (1, 2)


@pytest.mark.parametrize("begin", [b"PUT /a HTTP/1.1\r\n", b"DELETE /a HTTP/1.1\r\n", b"POST /a?delete HTTP/1.1\r\n"])
def test_answers_to_writes_wait_for_the_disk(begin: bytes) -> None:
    turns = Turns()
    turns.on_request(begin)
    turns.on_request(b"GET is how this body begins")
    assert turns.may_pass(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert not turns.may_pass(DONE)
    assert not turns.may_pass(b"<the rest of the answer>")


def test_answers_to_reads_pass() -> None:
    turns = Turns()
    for request, passes in (
        (b"GET /a HTTP/1.1\r\n", True),
        (b"PUT /a HTTP/1.1\r\n", False),
        (b"HEAD /a HTTP/1.1\r\n", True),
    ):
        turns.on_request(request)
        assert turns.may_pass(DONE) is passes


def test_a_body_that_follows_an_early_answer_is_no_read() -> None:
    turns = Turns()
    turns.on_request(b"PUT /a HTTP/1.1\r\n")
    assert not turns.may_pass(b"HTTP/1.1 403 Forbidden\r\n\r\n")
    turns.on_request(b"the rest of the body")
    turns.on_request(b"PUT /b HTTP/1.1\r\n")
    assert not turns.may_pass(DONE)
