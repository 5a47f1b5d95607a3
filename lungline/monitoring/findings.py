"""What monitoring found, as it is shown, stored in the results bucket, and told to Prometheus."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from lungline.monitoring.comparison import Comparison
from lungline.monitoring.proportion import Proportion


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Window(_Part):
    """Results that follow each other, beside the reference."""

    start: datetime
    end: datetime
    results: int
    comparison: Comparison

    @property
    def alarm(self) -> bool:
        """Whether any test says that the world has changed."""
        return bool(self.comparison.alarms)


class Feedback(_Part):
    """What readers saw in X-rays that a version judged, at its operating point.

    Readers choose what they look at, and see the model's answer first: these figures are no study.
    """

    readings: int
    sensitivity: Proportion | None = Field(description="Of those that a reader called pneumonia.")
    specificity: Proportion | None = Field(description="Of those that a reader called normal.")


class Watched(_Part):
    """One model version in the field; `windows` in time order, the oldest first."""

    version: str
    reference: int | None = Field(description="Pictures of its reference; None when its package has none.")
    reason: str | None = Field(default=None, description="Why there is no comparison, in a sentence.")
    results: int
    labels: dict[str, int]
    unsure: Proportion | None
    refused: Proportion | None
    windows: tuple[Window, ...] = ()
    feedback: Feedback | None = None

    @property
    def drifted(self) -> bool:
        """Whether the latest window has an alarm."""
        return bool(self.windows) and self.windows[-1].alarm

    @property
    def alarms_in_a_row(self) -> int:
        """How many of the latest windows have an alarm without a break."""
        count = 0
        for window in reversed(self.windows):
            if not window.alarm:
                break
            count += 1
        return count

    def in_a_sentence(self) -> str:
        """What a person needs to know first."""
        if self.reason:
            return self.reason
        if not self.windows:
            return "There are too few results for a comparison yet."
        alarmed = sum(window.alarm for window in self.windows)
        past = f"{alarmed} of {len(self.windows)} windows raised an alarm"
        if self.drifted:
            tests = ", ".join(self.windows[-1].comparison.alarms)
            return f"The latest results differ from the reference ({tests}); {past}."
        return f"The latest results look like the reference; {past}."


class Monitored(_Part):
    """What one look at the field found."""

    form: Literal[1] = 1
    at: datetime
    since: datetime
    window: int
    alarm_rate: float
    models: tuple[Watched, ...] = Field(description="The version with the latest result first.")

    @property
    def in_service(self) -> tuple[Watched, ...]:
        """Versions that judge now: the latest, and those whose results reach into its latest window.

        What was replaced raises no alarm any more, whatever its last results looked like.
        """
        begin = next((model.windows[-1].start for model in self.models if model.windows), None)
        return tuple(
            model for model in self.models if begin is None or not model.windows or model.windows[-1].end >= begin
        )

    @property
    def drifted(self) -> tuple[str, ...]:
        """Versions in service whose latest window has an alarm."""
        return tuple(model.version for model in self.in_service if model.drifted)
