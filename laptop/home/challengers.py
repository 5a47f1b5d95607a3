"""Which versions give second opinions in a home: at most one beside live uploads, and one on old uploads.

`challengers.json` names them, so that they come back with the stack; the supervisor starts and stops their services as
the file says. The package of each lies in a folder of its own, never among those that serve.
"""

import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lungline.home import Home, ModelFolder, read_json, write_json
from lungline.results.purposes import PURPOSES, Purpose


@dataclass(frozen=True, slots=True)
class Challenger:
    """A version that gives second opinions, under the name that its records have, and since when."""

    purpose: Purpose
    model: str
    version: str
    recorded: str
    """The version as records name it."""
    since: datetime

    @classmethod
    def now(cls, purpose: Purpose, model: str, version: str, recorded: str) -> "Challenger":
        """One that begins now."""
        return cls(purpose, model, version, recorded, datetime.now(UTC))


_CHALLENGERS = TypeAdapter(dict[Purpose, Challenger])


def folder_of(home: Home, purpose: Purpose) -> ModelFolder:
    """Where the package of the challenger for a purpose lies."""
    return ModelFolder(home.file("predictor", "challengers", purpose))


def predictor_name(purpose: Purpose) -> str:
    """The name of a challenger's predictor among the services."""
    return f"{purpose}-predictor"


def challengers(home: Home) -> dict[Purpose, Challenger]:
    """The challengers of a home by purpose; none where nothing readable says so."""
    value: Any = read_json(home.file("challengers.json"))
    try:
        return _CHALLENGERS.validate_python(value or {})
    except ValidationError:
        return {}


def keep_challenger(home: Home, challenger: Challenger) -> None:
    """Name a challenger in the home; it replaces another for the same purpose."""
    value = challengers(home)
    value[challenger.purpose] = challenger
    _write(home, value)


def drop_challenger(home: Home, purpose: Purpose) -> Challenger | None:
    """Name none for a purpose any more; returns the one that was there."""
    left = challengers(home)
    dropped = left.pop(purpose, None)
    if dropped:
        _write(home, left)
    return dropped


def remove_packages(home: Home, purpose: Purpose) -> None:
    """Remove what the challengers for a purpose have left, once none runs."""
    shutil.rmtree(folder_of(home, purpose).path, ignore_errors=True)


def _write(home: Home, value: dict[Purpose, Challenger]) -> None:
    document = {
        purpose: asdict(value[purpose]) | {"since": value[purpose].since.isoformat()}
        for purpose in PURPOSES
        if purpose in value
    }
    write_json(home.file("challengers.json"), document, durable=True)
