"""The bill of materials of a model package: `sbom.cdx.json`, CycloneDX 1.6 for machine learning.

It names the network with its digest, the other files, the data that it learnt from, and the code and libraries that
trained it. The card lists it like any file, so that the package's digest and signature cover it. A package whose bill
describes other files than it has is refused; packages of earlier releases have none.
"""

import json
import uuid
from pathlib import Path
from typing import Any, cast

from lungline.errors import PackageError
from lungline.package.card import MODEL, Card

BILL = "sbom.cdx.json"
_SPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://github.com/lungline/lungline")
_SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
_SHA256 = 64  # digits


def write_bill(folder: Path, card: Card, digests: dict[str, str]) -> None:
    """Write the bill of a package that is complete but for its card; `digests` are those of its files."""
    (folder / BILL).write_text(json.dumps(_bill(card, digests), indent=2) + "\n")


def require_fit(folder: Path, card: Card) -> None:
    """Raise PackageError when a package has a bill, and this describes other files than the card lists."""
    if BILL not in card.files:
        return
    described = _described(folder)
    for name in sorted({MODEL} | described.keys()):
        if described.get(name) != card.files.get(name):
            raise PackageError(f"The bill of materials of package {folder.name} does not fit: it has another {name}.")


def _bill(card: Card, digests: dict[str, str]) -> dict[str, Any]:
    libraries = [_library(name, number) for name, number in sorted(card.code.packages.items())]
    files = [_file(name, digest) for name, digest in sorted(digests.items()) if name not in (MODEL, BILL)]
    parts = [*files, _data(card), _code(card), *libraries]
    return {
        "$schema": _SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        # The same for the same files: a package that is made again is the same package.
        "serialNumber": f"urn:uuid:{uuid.uuid5(_SPACE, json.dumps(digests, sort_keys=True))}",
        "version": 1,
        "metadata": {"component": _network(card, digests[MODEL])},
        "components": parts,
        "dependencies": [{"ref": MODEL, "dependsOn": [part["bom-ref"] for part in parts]}],
    }


def _network(card: Card, digest: str) -> dict[str, Any]:
    size = card.preparation.size
    return {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": card.name,
        "hashes": _hashes(digest),
        "properties": [{"name": "lungline:file", "value": MODEL}],
        "modelCard": {
            "modelParameters": {
                "task": "classification",
                "architectureFamily": "convolutional neural network",
                "datasets": [{"ref": "data"}],
                "inputs": [{"format": f"float32 (1, {size}, {size}, 1), a prepared chest X-ray"}],
                "outputs": [{"format": f"risk of {card.classes[-1].capitalize()}, 0 to 1, with a heatmap"}],
            }
        },
    }


def _file(name: str, digest: str) -> dict[str, Any]:
    return {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": _hashes(digest)}


def _data(card: Card) -> dict[str, Any]:
    data = card.data
    origin = "drawn phantoms" if data.synthetic else "X-rays"
    contents: dict[str, Any] = {"type": "dataset", "name": data.name, "description": f"{origin}, digest {data.digest}"}
    hashes = {"hashes": _hashes(data.digest)} if len(data.digest) == _SHA256 else {}
    return {"type": "data", "bom-ref": "data", "name": data.name, "data": [contents], **hashes}


def _code(card: Card) -> dict[str, Any]:
    facts = {"commit": card.code.commit, "dirty": card.code.dirty}
    properties = [{"name": f"lungline:{name}", "value": str(value)} for name, value in facts.items() if value]
    code = {"type": "application", "bom-ref": "lungline", "name": "lungline", "version": card.code.version}
    return code | ({"properties": properties} if properties else {})


def _library(name: str, number: str) -> dict[str, Any]:
    purl = f"pkg:pypi/{name}@{number}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": number, "purl": purl}


def _hashes(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest}]


def _described(folder: Path) -> dict[str, str]:
    """sha256 of the files that a bill describes, by name. Raises PackageError when it cannot be read."""
    try:
        bill = cast("dict[str, Any]", json.loads((folder / BILL).read_bytes()))
        files = [part for part in bill["components"] if part["type"] == "file"]
        network = bill["metadata"]["component"] | {"name": MODEL}
        return {str(part["name"]): str(part["hashes"][0]["content"]) for part in (*files, network)}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as exc:
        raise PackageError(f"The bill of materials of package {folder.name} cannot be read.") from exc
