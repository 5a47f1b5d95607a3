"""Pseudonyms for the research bucket, keyed with a secret: the bare hash of a name could be guessed.

Source: NIST FIPS 198-1 (HMAC).
"""

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from lungline.errors import LunglineError
from lungline.home import sync_folder, write_private
from lungline.settings import Settings

KEY_FILE = "research.key"


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Pseudonyms: the same for the same name, and irreversible without the secret."""

    secret: bytes = field(repr=False)

    @classmethod
    def from_settings(cls, settings: Settings) -> "Pseudonyms":
        """With the secret of the settings, or the secret of the home: created at first use, readable by its owner only.

        Raises LunglineError when the secret of the home cannot be read or written.
        """
        if settings.research_secret:
            return cls(settings.research_secret.get_secret_value().encode())
        return cls(_home_secret(settings.home))

    def of(self, kind: str, name: str) -> str:
        """32 hexadecimal digits for a name; the same name of another `kind` has another pseudonym."""
        text = f"{kind}\0{name}".encode("utf-8", "surrogateescape")
        return hmac.new(self.secret, text, hashlib.sha256).hexdigest()[:32]

    def uid(self, name: str) -> str:
        """A DICOM unique identifier (UID) that replaces another."""
        return f"2.25.{int(self.of('uid', name), 16)}"


def _home_secret(home: Path) -> bytes:
    """The secret of the home; of two processes that create it at once, both use the first."""
    path = home / KEY_FILE
    try:
        if not path.exists():
            home.mkdir(parents=True, exist_ok=True)
            fresh = home / f".{KEY_FILE}.{secrets.token_hex(8)}"
            write_private(fresh, secrets.token_hex(32), durable=True)
            try:
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
            sync_folder(home)
        return bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError) as exc:
        raise LunglineError(f"The secret of the research bucket, {KEY_FILE} in the home, cannot be used.") from exc
