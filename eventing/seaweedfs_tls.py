"""Certificates by which the store's servers and the bridge authenticate each other over gRPC.

The authority's key is thrown away at once, so that it can sign no other certificate.
"""

import ipaddress
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lungline.certificates import usage_of_authority, with_key_identifiers
from lungline.network import HOST

SIGNING = ("signing", "signing.read", "filer_signing", "filer_signing.read")
# The servers talk to each other by it: closing one of them alone keeps the others from it.
_HTTP = ("master", "volume", "filer")
_VALIDITY = timedelta(days=365 * 50)


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths of the authority's certificate, of the store's certificate, and of its key."""

    authority: Path
    certificate: Path
    key: Path = field(repr=False)

    @classmethod
    def of(cls, folder: Path) -> "Certificates":
        """The paths in a folder, whether the files exist or not."""
        return cls(folder / "authority.crt", folder / "store.crt", folder / "store.key")

    @classmethod
    def claim(cls, folder: Path) -> "Certificates":
        """The certificates in a folder, generated at the first start."""
        certificates = cls.of(folder)
        if not all(path.exists() for path in (certificates.authority, certificates.certificate, certificates.key)):
            _generate(certificates)
        return certificates


def _generate(certificates: Certificates) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.now(UTC)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    names = [
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        for name in ("lungline laptop", "lungline store")
    ]

    def builder(name: x509.Name, private: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        named = x509.CertificateBuilder().subject_name(name).issuer_name(names[0]).public_key(private.public_key())
        numbered = with_key_identifiers(
            named.serial_number(x509.random_serial_number()), private.public_key(), authority_key.public_key()
        )
        return numbered.not_valid_before(now - timedelta(days=1)).not_valid_after(now + _VALIDITY)

    root = builder(names[0], authority_key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    root = root.add_extension(usage_of_authority(), critical=True)
    here = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(HOST))])
    ours = builder(names[1], key).add_extension(here, critical=False)
    pem = serialization.Encoding.PEM
    _write(certificates.authority, root.sign(authority_key, hashes.SHA256()).public_bytes(pem))
    _write(certificates.certificate, ours.sign(authority_key, hashes.SHA256()).public_bytes(pem))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    _write(certificates.key, key.private_bytes(pem, *plain))


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def generate_signing_keys() -> dict[str, str]:
    """A new signing key for each kind of token between the store's servers."""
    return {name: secrets.token_urlsafe(32) for name in SIGNING}


def secure(config: Path, signing_keys: Mapping[str, str], *, closes_http: bool = True) -> None:
    """Write certificates and signing keys into the store's `-config_dir`.

    `signing_keys` has a key for each name of SIGNING; the servers sign the tokens of their HTTP requests with them.
    With `closes_http` the HTTP ports of master, volume server and filer answer nobody without a certificate; S3 stays
    as it is.
    """
    config.mkdir(mode=0o700, parents=True, exist_ok=True)
    certificates = Certificates.claim(config)
    _write_security(config / "security.toml", signing_keys, certificates, _HTTP if closes_http else ())


def _write_security(path: Path, keys: Mapping[str, str], certificates: Certificates, closed: Sequence[str]) -> None:
    lines = [f'[jwt.{name}]\nkey = "{key}"' for name, key in keys.items()]
    lines.append(f'[grpc]\nca = "{certificates.authority}"')
    servers = ("master", "volume", "filer", "s3", "admin", "worker", "client")
    lines += [f'[grpc.{name}]\ncert = "{certificates.certificate}"\nkey = "{certificates.key}"' for name in servers]
    pair = f'cert = "{certificates.certificate}"\nkey = "{certificates.key}"\nca = "{certificates.authority}"'
    lines += [f"[https.{name}]\n{pair}" for name in closed]
    lines += [f"[https.client]\nenabled = true\n{pair}"] if closed else []
    path.touch(mode=0o600)
    path.write_text("\n".join(lines))


def main() -> None:
    """Secure the store of a pod; keys and certificates are generated once and kept in its volume."""
    config = Path(sys.argv[1])
    if not (config / "security.toml").exists():
        # The kubelet probes these ports and has no certificate; network policies close them.
        secure(config, generate_signing_keys(), closes_http=False)


if __name__ == "__main__":
    main()
