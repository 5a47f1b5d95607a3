"""The embedded broker behind its login, tried as its own clients, as strangers, and as another user of the machine."""

import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient  # pyright: ignore[reportPrivateImportUsage] - as its docs do
from pydantic import SecretStr

from eventing.kafka import Options, client_options, ensure_topics
from eventing.seaweedfs_tls import Certificates
from laptop.services.broker import running_broker
from laptop.services.kafka_login import LoginRefused, Request, Scram, Verifier
from lungline.errors import KafkaUnavailable
from lungline.settings import Settings
from tests.support.open_ports import command_line

pytestmark = pytest.mark.stack

NOBODY = 65534


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="module")
def broker(home: Path) -> Iterator[Settings]:
    with running_broker(home, Settings()) as settings:
        yield settings


@pytest.fixture(scope="module")
def report(home: Path, broker: Settings) -> dict[str, Any]:
    """What the gate wrote of itself."""
    assert broker.kafka_bootstrap
    return json.loads((home / "run/kafka_gate.json").read_text())


def changed(settings: Settings, **values: Any) -> Settings:
    return settings.model_copy(update=values)


def test_who_logs_in_reads_writes_and_commits(broker: Settings) -> None:
    ensure_topics(broker)
    producer = Producer(client_options(broker))
    producer.produce(broker.uploads_topic, b"x" * 500_000)
    assert producer.flush(10) == 0
    consumer = Consumer(client_options(broker) | {"group.id": "g"})
    consumer.assign([TopicPartition(broker.uploads_topic, 0, 0)])
    message = consumer.poll(10)
    assert message
    assert message.value() == b"x" * 500_000
    consumer.commit(offsets=[TopicPartition(broker.uploads_topic, 0, 1)], asynchronous=False)
    assert consumer.committed([TopicPartition(broker.uploads_topic, 0)], timeout=10)[0].offset == 1
    consumer.close()


@pytest.mark.parametrize("changes", [{"kafka_password": SecretStr("guessed")}, {"kafka_username": "somebody"}])
def test_a_wrong_login_is_refused_in_a_sentence(broker: Settings, changes: dict[str, Any]) -> None:
    with pytest.raises(KafkaUnavailable, match="refuses the login of user"):
        ensure_topics(changed(broker, **changes), timeout_seconds=3)


def test_who_does_not_log_in_sees_nothing(broker: Settings, tmp_path: Path) -> None:
    without = {"kafka_username": None, "kafka_password": None}
    for settings in (changed(broker, **without), changed(broker, **without, kafka_ca=None)):
        with pytest.raises(KafkaUnavailable):
            ensure_topics(settings, timeout_seconds=2)
    impostor = changed(broker, kafka_ca=Certificates.claim(tmp_path).authority)
    with pytest.raises(KafkaUnavailable, match=r"certificate of the Kafka broker .* is refused"):
        ensure_topics(impostor, timeout_seconds=2)


@pytest.mark.parametrize("key", [0, 1, 2, 3, 8, 9, 10, 11, 19, 20, 22, 32, 51])
def test_no_request_goes_through_before_a_login(broker: Settings, key: int) -> None:
    """Produce, fetch, offsets, metadata, commits, groups, topics, configurations, users."""
    with tls(broker) as stranger:
        stranger.sendall(framed(struct.pack(">hhih", key, 0, 1, -1) + bytes(8)))
        assert stranger.recv(100) == b""


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\n\r\n", b"\x7f\xff\xff\xff", struct.pack(">i", -1), struct.pack(">i", 4) + b"abcd"]
)
def test_noise_is_hung_up_on(broker: Settings, sent: bytes) -> None:
    with tls(broker) as stranger:
        stranger.sendall(sent)
        assert stranger.recv(100) == b""
    ensure_topics(broker, timeout_seconds=5)


def test_the_broker_is_out_of_reach_of_other_users(report: dict[str, Any], broker: Settings) -> None:
    """As another user where this one may become it: neither through the broker's own port nor through the gate's."""
    if not report["private"]:
        pytest.skip("this system allows no network namespaces: `lungline doctor` says so")
    _, _, port = (broker.kafka_bootstrap or "").partition(":")
    prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    python = shutil.which("python3", path="/usr/bin:/bin")  # which every user may run
    become = prefix if python and os.geteuid() == 0 and shutil.which("setpriv") else []
    code = (
        "import socket, struct, sys\n"
        "inner, outer = map(int, sys.argv[1:])\n"
        "print(socket.socket().connect_ex(('127.0.0.1', inner)))\n"
        "with socket.create_connection(('127.0.0.1', outer), 5) as gate:\n"
        "    gate.sendall(struct.pack('>ihhih', 10, 3, 0, 1, -1))\n"
        "    print(gate.recv(100))\n"
    )
    command = [*become, python or sys.executable, "-c", code, str(report["port"]), port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    refused, reply = done.stdout.split("\n")[:2]
    assert refused == "111", done.stderr
    assert reply == "b''" or reply.startswith("b'\\x15"), "nothing, or a TLS alert"


def test_the_password_is_in_no_command_line_and_no_log(home: Path, broker: Settings, report: dict[str, Any]) -> None:
    secret = broker.kafka_password
    assert secret
    assert secret.get_secret_value() not in command_line(report["pid"])
    assert secret.get_secret_value() not in (home / "logs/broker.log").read_text()
    for name in ("librdkafka.conf", "client.properties"):
        file = home / "broker" / name
        assert secret.get_secret_value() in file.read_text()
        assert file.stat().st_mode & 0o077 == 0


def test_the_librdkafka_file_is_a_login(home: Path, broker: Settings) -> None:
    lines = (home / "broker/librdkafka.conf").read_text().splitlines()
    options: Options = dict(line.split("=", 1) for line in lines)
    client = AdminClient(options)
    assert client.list_topics(timeout=5).cluster_id
    assert broker.uploads_topic


def test_a_client_that_ends_frees_its_connection(broker: Settings, report: dict[str, Any]) -> None:
    def open_files() -> int:
        return len(list(Path(f"/proc/{report['pid']}/fd").iterdir()))

    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc")
    ensure_topics(broker)
    before = open_files()
    for _ in range(20):
        client = AdminClient(client_options(broker))
        client.list_topics(timeout=5)
        del client
    for _ in range(100):
        if open_files() <= before + 4:
            break
        ensure_topics(broker)
    assert open_files() <= before + 4


def test_a_proof_of_another_password_or_a_strange_nonce_is_refused() -> None:
    verifier = Verifier.of("u", "p")
    login = Scram(verifier)
    first = login.answer(b"n,,n=u,r=abc").decode()
    with pytest.raises(LoginRefused):
        login.answer(f"c=biws,{first.split(',')[0]},p={'A' * 86}==".encode())
    assert not login.is_done
    for message in (b"", b"n,,n=v,r=abc", b"p=tls-unique,,n=u,r=abc", b"\xff", b"n,,r=abc"):
        with pytest.raises(LoginRefused):
            Scram(verifier).answer(message)
    other = Scram(verifier)
    other.answer(b"n,,n=u,r=abc")
    with pytest.raises(LoginRefused):
        other.answer(b"c=biws,r=abc,p=AAAA")
    with pytest.raises(LoginRefused):
        Request.parse(b"\0\1")


def tls(settings: Settings) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(settings.kafka_ca))
    host, _, port = (settings.kafka_bootstrap or "").partition(":")
    return context.wrap_socket(socket.create_connection((host, int(port)), 15), server_hostname=host)


def framed(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


@pytest.mark.parametrize("topics", [["xray-uploads"], ["xray-uploads", "xray-results"]])
def test_a_record_ends_the_wait_of_its_reader(broker: Settings, topics: list[str]) -> None:
    """The broker alone would look again after half of the time; where several are read at once, it does."""
    ensure_topics(broker, topics)
    wait = 10_000 if len(topics) == 1 else 500
    options = client_options(broker) | {"group.id": "waiting", "fetch.wait.max.ms": wait}
    consumer, producer = Consumer(options), Producer(client_options(broker))
    consumer.assign([TopicPartition(topic, 0, OFFSET_END) for topic in topics])
    assert consumer.poll(2) is None  # its second fetch waits
    for value in (b"first", b"second", b"third"):
        producer.produce(topics[-1], value)
        assert producer.flush(10) == 0
        message = consumer.poll(3)
        assert message
        assert message.value() == value
    consumer.close()


def test_a_reader_who_goes_back_waits_for_nothing(broker: Settings) -> None:
    ensure_topics(broker)
    producer = Producer(client_options(broker))
    for number in range(5):
        producer.produce(broker.dead_letters_topic, bytes([number]))
    assert producer.flush(10) == 0
    consumer = Consumer(client_options(broker) | {"group.id": "back"})
    for start in (3, 0, 4):
        consumer.assign([TopicPartition(broker.dead_letters_topic, 0, start)])
        message = consumer.poll(4)
        assert message
        assert message.offset() == start
    consumer.close()
