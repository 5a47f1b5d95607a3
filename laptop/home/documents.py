"""What each of a home's documents must be, and what is wrong with one in a few words that quote nothing of it."""

import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from eventing.seaweedfs_tls import SIGNING, Certificates
from lungline.site_key import SiteKey, parse_public_keys

Read = Callable[[bytes], object]

_Secret = Annotated[str, Field(min_length=16)]
_Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
_Number = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


class _Key(BaseModel):
    access_key: _Secret
    secret_key: _Secret


class _Credentials(BaseModel):
    owner: _Key
    scanner: _Key
    signing: dict[str, _Secret]


class _Service(BaseModel):
    name: str
    state: str
    pid: Annotated[int, Field(strict=True)] | None = None
    birth: str | None = None


class _Supervisor(BaseModel):
    pid: Annotated[int, Field(strict=True)] | None = None
    birth: str | None = None
    services: list[_Service] = []
    parts: list[_Service] = []


class _Bridge(BaseModel):
    position: _Number
    delivered: _Number = 0
    litter: _Number = 0


class _Expectation(BaseModel):
    source: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    signed: bool


ports: Read = TypeAdapter(dict[str, _Port]).validate_json
supervisor: Read = _Supervisor.model_validate_json
bridge: Read = _Bridge.model_validate_json
expectation: Read = _Expectation.model_validate_json
anchors: Read = TypeAdapter(dict[str, Annotated[str, Field(pattern=r"^\d+:[0-9a-f]{64}$")]]).validate_json
any_object: Read = TypeAdapter(dict[str, Any]).validate_json


def credentials(data: bytes) -> object:
    """Keys of the owner and of a scanner, and all signing keys."""
    read = _Credentials.model_validate_json(data)
    if missing := set(SIGNING) - read.signing.keys():
        raise ValueError(f"signing lacks {min(missing)}")
    return read


def private_key(data: bytes) -> object:
    """The site's key."""
    text = data.decode()
    try:
        return SiteKey(text).public
    except (ValueError, TypeError) as exc:
        raise ValueError("it is no private key") from exc


def public_keys(data: bytes) -> object:
    """The public keys of a site, at least one."""
    if not (keys := parse_public_keys(data.decode())):
        raise ValueError("it holds no public key")
    return keys


def pseudonym_key(data: bytes) -> object:
    """The key of pseudonyms, in hexadecimal digits."""
    if len(key := bytes.fromhex(data.decode().strip())) < 16:
        raise ValueError("it is too short")
    return key


def fault_of(path: Path, read: Read) -> str | None:
    """What is wrong with a file; None when it can be read. Values stay out: they may be secrets."""
    try:
        read(path.read_bytes())
    except ValidationError as exc:
        first = exc.errors(include_input=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['type'].replace('_', ' ')}"
    except OSError as exc:
        return exc.strerror or "it cannot be read"
    except (json.JSONDecodeError, UnicodeDecodeError):
        return "it is no text of its kind"
    except (ValueError, TypeError) as exc:
        return str(exc).splitlines()[0][:80] if str(exc) and "\n" not in str(exc) else "it cannot be read"
    return None


def certificates_fault(certificates: Certificates) -> tuple[Path, str] | None:
    """The first of a folder's certificates that cannot be used, and why; None when a connection succeeds with them."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    paths = (certificates.authority, certificates.certificate, certificates.key)
    if missing := next((path for path in paths if not path.exists()), None):
        return missing, "it is missing"
    if _der(certificates.authority) is None or _der(certificates.certificate) is None:
        broken = certificates.authority if _der(certificates.authority) is None else certificates.certificate
        return broken, "it is no certificate"
    try:
        client.load_verify_locations(certificates.authority)
    except (ssl.SSLError, OSError):
        return certificates.authority, "it is no certificate"
    try:
        server.load_cert_chain(certificates.certificate, certificates.key)
    except (ssl.SSLError, OSError):
        return certificates.key, "it is no key of store.crt"
    return None if _connects(client, server) else (certificates.certificate, "authority.crt does not vouch for it")


def _der(path: Path) -> bytes | None:
    try:
        return ssl.PEM_cert_to_DER_cert(path.read_text().strip())
    except (OSError, ValueError):
        return None


def _connects(client: ssl.SSLContext, server: ssl.SSLContext) -> bool:
    """Whether a client with the authority's certificate believes a server with the key: a handshake in memory."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(back, there, server_hostname="localhost"),
        server.wrap_bio(there, back, server_side=True),
    )
    open_ends = list(ends)
    for _ in range(10):
        for end in list(open_ends):
            try:
                end.do_handshake()
                open_ends.remove(end)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
    return not open_ends
