"""With certificates on, the gateway answers only senders that have one of its authority."""

import shutil
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from typer.testing import CliRunner

from cli.main import app
from gateway.bound_titles import BoundTitles
from laptop.home.gateway_certificates import authority, issue_to_sender, with_certificates
from laptop.services.gateway import GatewayService
from laptop.services.store import running_store
from lungline.certificates import Authority, Pair
from lungline.errors import SettingsError
from lungline.home import Home
from lungline.settings import Settings
from lungline.settings_blocks import GatewaySettings
from tests.support.commitment import Sender, client_side, listening, server_side
from tests.support.dicom_files import DX, film, write
from tests.support.dicom_network import HOST, dcmtk, storescu
from tests.support.lone_services import running_gateway
from tests.support.object_store import free_ports
from tests.support.orthanc import Modality, running_orthanc
from tests.support.waiting import eventually

LISTENER = "DX2"
COUNTED = "lungline_gateway_associations_total"
REFUSED = (httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)


@dataclass(frozen=True)
class Site:
    """A gateway with mutual TLS, and what one of its senders has."""

    gateway: GatewayService
    sender: Pair
    authority: Path
    listener: int
    """Where a sender takes reports of storage commitment."""

    @property
    def port(self) -> int:
        return self.gateway.ports.gateway

    def context(self, sender: Pair | None = None) -> ssl.SSLContext:
        """What a sender trusts and shows; it is as strict as Python's default from 3.13 on."""
        pair = sender or self.sender
        context = ssl.create_default_context(cafile=str(self.authority))
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_cert_chain(pair.certificate, pair.key)
        return context

    def seen(self, port: int | None = None) -> int:
        """The serial number of the certificate that a sender sees, by default over DICOM."""
        context = self.context()
        with (
            socket.create_connection((HOST, port or self.port), 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"").serial_number


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway whose home makes the certificates, and a sender that got one by the command line."""
    home, folder = (tmp_path_factory.mktemp("tls") / name for name in ("home", "sender"))
    (port,) = free_ports(1)
    ours = {"make_certificates": True, "commitment": f"{LISTENER}={HOST}:{port}"}
    settings = Settings.model_validate({"home": home, "gateway": ours})
    with running_store(home, settings) as connected, running_gateway(home, connected) as gateway:
        command = ["gateway", "certificate", "DX1", "--folder", str(folder), "--home", str(home)]
        assert CliRunner().invoke(app, command).exit_code == 0
        yield Site(gateway, Pair.of(folder, "DX1"), folder / "authority.crt", port)


def options(pair: Pair, trusted: Path) -> list[str]:
    return ["+tls", str(pair.key), str(pair.certificate), "+cf", str(trusted)]


def test_sender_with_a_certificate_is_answered(site: Site, tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(write(film(64)))
    assert storescu(site.port, tmp_path / "x.dcm", options=options(site.sender, site.authority)) == ""


def test_sender_without_a_certificate_is_refused(site: Site) -> None:
    done = dcmtk("echoscu", "+tla", "+cf", str(site.authority), "-aec", "LUNGLINE", HOST, str(site.port))
    assert done.returncode != 0


def test_sender_with_a_certificate_of_others_is_refused(site: Site, tmp_path: Path) -> None:
    stranger = Pair.of(tmp_path, "DX1")
    Authority.claim(tmp_path, "Lungline DICOM gateway").issue(stranger, "DX1")
    done = dcmtk("echoscu", *options(stranger, site.authority), "-aec", "LUNGLINE", HOST, str(site.port))
    assert done.returncode != 0


def test_sender_without_tls_is_refused(site: Site) -> None:
    assert dcmtk("echoscu", "-aec", "LUNGLINE", HOST, str(site.port), seconds=30).returncode != 0


def stow(site: Site, context: ssl.SSLContext) -> int:
    """The status of a store request over TLS."""
    kind = 'multipart/related; type="application/dicom"; boundary=here'
    headers = {"authorization": f"Bearer {site.gateway.token}", "content-type": kind}
    body = b"--here\r\n\r\n" + write(film(64, seed=9)) + b"\r\n--here--\r\n"
    with httpx.Client(verify=context, timeout=30) as client:
        return client.post(f"{site.gateway.dicomweb}/studies", content=body, headers=headers).status_code


def test_stow_needs_a_certificate_of_the_authority(site: Site, tmp_path: Path) -> None:
    """The token alone opens nothing."""
    assert site.gateway.dicomweb.startswith("https://")
    assert stow(site, site.context()) == 200
    stranger = Pair.of(tmp_path, "DX1")
    Authority.claim(tmp_path, "Lungline DICOM gateway").issue(stranger, "DX1")
    for context in (ssl.create_default_context(cafile=str(site.authority)), site.context(stranger)):
        with pytest.raises(REFUSED):
            stow(site, context)


def test_orthanc_sends_over_tls(site: Site, tmp_path: Path) -> None:
    tls = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(site.sender.certificate),
        "DicomTlsPrivateKey": str(site.sender.key),
        "DicomTlsTrustedCertificates": str(site.authority),
        "DicomModalities": {"lungline": {"AET": "LUNGLINE", "Host": HOST, "Port": site.port, "UseDicomTls": True}},
    }
    with running_orthanc(tmp_path, {"lungline": Modality("LUNGLINE", site.port)}, options=tls) as orthanc:
        report = orthanc.send(orthanc.add(write(film(64, seed=3))), "lungline")
    assert (report["HttpStatus"], report["FailedInstancesCount"]) == (200, 0)


def test_report_of_commitment_goes_over_tls(site: Site, tmp_path: Path) -> None:
    """The gateway shows its certificate, and wants to see one of the authority."""
    signer = authority(site.gateway.home)
    good, stranger = Pair.of(tmp_path, "listener"), Pair.of(tmp_path / "others", "listener")
    signer.issue(good, LISTENER, host=HOST)
    (tmp_path / "others").mkdir()
    Authority.claim(tmp_path / "others", "Lungline DICOM gateway").issue(stranger, LISTENER, host=HOST)
    with listening(LISTENER, site.listener, server_side(stranger, site.authority)) as received:
        sender = Sender(site.port, LISTENER, client_side(site.sender, site.authority))
        assert sender.ask((DX, "1.2.3")) == 0
        sender.association.release()
        eventually(lambda: "commitment could not be sent" in site.gateway.home.log("gateway").read_text())
        assert received == []
    with listening(LISTENER, site.listener, server_side(good, site.authority)) as received:
        eventually(lambda: len(received) == 1, 30)


def test_renewed_certificate_holds_without_a_restart(site: Site) -> None:
    """A file that cannot be read changes nothing; the next good one does."""
    signer = authority(site.gateway.home)
    server = Pair.of(signer.pair.certificate.parent, "gateway")
    web = site.gateway.ports.gateway_web
    before, good = site.seen(), server.certificate.read_bytes()
    assert site.seen(web) == before
    server.certificate.write_bytes(good[:100])
    assert site.seen() == site.seen(web) == before
    server.certificate.write_bytes(good)
    signer.issue(server, "gateway", host=HOST)
    eventually(lambda: site.seen() != before)
    assert site.seen(web) == site.seen()


def test_replaced_authority_shuts_out_former_senders_at_once(site: Site, tmp_path: Path) -> None:
    trusted = authority(site.gateway.home).pair.certificate
    good = trusted.read_bytes()
    trusted.write_bytes(Authority.claim(tmp_path, "Another authority").pair.certificate.read_bytes())
    try:
        with pytest.raises(REFUSED):
            stow(site, site.context())
        done = dcmtk("echoscu", *options(site.sender, site.authority), "-aec", "LUNGLINE", HOST, str(site.port))
        assert done.returncode != 0
    finally:
        trusted.write_bytes(good)
    assert stow(site, site.context()) == 200


def test_each_sender_gets_its_own_certificate_once(tmp_path: Path) -> None:
    home = Home.make(tmp_path / "home")
    pair, copy = issue_to_sender(home, "CR-2", tmp_path / "out")
    certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(copy.read_bytes()))
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH], "it cannot pose as the gateway"
    assert pair.key.stat().st_mode & 0o077 == 0
    for name in ("CR-2", "../CR-2", "authority", ""):
        with pytest.raises(SettingsError, match=r"has a certificate of|cannot name"):
            issue_to_sender(home, name, tmp_path / "out")


def test_certificate_is_kept_until_it_is_about_to_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    home, asked = Home.make(tmp_path), GatewaySettings(make_certificates=True)
    first = with_certificates(home, asked)
    assert first.tls_certificate
    content = first.tls_certificate.read_bytes()
    assert with_certificates(home, asked) == first
    assert first.tls_certificate.read_bytes() == content
    monkeypatch.setattr("lungline.certificates._RENEWED_BEFORE", timedelta(days=800))
    assert with_certificates(home, asked) == first
    assert first.tls_certificate.read_bytes() != content


def test_damaged_authority_is_named_with_a_cure(tmp_path: Path) -> None:
    home, asked = Home.make(tmp_path), GatewaySettings(make_certificates=True)
    with_certificates(home, asked)
    folder = home.file("gateway", "tls")
    (folder / "authority.key").write_text("noise")
    with pytest.raises(SettingsError, match=r"gateway/tls cannot be used .* remove both"):
        with_certificates(home, asked)
    shutil.rmtree(folder)
    assert with_certificates(home, asked).tls_ca == folder / "authority.crt"


def test_own_files_and_made_ones_exclude_each_other(tmp_path: Path) -> None:
    both = GatewaySettings(make_certificates=True, tls_certificate=tmp_path / "x.crt")
    with pytest.raises(SettingsError, match="exclude each other"):
        with_certificates(Home.make(tmp_path), both)


@dataclass(frozen=True)
class BoundSite:
    """A gateway that takes each AE title from its own certificate only, and two senders."""

    gateway: GatewayService
    senders: dict[str, Pair]
    authority: Path

    def echo(self, title: str, sender: str) -> str:
        """What echoscu says of an association under a title with the certificate of a sender; empty for success."""
        shown = options(self.senders[sender], self.authority)
        done = dcmtk("echoscu", *shown, "-aet", title, "-aec", "LUNGLINE", HOST, str(self.gateway.ports.gateway))
        return "" if done.returncode == 0 else done.stderr + done.stdout


@pytest.fixture(scope="module")
def bound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BoundSite]:
    home, folder = (tmp_path_factory.mktemp("bound") / name for name in ("home", "senders"))
    ours = {"make_certificates": True, "sender_certificates": "CT9=CR2, *"}
    settings = Settings.model_validate({"home": home, "gateway": ours})
    with running_store(home, settings) as connected, running_gateway(home, connected) as gateway:
        pairs = {name: issue_to_sender(gateway.home, name, folder)[0] for name in ("DX1", "CR2")}
        yield BoundSite(gateway, pairs, folder / "authority.crt")


@pytest.mark.parametrize(
    ("title", "sender", "is_taken"),
    [
        *(("DX1", "DX1", True), ("CR2", "CR2", True), ("CT9", "CR2", True)),
        *(("DX1", "CR2", False), ("CT9", "DX1", False), ("CT9X", "CR2", False), ("dx1", "DX1", False)),
    ],
)
def test_title_is_taken_from_its_own_certificate_only(
    bound: BoundSite, title: str, sender: str, is_taken: bool
) -> None:
    answer = bound.echo(title, sender)
    assert (answer == "") is is_taken
    if not is_taken:
        assert "Calling AE Title Not Recognized" in answer
        assert "Permanent" in answer


def test_unproved_title_is_counted_and_not_written_down(bound: BoundSite, tmp_path: Path) -> None:
    """A sender may call itself like a patient. What it sends is not stored."""
    before = _associations(bound.gateway, "unproved")
    (tmp_path / "x.dcm").write_bytes(write(film(64, seed=31)))
    shown = ["-aet", "ZSCHOKKENHOFER", *options(bound.senders["DX1"], bound.authority)]
    assert "Rejected" in storescu(bound.gateway.ports.gateway, tmp_path / "x.dcm", options=shown)
    assert _associations(bound.gateway, "unproved") == before + 1
    log = bound.gateway.home.log("gateway").read_text()
    assert "bound to another certificate" in log
    assert "ZSCHOKKENHOFER" not in log


def _associations(gateway: GatewayService, outcome: str) -> float:
    text = httpx.get(f"http://{HOST}:{gateway.ports.gateway_metrics}/metrics").text
    (line,) = [line for line in text.splitlines() if line.startswith(f'{COUNTED}{{outcome="{outcome}"}}')]
    return float(line.split()[1])


@pytest.mark.parametrize("text", ["DX1", "=DX1", "DX1=", "ELEVENTEEN_AE_TITLE=x"])
def test_binding_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match="expected AE title=name"):
        BoundTitles.of(GatewaySettings(tls_ca=tmp_path, sender_certificates=text))


def test_binding_without_certificates_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"needs gateway\.tls_ca"):
        BoundTitles.of(GatewaySettings(sender_certificates="*"))
