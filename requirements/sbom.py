"""Write the bills of materials of the wheel and of each image, in CycloneDX's form: `make sbom`, into `dist/sbom/`.

They come from the locks, so they name the versions and digests that the images are built with, and each image's base by
its digest. Every bill is validated by CycloneDX's own validator. Model packages carry theirs (`sbom.cdx.json`).
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
# The layers of locks that each artifact is installed from, as in the Dockerfile.
ARTIFACTS = {
    "wheel": ("core", "serving", "pipeline", "worklist", "laptop"),
    "predictor": ("core", "serving"),
    "worklist": ("core", "worklist"),
    "pipeline-python": ("core", "pipeline"),
    "tools-python": ("core", "serving", "pipeline", "worklist", "laptop"),
}
# The pipeline's image holds PostgreSQL's driver as well, from the worklist's lock.
DRIVER = re.compile(r"^psycopg(-binary)?==")
BASE = re.compile(
    r"^ARG PYTHON=docker\.io/library/python:(?P<version>\S+)@sha256:(?P<digest>[0-9a-f]{64})$", re.MULTILINE
)


def locked(artifact: str) -> str:
    """The locked requirements of an artifact, each with its digests."""
    entries = [entry for layer in ARTIFACTS[artifact] for entry in _entries(layer)]
    if artifact == "pipeline-python":
        entries += [entry for entry in _entries("worklist") if DRIVER.match(entry)]
    return "".join(entries)


def bill(artifact: str) -> dict[str, Any]:
    """The bill of materials of the wheel or of an image."""
    program = Path(sys.executable).with_name("cyclonedx-py")
    options = (
        "--pyproject",
        str(ROOT / "pyproject.toml"),
        "--output-reproducible",
        "--sv",
        "1.6",
        "--of",
        "JSON",
        "--no-validate",
    )
    command = [str(program), "requirements", *options, "-"]
    done = subprocess.run(command, input=locked(artifact), check=True, capture_output=True, text=True, timeout=300)
    document: dict[str, Any] = json.loads(done.stdout)
    if artifact != "wheel":
        _dress_as_image(document, artifact)
    return document


def fault_of(text: str) -> str | None:
    """What CycloneDX's validator finds wrong; None when nothing."""
    # By name, so that the types are checked without it as well.
    schema: Any = import_module("cyclonedx.schema")
    validation: Any = import_module("cyclonedx.validation.json")
    fault: Any = validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(text)
    return None if fault is None else str(fault)


def _dress_as_image(document: dict[str, Any], artifact: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    component: dict[str, Any] = document["metadata"]["component"]
    component |= {"type": "container", "name": f"ghcr.io/lungline/{artifact}", "version": version}
    component.pop("purl", None)
    document["components"].append(_base_image())


def _base_image() -> dict[str, Any]:
    pinned = BASE.search((ROOT / "Dockerfile").read_text())
    if pinned is None:
        sys.exit("The Dockerfile does not pin its base image by digest.")
    name, digest = "docker.io/library/python", pinned["digest"]
    purl = f"pkg:oci/python@sha256%3A{digest}?repository_url={name}&tag={pinned['version']}"
    hashes = [{"alg": "SHA-256", "content": digest}]
    return {
        "type": "container",
        "bom-ref": purl,
        "name": name,
        "version": pinned["version"],
        "purl": purl,
        "hashes": hashes,
    }


def _entries(layer: str) -> list[str]:
    lines = (HERE / f"{layer}.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith(("#", "-r ")))
    return re.split(r"(?m)^(?=[a-z0-9])", text)[1:]


def main() -> int:
    """Write and validate every bill; 1 when one is not valid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifacts", nargs="*", metavar="ARTIFACT", help=f"of {', '.join(ARTIFACTS)}; all by default")
    parser.add_argument("--to", type=Path, default=ROOT / "dist" / "sbom", help="the folder")
    arguments = parser.parse_args()
    folder: Path = arguments.to
    folder.mkdir(parents=True, exist_ok=True)
    for artifact in arguments.artifacts or ARTIFACTS:
        text = json.dumps(bill(artifact), indent=2) + "\n"
        if fault := fault_of(text):
            print(f"{artifact}: {fault}", file=sys.stderr)
            return 1
        path = folder / f"{artifact}.cdx.json"
        path.write_text(text, encoding="utf-8")
        print(f"{path}: {len(json.loads(text)['components'])} components, valid CycloneDX 1.6")
    return 0


if __name__ == "__main__":
    sys.exit(main())
