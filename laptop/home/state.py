"""The state files of a home, looked at before a start: what can be made again is, and says so; the rest is refused.

| file | when it is damaged |
|---|---|
| credentials.json | refused: its keys open what the home holds, and pseudonyms are derived from them |
| ports.json, supervisor.json | made again |
| store/config/*.crt, *.key | made again: they protect the store's own connections |
| site-key.pem | refused: it says who signed; without the file a new one is generated |
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from eventing.seaweedfs_tls import SIGNING, Certificates
from lungline.errors import StackError
from lungline.home import Home
from lungline.site_key import PRIVATE, SiteKey

_log = logging.getLogger(__name__)

_Secret = Annotated[str, Field(min_length=16)]
_Port = Annotated[int, Field(strict=True, ge=1, le=65535)]


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


def check_state(home: Home) -> None:
    """Look at the state files of a home that is about to start. Raises StackError, which names file and cure."""
    for name in ("credentials.json", "ports.json", "supervisor.json", "lock", PRIVATE):
        if home.file(name).is_dir():
            raise StackError(f"{home.file(name)} is a folder where a file should be: move it away, then `lungline up`.")
    _require_credentials(home.file("credentials.json"), home)
    _require_site_key(home.file(PRIVATE))
    _remade(home.file("ports.json"), _fault(TypeAdapter(dict[str, _Port]).validate_json))
    _remade(home.file("supervisor.json"), _fault(_Supervisor.model_validate_json))
    _check_certificates(home.file("store", "config"))


def _require_credentials(path: Path, home: Home) -> None:
    if not path.exists():
        if any(home.file("store").glob("data/*.dat")):
            _log.warning(
                "%s was gone: new credentials are generated. Clients need `lungline env` again, and the research "
                "bucket gets other pseudonyms for the same patients.",
                path,
            )
        return
    fault = _fault(_credentials)(path)
    if fault:
        raise StackError(
            f"{path} is damaged ({fault}): restore it from a backup; or remove it, and new credentials are generated, "
            "with other pseudonyms in the research bucket."
        )


def _credentials(data: bytes) -> object:
    credentials = _Credentials.model_validate_json(data)
    if missing := set(SIGNING) - credentials.signing.keys():
        raise ValueError(f"signing lacks {min(missing)}")
    return credentials


def _require_site_key(path: Path) -> None:
    if path.exists() and (fault := _fault(lambda data: SiteKey(data.decode()).public)(path)):
        raise StackError(
            f"{path} is damaged ({fault}): restore it from a backup; or remove it, and a new key is generated, while "
            "the old public key goes on verifying."
        )


def _remade(path: Path, fault: Callable[[Path], str | None]) -> None:
    """Remove a damaged file that the start writes again."""
    if path.exists() and (reason := fault(path)):
        _log.warning("%s was damaged (%s): it is made again.", path, reason)
        path.unlink()


def _check_certificates(folder: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    certificates = Certificates.of(folder)
    readers: dict[Path, Callable[[bytes], object]] = {
        certificates.authority: x509.load_pem_x509_certificate,
        certificates.certificate: x509.load_pem_x509_certificate,
        certificates.key: lambda data: load_pem_private_key(data, None),
    }
    for path, reader in readers.items():
        if path.is_dir():
            raise StackError(f"{path} is a folder where a file should be: move it away, then `lungline up`.")
        if path.exists() and (reason := _fault(reader)(path)):
            _log.warning("%s was damaged (%s): the store's certificates are made again.", path, reason)
            for each in readers:
                each.unlink(missing_ok=True)
            return


def _fault(read: Callable[[bytes], object]) -> Callable[[Path], str | None]:
    """What is wrong with a file in a few words; None when it can be read. Values stay out: they may be secrets."""

    def fault(path: Path) -> str | None:
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

    return fault
