"""A share with its 95 % interval."""

from math import sqrt

from pydantic import BaseModel, ConfigDict

_Z = 1.959964


class Proportion(BaseModel):
    """`count` of `total`, with Wilson's interval, which is right for few and for shares near 0 and 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share itself."""
        return self.count / self.total

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def proportion(count: int, total: int) -> Proportion | None:
    """The share of `count` in `total`; None of nothing."""
    if total == 0:
        return None
    share, weight = count / total, 1 + _Z**2 / total
    middle = (share + _Z**2 / (2 * total)) / weight
    reach = _Z * sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2)) / weight
    return Proportion(count=count, total=total, low=max(0.0, middle - reach), high=min(1.0, middle + reach))
