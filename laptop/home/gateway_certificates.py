"""The certificates of a laptop's DICOM gateway: an authority of the home, which also signs those of senders."""

import re
from pathlib import Path

from lungline.certificates import Authority, Pair
from lungline.errors import SettingsError
from lungline.home import Home
from lungline.network import HOST
from lungline.settings_blocks import GatewaySettings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def authority(home: Home) -> Authority:
    """The authority of a home, made at the first call. Raises SettingsError when its files cannot be used."""
    return Authority.claim(home.file("gateway", "tls"), "Lungline DICOM gateway")


def with_certificates(home: Home, settings: GatewaySettings) -> GatewaySettings:
    """The settings with certificates of the home, where they ask for them. Raises SettingsError."""
    if not settings.make_certificates:
        return settings
    if settings.tls_certificate or settings.tls_key or settings.tls_ca:
        raise SettingsError(
            "gateway.make_certificates and the TLS files of the gateway exclude each other: set either."
        )
    signer = authority(home)
    server = signer.claim_server("gateway", HOST)
    paths = {"tls_certificate": server.certificate, "tls_key": server.key, "tls_ca": signer.pair.certificate}
    return settings.model_copy(update=paths)


def issue_to_sender(home: Home, name: str, folder: Path) -> tuple[Pair, Path]:
    """Write a sender's certificate and key into a folder, and the authority's certificate beside them.

    Raises SettingsError for a name that is none, or one that has a certificate there.
    """
    if not _NAME.fullmatch(name) or name == "authority":
        raise SettingsError(f"{name!r} cannot name a certificate: expected up to 64 letters, digits, - and _.")
    pair, copy = Pair.of(folder, name), folder / "authority.crt"
    if pair.certificate.exists() or pair.key.exists():
        raise SettingsError(f"{folder} has a certificate of {name} already: remove it first, or name another folder.")
    signer = authority(home)
    folder.mkdir(parents=True, exist_ok=True)
    signer.issue(pair, name)
    copy.write_bytes(signer.pair.certificate.read_bytes())
    return pair, copy
