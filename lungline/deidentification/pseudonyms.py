"""Names that stand for others in the research bucket, keyed with a secret: a bare hash of a name can be guessed.

Source: NIST FIPS 198-1 (HMAC).
"""

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from lungline.errors import LunglineError
from lungline.settings import Settings

KEY_FILE = "research.key"


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Names that stand for others: the same for the same, and not to be undone without the secret."""

    secret: bytes = field(repr=False)

    @classmethod
    def from_settings(cls, settings: Settings) -> "Pseudonyms":
        """With the secret that the settings name, or the home's own, made at first use for nobody else to read."""
        if settings.research_secret:
            return cls(settings.research_secret.get_secret_value().encode())
        return cls(_home_secret(settings.home))

    def of(self, kind: str, name: str) -> str:
        """32 hexadecimal digits for a name; `kind` keeps the same text in two places apart."""
        text = f"{kind}\0{name}".encode("utf-8", "surrogateescape")
        return hmac.new(self.secret, text, hashlib.sha256).hexdigest()[:32]

    def uid(self, name: str) -> str:
        """A DICOM unique identifier that stands for another."""
        return f"2.25.{int(self.of('uid', name), 16)}"


def _home_secret(home: Path) -> bytes:
    """The home's secret; of two that make it at once, one wins and both use it."""
    path = home / KEY_FILE
    try:
        if not path.exists():
            home.mkdir(parents=True, exist_ok=True)
            fresh = home / f".{KEY_FILE}.{secrets.token_hex(8)}"
            fresh.touch(mode=0o600)
            fresh.write_text(secrets.token_hex(32))
            try:
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        return bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError) as exc:
        raise LunglineError(f"The secret of the research bucket, {KEY_FILE} in the home, cannot be used.") from exc
