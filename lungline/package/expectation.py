"""What a predictor is told about the package that it may serve: which digest, whether signed, and where it comes from.

On a laptop it lies beside the link that the predictor follows, in `expected/<version>.json`; on a cluster the setting
`package_sha256` holds the digest. Homes of earlier releases have neither: then any whole package of the folder serves.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from lungline.errors import PackageError
from lungline.home import write_json


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the package of a version must be."""

    source: str
    """Where it can be fetched again, as `s3://bucket/prefix/`; empty where it cannot."""
    sha256: str
    signed: bool


_EXPECTATION = TypeAdapter(Expectation)


def write_expectation(link: Path, version: str, expected: Expectation) -> None:
    """Tell the predictor that follows a link what the package of a version must be."""
    write_json(_path(link, version), asdict(expected), durable=True)


def read_expectation(link: Path, version: str) -> Expectation | None:
    """What the package of a version must be; None where nobody has said it.

    Raises PackageError when the file cannot be used: a damaged order is no permission.
    """
    path = _path(link, version)
    if not path.exists():
        return None
    try:
        return _EXPECTATION.validate_json(path.read_bytes())
    except (OSError, ValueError) as exc:  # pydantic's ValidationError is a ValueError
        raise PackageError(
            f"The file {path} does not say what to serve: `lungline promote {version} --by NAME --reason TEXT` writes "
            "it again."
        ) from exc


def _path(link: Path, version: str) -> Path:
    return link.with_name("expected") / f"{version}.json"
