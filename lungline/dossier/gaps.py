"""What a dossier lacks: parts are tried, and one that cannot be read becomes a sentence instead of an error."""

from collections.abc import Callable
from typing import TypeVar

from lungline.dossier.parts import Missing
from lungline.errors import LunglineError

T = TypeVar("T")

ELSEWHERE = "it cannot be read from here; `lungline dossier` on the command line reads it"


class Gaps:
    """Collects the parts that are missing, each once."""

    def __init__(self) -> None:
        self._missing: dict[str, Missing] = {}

    @property
    def missing(self) -> tuple[Missing, ...]:
        """The missing parts, in the order in which they were looked for."""
        return tuple(self._missing.values())

    def note(self, part: str, reason: str) -> None:
        """Name a missing part; the first reason stays."""
        self._missing.setdefault(part, Missing(part=part, reason=reason.rstrip(".")))

    def attempt(self, part: str, read: Callable[[], T | None], otherwise: str = "") -> T | None:
        """What is read; None where that fails, or where nothing is there, for the reason `otherwise`."""
        try:
            value = read()
        except LunglineError as exc:
            self.note(part, str(exc))
            return None
        if value is None and otherwise:
            self.note(part, otherwise)
        return value

    def lent(self, part: str, read: Callable[[], T | None] | None, otherwise: str = "") -> T | None:
        """The same for a source that may not be reachable from here, which is then None."""
        if read is None:
            self.note(part, ELSEWHERE)
            return None
        return self.attempt(part, read, otherwise)
