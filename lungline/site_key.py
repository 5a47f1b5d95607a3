"""The key of a site: it signs model packages and the promotion history, so that both can be told from forgeries.

An elliptic-curve key (P-256), as `model_signing` takes it. On a laptop it is generated at first use and lies in the
home folder, readable by its owner only; its public half lies beside it and, for others to compare, in the models
bucket. On a cluster both come from Secrets, through the settings `site_key` and `site_public_key`.

Importing cryptography takes 0.1 s, so that it waits until something is signed or verified.
"""

import base64
import contextlib
import hashlib
import logging
import os
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lungline.errors import LunglineError, RegistryError
from lungline.home import write_private
from lungline.settings import Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

PRIVATE, PUBLIC = "site-key.pem", "site-key.pub"
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key; `id` is the sha256 of its PEM text, as `model_signing` computes it."""

    pem: str

    @property
    def id(self) -> str:
        """Names the key in signatures and in the history."""
        return hashlib.sha256(self.pem.encode()).hexdigest()

    def verifies(self, data: bytes, signature: str) -> bool:
        """Whether a base64 signature of some data was made with this key."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        try:
            _public(self.pem).verify(base64.b64decode(signature, validate=True), data, ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class SiteKey:
    """A private key."""

    pem: str = field(repr=False)

    @property
    def public(self) -> PublicKey:
        """Its public half."""
        return PublicKey(_text(_private(self.pem).public_key()))

    def sign(self, data: bytes) -> str:
        """The signature of some data, in base64."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        return base64.b64encode(_private(self.pem).sign(data, ec.ECDSA(hashes.SHA256()))).decode()


def generate_key() -> SiteKey:
    """A new key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    form, encrypted = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    made = ec.generate_private_key(ec.SECP256R1())
    return SiteKey(made.private_bytes(serialization.Encoding.PEM, form, encrypted).decode())


def parse_public_keys(text: str) -> tuple[PublicKey, ...]:
    """The public keys in a text of PEM blocks; one that cannot be read is left out."""
    keys: list[PublicKey] = []
    for block in _PEM.findall(text):
        with contextlib.suppress(ValueError):
            keys.append(PublicKey(_text(_public(block))))
    return tuple(dict.fromkeys(keys))


def read_public_keys(path: Path) -> tuple[PublicKey, ...]:
    """The public keys in a file. Raises LunglineError when it cannot be read."""
    try:
        return parse_public_keys(path.read_text())
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no text"
        raise LunglineError(f"The public key {path} cannot be read: {reason}.") from exc


def site_key(settings: Settings) -> SiteKey:
    """The key that signs: the setting's, else the home's, which is generated at its first use.

    Raises RegistryError when it cannot be used, or when there is none to sign for a cluster.
    """
    if settings.site_key is not None:
        key = SiteKey(settings.site_key.get_secret_value())
    elif settings.deployment == "cluster":
        raise RegistryError(
            "What a cluster serves is signed, and LUNGLINE_SITE_KEY is not set: it takes the private key in the Secret "
            "`site-key` (docs/cluster.md says how to generate it)."
        )
    else:
        key = _home_key(settings.home)
    try:
        _ = key.public
    except (ValueError, TypeError) as exc:
        place = "LUNGLINE_SITE_KEY" if settings.site_key else settings.home.absolute() / PRIVATE
        raise RegistryError(
            f"The site's key in {place} is no private key (PEM, P-256). Restore it from a backup, or remove it: a new "
            "one is generated, and the old public key goes on verifying what was signed with it."
        ) from exc
    return key


def trusted_keys(settings: Settings) -> tuple[PublicKey, ...]:
    """The public keys that signatures must be made with: the setting's, else the home's; empty where there are none."""
    if settings.site_public_key:
        return parse_public_keys(settings.site_public_key)
    keys: tuple[PublicKey, ...] = ()
    with contextlib.suppress(OSError, ValueError):
        keys = parse_public_keys((settings.home / PUBLIC).read_text())
    with contextlib.suppress(OSError, ValueError, TypeError):
        given = settings.site_key.get_secret_value() if settings.site_key else None
        private = SiteKey(given or (settings.home / PRIVATE).read_text())
        keys = tuple(dict.fromkeys((private.public, *keys)))
    return keys


def trust_keys(settings: Settings, keys: tuple[PublicKey, ...]) -> None:
    """Add public keys to those that the home trusts."""
    merged = dict.fromkeys((*trusted_keys(settings), *keys))
    write_private(settings.home / PUBLIC, "".join(key.pem for key in merged), durable=True)


def _home_key(home: Path) -> SiteKey:
    """The home's key; of two processes that generate it at once, both use the first."""
    path = home / PRIVATE
    try:
        if not path.exists():
            _generate(home, path)
        key = SiteKey(path.read_text())
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no text"
        raise RegistryError(f"The site's key {path} cannot be read or written: {reason}.") from exc
    with contextlib.suppress(OSError, ValueError, TypeError):
        _publish(home, key)
    return key


def _generate(home: Path, path: Path) -> None:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=home, prefix=f".{PRIVATE}-")  # 0600 from its first moment
    try:
        with os.fdopen(handle, "w") as file:
            file.write(generate_key().pem)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
            before = "; the one before was lost" if (home / PUBLIC).exists() else ""
            _log.warning("A new key of this site was generated: %s%s.", path, before)
    finally:
        Path(draft).unlink()


def _publish(home: Path, key: SiteKey) -> None:
    """Put the public half beside the key; keys that are there stay, because they verify what is older."""
    path = home / PUBLIC
    kept = parse_public_keys(path.read_text()) if path.exists() else ()
    if key.public not in kept:
        write_private(path, "".join(each.pem for each in (key.public, *kept)), durable=True)


def _private(pem: str) -> "EllipticCurvePrivateKey":
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = serialization.load_pem_private_key(pem.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("not a key of the curve P-256")  # noqa: TRY004 - as cryptography says it of other text
    return key


def _public(pem: str) -> "EllipticCurvePublicKey":
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = serialization.load_pem_public_key(pem.encode())
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("not a key of the curve P-256")  # noqa: TRY004 - as cryptography says it of other text
    return key


def _text(key: "EllipticCurvePublicKey") -> str:
    from cryptography.hazmat.primitives import serialization

    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form).decode()
