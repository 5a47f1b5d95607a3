"""What a promotion tells the predictor of a package."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Release:
    """What the package of a version must be; a predictor refuses another."""

    sha256: str
    """The digest over everything in it, from the promotion history."""
    signed: bool
    """Whether it has a signature; packages of earlier releases have none until they are promoted again."""
    anchor: str = ""
    """The history's last entry."""
