"""How clients log in to Kafka: the options, and a broker behind TLS that demands a login."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient  # pyright: ignore[reportPrivateImportUsage] - as its docs do
from pydantic import SecretStr

from eventing.kafka import client_options
from eventing.seaweedfs_tls import Certificates
from eventing.state import State
from laptop.home.ports import claim_ports
from laptop.services.broker import Broker
from laptop.services.process import running
from laptop.services.service import Command
from lungline.errors import KafkaUnavailable, SettingsError
from lungline.home import Home
from lungline.network import answers
from lungline.settings import Settings

LOGIN = {"kafka_username": "tools", "kafka_password": SecretStr("hidden")}


def test_clients_without_a_login_use_no_tls() -> None:
    assert client_options(Settings(kafka_bootstrap="127.0.0.1:9092")) == {"bootstrap.servers": "127.0.0.1:9092"}


def test_a_login_goes_over_tls_only(tmp_path: Path) -> None:
    authority = Certificates.claim(tmp_path).authority
    options = client_options(Settings(kafka_bootstrap="kafka:9093", kafka_ca=authority, **LOGIN))
    assert options == {
        "bootstrap.servers": "kafka:9093",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "tools",
        "sasl.password": "hidden",
        "ssl.ca.location": str(authority),
    }
    assert client_options(Settings(kafka_bootstrap="kafka:9093", **LOGIN))["security.protocol"] == "SASL_SSL"
    assert client_options(Settings(kafka_bootstrap="kafka:9093", kafka_ca=authority))["security.protocol"] == "SSL"


def test_half_a_login_or_a_missing_authority_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KafkaUnavailable, match="LUNGLINE_KAFKA_BOOTSTRAP"):
        client_options(Settings(**LOGIN))
    for name, value in LOGIN.items():
        with pytest.raises(SettingsError, match="both or neither") as refused:
            client_options(Settings(kafka_bootstrap="kafka:9093", **{name: value}))
        assert "hidden" not in str(refused.value)
    with pytest.raises(SettingsError, match=r"kafka_ca: expected a file of certificates, found none at .*ca\.crt"):
        client_options(Settings(kafka_bootstrap="kafka:9093", kafka_ca=tmp_path / "ca.crt"))


@dataclass(frozen=True)
class LoginBroker(Broker):
    """The embedded broker, demanding a login; it has no users, so it accepts none."""

    def command(self) -> Command:
        command = super().command()
        return replace(command, argv=(*command.argv, "--authentication"))

    def probe(self, pid: int) -> State:
        return "ready" if answers(self.ports.broker) else "starting"


@pytest.mark.stack
def test_a_client_verifies_the_broker_and_logs_in(tmp_path: Path) -> None:
    home, certificates = Home.make(tmp_path), Certificates.claim(tmp_path)
    (tmp_path / "stranger").mkdir()
    stranger = Certificates.claim(tmp_path / "stranger")
    broker = LoginBroker(home, Settings(), claim_ports(home), in_memory=True)
    with running(broker, home.log("broker")), tls_before(broker.ports.broker, certificates) as address:
        trusting = Settings(kafka_bootstrap=address, kafka_ca=certificates.authority, **LOGIN)
        assert "SCRAM authentication failed: broker responded with unknown-user" in first_error(trusting)
        distrusting = trusting.model_copy(update={"kafka_ca": stranger.authority})
        assert "certificate verify failed" in first_error(distrusting)


def first_error(settings: Settings) -> str:
    """The first error that a client reports."""
    errors: list[str] = []

    def report(error: KafkaError) -> None:
        errors.append(error.str())

    options: dict[str, Any] = client_options(settings) | {"error_cb": report, "log_level": 0}
    client = AdminClient(options)
    for _ in range(100):
        if errors:
            return errors[0]
        client.poll(0.1)
    return "no error"


@contextmanager
def tls_before(port: int, certificates: Certificates) -> Iterator[str]:
    """An address that speaks TLS with these certificates and forwards to a port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)
    loop = asyncio.new_event_loop()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        except OSError:
            pass  # one side has gone, so the other may too
        finally:
            sink.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, to_behind = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, to_behind), pump(behind, writer))

    async def end() -> None:
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    server = loop.run_until_complete(asyncio.start_server(join, "127.0.0.1", 0, ssl=context))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
