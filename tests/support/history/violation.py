"""A violation of a rule."""

from dataclasses import dataclass

from tests.support.history.operations import Operation

_SHORT = 8


@dataclass(frozen=True, slots=True)
class Violation:
    """What does not hold, as a sentence, and the operations that show it."""

    sentence: str
    operations: tuple[Operation, ...] = ()

    def __str__(self) -> str:
        """The sentence with its operations."""
        names = ", ".join(map(str, self.operations))
        return f"{self.sentence} ({names})" if names else self.sentence


def short(identity: str) -> str:
    """The first digits of an identity."""
    return identity[:_SHORT]
