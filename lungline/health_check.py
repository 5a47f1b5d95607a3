"""The result of a health check, as `lungline status` and `lungline doctor` show it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was found, and how to fix it when it has not passed."""

    name: str
    passed: bool
    finding: str
    cure: str = ""
