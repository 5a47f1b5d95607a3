"""The signature of a model package: `model.sig` in its folder, in the form of OpenSSF's model signing 1.0.

    a Sigstore bundle             verificationMaterial names the key; no certificate, no transparency log
      a DSSE envelope             the signature over payload type and payload
        an in-toto statement      the digest over everything, and the sha256 of each file, card.json included

`model_signing verify key FOLDER --signature FOLDER/model.sig --public_key site-key.pub` accepts it, and a signature
that `model_signing sign key` wrote is accepted here. That package itself would cost the predictor 0.9 s of start, 50 MB
of memory and thirty distributions; the form needs cryptography and json.

Source: https://github.com/ossf/model-signing-spec, https://github.com/secure-systems-lab/dsse (protocol 1.0.2).
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lungline.errors import PackageError
from lungline.site_key import PublicKey, SiteKey

SIGNATURE = "model.sig"
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT, _PREDICATE = "https://in-toto.io/Statement/v1", "https://model_signing/signature/v1.0"
_LONGEST = 4 * 2**20  # bytes: a signature of 20,000 files


def sign_package(folder: Path, key: SiteKey) -> None:
    """Write the signature of everything in a package's folder."""
    digests = digests_of(folder)
    statement = {
        "_type": _STATEMENT,
        "subject": [{"name": folder.name, "digest": {"sha256": _root(digests)}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE],
            },
            "resources": [
                {"name": name, "algorithm": "sha256", "digest": digest} for name, digest in sorted(digests.items())
            ],
        },
    }
    payload = json.dumps(statement, indent=2).encode()
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": _PAYLOAD,
        "signatures": [{"sig": key.sign(_signed(payload)), "keyid": ""}],
    }
    material: dict[str, Any] = {"publicKey": {"hint": key.public.id}, "tlogEntries": []}
    bundle: dict[str, Any] = {"mediaType": _BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope}
    (folder / SIGNATURE).write_text(json.dumps(bundle))


def is_signed(folder: Path) -> bool:
    """Whether a package has a signature; packages of earlier releases have none."""
    return (folder / SIGNATURE).is_file()


def verify_package(folder: Path, keys: Sequence[PublicKey]) -> PublicKey:
    """The key that signed a package, once its signature and every file are proven.

    Raises PackageError when it is not signed, not with one of the keys, or not as it is.
    """
    payload, signature = _read(folder)
    for key in keys:
        if key.verifies(_signed(payload), signature):
            _compare(folder, payload)
            return key
    raise PackageError(
        f"The package {folder.name} is not signed with a key of this site: its signature was made with another key, or "
        "changed afterwards."
    )


def digests_of(folder: Path) -> dict[str, str]:
    """sha256 of each file of a package but its signature, by its path in the folder."""
    digests: dict[str, str] = {}
    for path in folder.rglob("*"):
        if path.is_file() and path != folder / SIGNATURE:
            with path.open("rb") as file:
                digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _signed(payload: bytes) -> bytes:
    """What DSSE signs: its pre-authentication encoding of type and payload."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)


def _root(digests: Mapping[str, str]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(digests[name]) for name in sorted(digests))).hexdigest()


def _read(folder: Path) -> tuple[bytes, str]:
    """Payload and base64 signature of a package."""
    path = folder / SIGNATURE
    try:
        if path.stat().st_size > _LONGEST:
            raise PackageError(f"The signature of package {folder.name} is damaged: it is too large.")
        bundle = json.loads(path.read_bytes())
        envelope = bundle["dsseEnvelope"]
        (signature,) = envelope["signatures"]
        return base64.b64decode(envelope["payload"], validate=True), str(signature["sig"])
    except OSError as exc:
        raise PackageError(f"The package {folder.name} is not signed.") from exc
    except (ValueError, LookupError, TypeError) as exc:
        raise PackageError(f"The signature of package {folder.name} is damaged: it cannot be read.") from exc


def _compare(folder: Path, payload: bytes) -> None:
    """Compare the files with a statement whose signature holds."""
    try:
        statement = cast("dict[str, Any]", json.loads(payload))
        resources = statement["predicate"]["resources"]
        expected = {str(each["name"]): str(each["digest"]) for each in resources if each["algorithm"] == "sha256"}
        (subject,) = statement["subject"]
        whole = statement["predicateType"] == _PREDICATE and len(expected) == len(resources)
        sound = whole and subject["digest"]["sha256"] == _root(expected)
    except (ValueError, LookupError, TypeError) as exc:
        raise PackageError(f"The signature of package {folder.name} states something else than its files.") from exc
    if not sound:
        raise PackageError(f"The signature of package {folder.name} contradicts itself.")
    actual = digests_of(folder)
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            what = "missing" if name not in actual else "not signed" if name not in expected else "changed"
            raise PackageError(f"The file {name} of package {folder.name} is {what}, by the package's signature.")
