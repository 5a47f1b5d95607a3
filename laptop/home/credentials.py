"""Generated credentials of one laptop stack.

`owner` may do anything on the object store. `scanner` may only write to the uploads bucket: it stands for imaging
equipment, which must not read the uploads of others. `mlflow` may only use MLflow's bucket. `signing` holds the keys
that authenticate the store's own servers to each other.
"""

import hmac
import secrets
from dataclasses import asdict, dataclass, field

from eventing.seaweedfs_tls import generate_signing_keys
from lungline.home import Home, read_json, write_json

MLFLOW_USER = "lungline"


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
        """The key of events, for the trigger and its receivers; derived from a key that every home has."""
        return hmac.new(self.signing["signing"].encode(), b"worklist events", "sha256").hexdigest()

    @property
    def worklist_host(self) -> str:
        """The host name of the worklist, which no other server has: browsers send its cookies nowhere else."""
        name = hmac.new(self.signing["signing"].encode(), b"worklist host", "sha256").hexdigest()[:20]
        return f"{name}.localhost"

    @property
    def kafka(self) -> str:
        """The password of the broker's user; derived from a key that every home has."""
        return hmac.new(self.signing["signing"].encode(), b"kafka login", "sha256").hexdigest()

    @property
    def mlflow(self) -> Key:
        """The key of MLflow's own bucket; derived from a key that every home has."""
        access, secret = (self._derived(f"mlflow s3 {part}") for part in ("access", "secret"))
        return Key(access[:20].upper(), secret)

    @property
    def mlflow_password(self) -> str:
        """The password of MLflow's user; derived from a key that every home has."""
        return self._derived("mlflow login")

    @property
    def stow(self) -> str:
        """The bearer token of STOW-RS; derived from a key that every home has."""
        return self._derived("stow token")

    @property
    def viewer(self) -> str:
        """The bearer token of DICOM viewers; derived from a key that every home has."""
        return self._derived("viewer token")

    def _derived(self, use: str) -> str:
        return hmac.new(self.signing["signing"].encode(), use.encode(), "sha256").hexdigest()

    @property
    def research(self) -> str:
        """The key of pseudonyms in the research bucket; derived from a key that every home has."""
        return hmac.new(self.signing["signing"].encode(), b"research pseudonyms", "sha256").hexdigest()

    @classmethod
    def generate(cls) -> "Credentials":
        """New credentials."""
        return cls(Key.generate(), Key.generate(), generate_signing_keys())


def claim_credentials(home: Home) -> Credentials:
    """The home's credentials, generated at its first start."""
    if stored := load_credentials(home):
        return stored
    credentials = Credentials.generate()
    write_json(home.file("credentials.json"), asdict(credentials), durable=True)
    return credentials


def load_credentials(home: Home) -> Credentials | None:
    """The home's credentials; None before its first start."""
    stored = read_json(home.file("credentials.json"))
    try:
        return stored and Credentials(Key(**stored["owner"]), Key(**stored["scanner"]), dict(stored["signing"]))
    except (TypeError, KeyError, ValueError):
        return None
