"""With a certificate authority in its settings, the gateway answers only senders that have a certificate of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from eventing.seaweedfs_tls import Certificates
from laptop.services.gateway import running_gateway
from laptop.services.store import running_store
from lungline.settings import Settings
from tests.support.dicom_files import film, write
from tests.support.dicom_network import HOST, dcmtk, storescu


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, and a certificate of it that both sides use."""
    return Certificates.claim(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def port(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a gateway with mutual TLS."""
    home = tmp_path_factory.mktemp("tls") / "home"
    tls = {
        "tls_certificate": certificates.certificate,
        "tls_key": certificates.key,
        "tls_ca": certificates.authority,
    }
    with (
        running_store(home, Settings.model_validate({"home": home, "gateway": tls})) as settings,
        running_gateway(home, settings) as gateway,
    ):
        yield gateway.ports.gateway


def test_sender_with_a_certificate_is_answered(port: int, certificates: Certificates, tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(write(film(64)))
    options = ["+tls", str(certificates.key), str(certificates.certificate), "+cf", str(certificates.authority)]
    assert storescu(port, tmp_path / "x.dcm", options=options) == ""


def test_sender_without_a_certificate_is_refused(port: int, certificates: Certificates) -> None:
    done = dcmtk("echoscu", "+tla", "+cf", str(certificates.authority), "-aec", "LUNGLINE", HOST, str(port))
    assert done.returncode != 0


def test_sender_without_tls_is_refused(port: int) -> None:
    assert dcmtk("echoscu", "-aec", "LUNGLINE", HOST, str(port), seconds=30).returncode != 0
