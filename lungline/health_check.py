"""One thing that was looked at, as `status` and `doctor` show it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """What was found, and what to do about it where it is not as it should be."""

    name: str
    passed: bool
    finding: str
    cure: str = ""
