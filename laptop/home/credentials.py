"""Generated credentials of one laptop stack.

`owner` may do anything on the object store. `scanner` may only write to the uploads bucket: it stands for imaging
equipment, which must not read what others sent. `signing` holds the keys with which the store's own servers
recognise each other, so that none of its inner ports answers a stranger.
"""

import hmac
import secrets
from dataclasses import asdict, dataclass, field

from eventing.seaweedfs_tls import generate_signing_keys
from lungline.home import Home, read_json, write_json


@dataclass(frozen=True, slots=True)
class Key:
    """An access key and its secret."""

    access_key: str
    secret_key: str = field(repr=False)

    @classmethod
    def generate(cls) -> "Key":
        """A new key."""
        return cls(secrets.token_hex(10).upper(), secrets.token_urlsafe(30))


@dataclass(frozen=True, slots=True)
class Credentials:
    """All secrets of a stack."""

    owner: Key
    scanner: Key
    signing: dict[str, str] = field(repr=False)

    @property
    def events(self) -> str:
        """What the trigger shows the worklist with each event; made of a key that every home has."""
        return hmac.new(self.signing["signing"].encode(), b"worklist events", "sha256").hexdigest()

    @property
    def research(self) -> str:
        """What pseudonyms in the research bucket are keyed with; made of a key that every home has."""
        return hmac.new(self.signing["signing"].encode(), b"research pseudonyms", "sha256").hexdigest()

    @classmethod
    def generate(cls) -> "Credentials":
        """New ones."""
        return cls(Key.generate(), Key.generate(), generate_signing_keys())


def claim_credentials(home: Home) -> Credentials:
    """The home's credentials, generated at its first start."""
    if known := load_credentials(home):
        return known
    made = Credentials.generate()
    write_json(home.file("credentials.json"), asdict(made))
    return made


def load_credentials(home: Home) -> Credentials | None:
    """The home's credentials; None before its first start."""
    kept = read_json(home.file("credentials.json"))
    try:
        return kept and Credentials(Key(**kept["owner"]), Key(**kept["scanner"]), dict(kept["signing"]))
    except (TypeError, KeyError, ValueError):
        return None
