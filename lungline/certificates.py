"""A certificate authority in a folder, and certificates that it signs.

authority.crt, authority.key    the authority; whoever has the key can sign certificates
NAME.crt, NAME.key              a certificate and its key
"""

import ipaddress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from lungline.errors import SettingsError
from lungline.home import write_private

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

_AUTHORITY_VALIDITY, _VALIDITY = timedelta(days=3650), timedelta(days=730)
_RENEWED_BEFORE = timedelta(days=60)
_PAST = timedelta(days=1)  # clocks differ


@dataclass(frozen=True, slots=True)
class Pair:
    """Files of a certificate and its key."""

    certificate: Path
    key: Path = field(repr=False)

    @classmethod
    def of(cls, folder: Path, name: str) -> "Pair":
        """The files of this name, whether they exist or not."""
        return cls(folder / f"{name}.crt", folder / f"{name}.key")

    @property
    def is_complete(self) -> bool:
        """Whether both files are there."""
        return self.certificate.is_file() and self.key.is_file()


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority."""

    pair: Pair
    certificate: "x509.Certificate"
    key: "ec.EllipticCurvePrivateKey" = field(repr=False)

    @classmethod
    def claim(cls, folder: Path, name: str) -> "Authority":
        """The authority in a folder, made at the first call. Raises SettingsError when its files cannot be used."""
        pair = Pair.of(folder, "authority")
        if not pair.certificate.exists() and not pair.key.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_authority(pair, name)
        try:
            return _loaded(pair)
        except (OSError, ValueError, TypeError) as exc:
            raise SettingsError(
                f"The certificate authority in {folder} cannot be used ({type(exc).__name__}): restore authority.crt "
                "and authority.key, or remove both and make all certificates again."
            ) from exc

    def claim_server(self, name: str, host: str) -> Pair:
        """The certificate of a server at an IP address, beside the authority's; made again before it expires."""
        pair = Pair.of(self.pair.certificate.parent, name)
        if not self._is_current(pair):
            self.issue(pair, name, host=host)
        return pair

    def issue(self, pair: Pair, name: str, host: str | None = None) -> None:
        """Write a certificate and its key: of a server at `host`, else of a client."""
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID

        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, self.certificate.subject, key, _VALIDITY, self.key)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        # A server also connects, with reports of storage commitment; a client cannot pose as the server.
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH] * (host is not None) + [ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        if host:
            here = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(host))]
            builder = builder.add_extension(x509.SubjectAlternativeName(here), critical=False)
        _write(pair, builder, key, self.key)

    def _is_current(self, pair: Pair) -> bool:
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import serialization

        try:
            certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
            key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
            certificate.verify_directly_issued_by(self.certificate)
        except (OSError, ValueError, TypeError, InvalidSignature):
            return False
        is_of_key = key.public_key() == certificate.public_key()
        return is_of_key and certificate.not_valid_after_utc > datetime.now(UTC) + _RENEWED_BEFORE


def _make_authority(pair: Pair, name: str) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = _builder(name, subject, key, _AUTHORITY_VALIDITY, key)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage_of_authority(), critical=True)
    _write(pair, builder, key, key)


def _loaded(pair: Pair) -> Authority:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ValueError("the key is of another certificate")
    return Authority(pair, certificate, key)


def usage_of_authority() -> "x509.KeyUsage":
    """What the key of an authority is for: to sign certificates."""
    from cryptography import x509

    other = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    no = dict.fromkeys((*other, "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(key_cert_sign=True, crl_sign=True, **no)


def with_key_identifiers(
    builder: "x509.CertificateBuilder", key: "ec.EllipticCurvePublicKey", signer: "ec.EllipticCurvePublicKey"
) -> "x509.CertificateBuilder":
    """Name the key and the one that signs: RFC 5280 wants it, and Python's clients insist on it from 3.13 on."""
    from cryptography import x509

    own, issuer = x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier
    builder = builder.add_extension(own.from_public_key(key), critical=False)
    return builder.add_extension(issuer.from_issuer_public_key(signer), critical=False)


def _builder(
    name: str,
    issuer: "x509.Name",
    key: "ec.EllipticCurvePrivateKey",
    validity: timedelta,
    signer: "ec.EllipticCurvePrivateKey",
) -> "x509.CertificateBuilder":
    from cryptography import x509

    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = with_key_identifiers(builder, key.public_key(), signer.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - _PAST).not_valid_after(now + validity)


def _write(
    pair: Pair,
    builder: "x509.CertificateBuilder",
    key: "ec.EllipticCurvePrivateKey",
    signer: "ec.EllipticCurvePrivateKey",
) -> None:
    from cryptography.hazmat.primitives import hashes, serialization

    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    # The key first: a certificate without its key looks complete to nobody.
    write_private(pair.key, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain).decode(), durable=True)
    write_private(pair.certificate, builder.sign(signer, hashes.SHA256()).public_bytes(pem).decode(), durable=True)
