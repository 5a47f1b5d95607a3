"""Apache Kafka itself as the cluster has it: KRaft, SCRAM over TLS, and the users, rights and topics of the manifests.

Strimzi's part is done here: users.yaml becomes users and ACLs, topics.yaml topics, and the passwords and the authority
are those that manifests/generate_secrets.py makes. It listens on one address, by default of this machine alone.
"""

import ipaddress
import os
import secrets
import shutil
import subprocess
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient  # pyright: ignore[reportPrivateImportUsage] - as its docs do
from pydantic import SecretStr

from laptop.services.process import Process, tail
from laptop.services.service import Command
from lungline.settings import Settings
from tests.support.kafka_manifests import add_topics, add_users, manifests
from tests.support.manifests_of import ROOT, fresh_secrets
from tests.support.object_store import free_ports

POM = ROOT / "tests/cluster/kafka/pom.xml"
RESOLVE = ("mvn", "-B", "-q", "-f", str(POM), "dependency:build-classpath")
ADMIN = "admin"
# The compiler's first stage starts soonest.
JVM = (
    "-Xms64m",
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)
START_SECONDS, STOP_SECONDS = 60.0, 15.0


@cache
def class_path() -> str:
    """The jars of the broker in Maven's local repository; skips the test where they or Java are missing."""
    if not shutil.which("java") or not shutil.which("mvn"):
        pytest.skip("Java or Maven is not installed: Apache Kafka runs on them")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "class_path"
        command = [RESOLVE[0], "--offline", *RESOLVE[1:], f"-Dmdep.outputFile={output}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            pytest.skip(f"Apache Kafka is not in Maven's local repository: `{' '.join(RESOLVE)}` fetches it")
        return output.read_text().strip()


@dataclass
class Node:
    """One process, controller and broker; `start` and `stop` as often as a test likes."""

    number: int
    folder: Path
    port: int
    controller: int
    process: Process | None = None

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> None:
        """Start it; it may not be ready yet."""
        options = (*JVM, "-cp", class_path(), "kafka.Kafka", str(self.folder / "server.properties"))
        with self.log.open("ab") as output:
            self.process = Process(Command(("java", *options), os.environ, self.folder), output.fileno())

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """End it in order, so that it can be started again; at once with a timeout of 0."""
        if self.process:
            self.process.stop(timeout) if timeout else self.process.sweep()
            self.process = None


@dataclass(frozen=True)
class ApacheKafka:
    """The brokers, and how to reach them."""

    nodes: list[Node]
    host: str
    authority: Path
    passwords: Mapping[str, str] = field(repr=False)

    @property
    def bootstrap(self) -> str:
        """The address of every broker."""
        return ",".join(f"{self.host}:{node.port}" for node in self.nodes)

    def settings(self, user: str, **others: Any) -> Settings:
        """The settings of one of the users in users.yaml, or of the administrator."""
        login = {"kafka_username": user, "kafka_password": SecretStr(self.passwords[user])}
        return Settings(kafka_bootstrap=self.bootstrap, kafka_ca=self.authority, **login, **others)

    def options(self, user: str) -> dict[str, Any]:
        """The options of a Kafka client of this user."""
        from eventing.kafka import client_options

        return client_options(self.settings(user)) | {"log_level": 0, "reconnect.backoff.max.ms": 500}

    def admin(self) -> AdminClient:
        """A client that may do everything."""
        return AdminClient(self.options(ADMIN))

    def wait(self, seconds: float = START_SECONDS) -> None:
        """Wait until every node that runs has joined."""
        running = [node for node in self.nodes if node.process]
        deadline = time.monotonic() + seconds
        admin = self.admin()
        while True:
            try:
                if len(admin.list_topics(timeout=2).brokers) == len(running):
                    return
            except KafkaException:
                pass
            for node in running:
                assert node.process
                assert node.process.exit_code is None, f"Kafka has ended: {tail(node.log, 20)}"
            assert time.monotonic() < deadline, f"Kafka does not answer: {tail(running[0].log, 20)}"
            time.sleep(0.1)

    def restart(self, number: int = 0, *, killed: bool = False) -> None:
        """Stop one node, in order or by force, start it again, and wait until it has joined."""
        self.nodes[number].stop(0 if killed else STOP_SECONDS)
        self.nodes[number].start()
        self.wait()


@contextmanager
def running_kafka(
    folder: Path,
    nodes: int = 1,
    host: str = "127.0.0.1",
    names: tuple[str, ...] = ("localhost",),
    config: Mapping[str, object] = MappingProxyType({}),
) -> Iterator[ApacheKafka]:
    """Brokers with users, rights and topics, until the context ends.

    `names` are further names in their certificate, `config` goes over the configuration in kafka.yaml.
    """
    held = {secret["metadata"]["name"]: secret["stringData"] for secret in fresh_secrets()}
    passwords = {
        name.removeprefix("kafka-"): data["password"] for name, data in held.items() if name.startswith("kafka-")
    }
    kafka = ApacheKafka(_nodes(folder, nodes), host, folder / "ca.crt", passwords | {ADMIN: secrets.token_urlsafe(30)})
    kafka.authority.write_text(held["xray-cluster-ca-cert"]["ca.crt"])
    keystore = _key_store(held["xray-cluster-ca-cert"]["ca.crt"], held["xray-cluster-ca"]["ca.key"], host, names)
    _format(kafka, keystore, config)
    try:
        for node in kafka.nodes:
            node.start()
        kafka.wait()
        add_users(kafka.admin(), kafka.passwords)
        add_topics(kafka.admin(), replicas=nodes)
        yield kafka
    finally:
        for node in kafka.nodes:
            node.stop(0)


def _nodes(folder: Path, count: int) -> list[Node]:
    ports = free_ports(2 * count)
    numbers = range(1, count + 1)
    nodes = [Node(number, folder / f"node-{number}", ports.pop(), ports.pop()) for number in numbers]
    for node in nodes:
        node.folder.mkdir(mode=0o700)
    return nodes


def _format(kafka: ApacheKafka, keystore: str, config: Mapping[str, object]) -> None:
    """Write the configuration of every node, and format its storage with the administrator in it."""
    cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    for node in kafka.nodes:
        _write(node.folder / "broker.pem", keystore)
        properties = node.folder / "server.properties"
        values = _properties(kafka, node) | dict(config)
        _write(properties, "\n".join(f"{name}={value}" for name, value in values.items()))
        scram = f"SCRAM-SHA-512=[name={ADMIN},password={kafka.passwords[ADMIN]}]"
        command = ["java", *JVM, "-cp", class_path(), "kafka.tools.StorageTool", "format", "--add-scram", scram]
        command += [f"--cluster-id={cluster}", "--config", str(properties)]  # an id may begin with "-"
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def _properties(kafka: ApacheKafka, node: Node) -> dict[str, object]:
    cluster, *_ = (manifest for manifest in manifests("kafka.yaml") if manifest["kind"] == "Kafka")
    login = "org.apache.kafka.common.security.scram.ScramLoginModule required"
    address = f"{kafka.host}:{node.port}"
    return dict(cluster["spec"]["kafka"]["config"]) | {
        "node.id": node.number,
        "process.roles": "broker,controller",
        "log.dirs": node.folder / "data",
        "listeners": f"TLS-9093://{address},CONTROLPLANE-9090://127.0.0.1:{node.controller}",
        "advertised.listeners": f"TLS-9093://{address}",
        "listener.security.protocol.map": "TLS-9093:SASL_SSL,CONTROLPLANE-9090:PLAINTEXT",
        "inter.broker.listener.name": "TLS-9093",
        "controller.listener.names": "CONTROLPLANE-9090",
        "controller.quorum.voters": ",".join(f"{node.number}@127.0.0.1:{node.controller}" for node in kafka.nodes),
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
        "listener.name.tls-9093.scram-sha-512.sasl.jaas.config": (
            f'{login} username="{ADMIN}" password="{kafka.passwords[ADMIN]}";'
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": node.folder / "broker.pem",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": kafka.authority,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        # Nobody logs in at the controllers, which listen on this machine alone.
        "super.users": f"User:{ADMIN};User:ANONYMOUS",
        "group.initial.rebalance.delay.ms": 0,
        "offsets.topic.num.partitions": 2,
        "log.retention.check.interval.ms": 500,
        "log.initial.task.delay.ms": 500,
    }


def _key_store(authority: str, authority_key: str, host: str, names: tuple[str, ...]) -> str:
    """A new key and a certificate for it that the authority has signed, in one PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    issuer = x509.load_pem_x509_certificate(authority.encode())
    signing: Any = serialization.load_pem_private_key(authority_key.encode(), None)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    addresses = [x509.IPAddress(ipaddress.ip_address(host)), *(x509.DNSName(name) for name in names)]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kafka")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .sign(signing, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private.decode() + certificate.public_bytes(pem).decode() + authority


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
