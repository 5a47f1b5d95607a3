"""What monitoring found, as it is shown, stored in the results bucket, and told to Prometheus."""

import json
from datetime import datetime
from math import sqrt
from typing import Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from lungline.errors import ObjectGone
from lungline.monitoring.comparison import WindowComparison
from lungline.storage.s3 import Storage

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


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Window(_Part):
    """Results that follow each other, beside the reference."""

    start: datetime
    end: datetime
    results: int
    comparison: WindowComparison

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


class ModelFindings(_Part):
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


class MonitoringFindings(_Part):
    """What one look at the field found."""

    schema_version: Literal[1] = Field(default=1, validation_alias=AliasChoices("schema_version", "form"))
    at: datetime
    since: datetime
    window: int
    alarm_rate: float
    models: tuple[ModelFindings, ...] = Field(description="The version with the latest result first.")
    unreadable_readings: int = Field(default=0, description="Objects among the readings that are no reading record.")

    @property
    def in_service(self) -> tuple[ModelFindings, ...]:
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


LATEST, REPORT, EVENTS = "monitoring/latest.json", "monitoring/report.html", "monitoring/events/"
DRIFT_TYPE, SOURCE = "org.lungline.drift.v1", "/lungline/monitor"


def latest(storage: Storage, bucket: str) -> MonitoringFindings | None:
    """The last findings; None when there are none, or none that this version understands."""
    try:
        return MonitoringFindings.model_validate_json(storage.get(bucket, LATEST).data)
    except (ObjectGone, ValidationError):
        return None


def save(storage: Storage, bucket: str, found: MonitoringFindings, page: str) -> list[str]:
    """Store findings and their page; returns the versions whose field has begun to differ since the last look."""
    before = latest(storage, bucket)
    known = set(before.drifted) if before else set[str]()
    begun = [model for model in found.in_service if model.drifted and model.version not in known]
    told = [model.version for model in begun if _tell(storage, bucket, model, found.at)]
    storage.put(bucket, REPORT, page.encode(), "text/html; charset=utf-8")
    storage.put(bucket, LATEST, found.model_dump_json().encode(), "application/json")
    return told


def _tell(storage: Storage, bucket: str, model: ModelFindings, at: datetime) -> bool:
    window = model.windows[-1]
    # Named by what was seen, not by who saw it: two monitors give the same event.
    name = f"{model.version}-{window.end:%Y%m%dT%H%M%S}"
    event = {
        "specversion": "1.0",
        "id": name,
        "type": DRIFT_TYPE,
        "source": SOURCE,
        "subject": model.version,
        "time": at.isoformat(),
        "datacontenttype": "application/json",
        "data": {
            "version": model.version,
            "tests": list(window.comparison.alarms),
            "start": window.start.isoformat(),
            "end": window.end.isoformat(),
            "results": window.results,
            "sentence": model.in_a_sentence(),
        },
    }
    return storage.put_if_absent(
        bucket, f"{EVENTS}{name}.json", json.dumps(event).encode(), "application/cloudevents+json"
    )
