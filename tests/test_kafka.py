"""How clients log in to Kafka: the options that settings become."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from eventing.kafka import client_options
from eventing.seaweedfs_tls import Certificates
from lungline.errors import KafkaUnavailable, SettingsError
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
