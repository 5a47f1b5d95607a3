"""The findings of monitoring, as stored in the results bucket, shown on a page and exported to Prometheus."""

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
    """`count` of `total`, with Wilson's 95 % interval, which holds for small counts and for shares near 0 and 1."""

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
    """The share of `count` in `total`; None if `total` is 0."""
    if total == 0:
        return None
    share, weight = count / total, 1 + _Z**2 / total
    middle = (share + _Z**2 / (2 * total)) / weight
    reach = _Z * sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2)) / weight
    return Proportion(count=count, total=total, low=max(0.0, middle - reach), high=min(1.0, middle + reach))


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Window(_Part):
    """Consecutive results, compared with the reference."""

    start: datetime
    end: datetime
    results: int
    comparison: WindowComparison

    @property
    def alarm(self) -> bool:
        """Whether any test detected drift."""
        return bool(self.comparison.alarms)


class Feedback(_Part):
    """Sensitivity and specificity of a version by readers' verdicts, at its operating point.

    Readers choose what they read and see the model's result first, so these metrics are biased.
    """

    readings: int
    sensitivity: Proportion | None = Field(description="Over X-rays on which a reader gave a positive finding.")
    specificity: Proportion | None = Field(description="Over X-rays on which a reader gave the negative one.")


class ModelFindings(_Part):
    """One model version in production; `windows` are in time order, the oldest first."""

    version: str
    reference: int | None = Field(description="Images in its reference; None when its package has none.")
    reason: str | None = Field(default=None, description="Why there is no comparison: a sentence.")
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
        """The number of latest windows that have an alarm without a gap."""
        count = 0
        for window in reversed(self.windows):
            if not window.alarm:
                break
            count += 1
        return count

    def in_a_sentence(self) -> str:
        """A summary for a person."""
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
    """The findings of one monitoring run."""

    schema_version: Literal[1] = Field(default=1, validation_alias=AliasChoices("schema_version", "form"))
    at: datetime
    since: datetime
    window: int
    alarm_rate: float
    models: tuple[ModelFindings, ...] = Field(description="The version with the latest result first.")
    unreadable_readings: int = Field(default=0, description="Objects among the readings that are no reading record.")

    @property
    def in_service(self) -> tuple[ModelFindings, ...]:
        """Versions in service: the latest, and those with results in its latest window.

        A version that was replaced raises no more alarms, whatever its last results were.
        """
        begin = next((model.windows[-1].start for model in self.models if model.windows), None)
        return tuple(
            model for model in self.models if begin is None or not model.windows or model.windows[-1].end >= begin
        )

    @property
    def drifted(self) -> tuple[str, ...]:
        """Versions in service whose latest window has an alarm."""
        return tuple(model.version for model in self.in_service if model.drifted)


def unreadable_sentence(count: int) -> str:
    """A warning that reading records could not be read."""
    records = "1 reading record" if count == 1 else f"{count} reading records"
    return f"{records} could not be read and count nowhere: their schema may be of another release."


LATEST, REPORT, EVENTS = "monitoring/latest.json", "monitoring/report.html", "monitoring/events/"
DRIFT_TYPE, SOURCE = "org.lungline.drift.v1", "/lungline/monitor"


def latest(storage: Storage, bucket: str) -> MonitoringFindings | None:
    """The last findings; None if there are none, or none that this release can read."""
    try:
        return MonitoringFindings.model_validate_json(storage.get(bucket, LATEST).data)
    except (ObjectGone, ValidationError):
        return None


def save(storage: Storage, bucket: str, current: MonitoringFindings, page: str) -> list[str]:
    """Store findings and their page; returns the versions with drift that the findings before did not have."""
    previous = latest(storage, bucket)
    drifted = set(previous.drifted) if previous else set[str]()
    begun = [model for model in current.in_service if model.drifted and model.version not in drifted]
    announced = [model.version for model in begun if _put_event(storage, bucket, model, current.at)]
    storage.put(bucket, REPORT, page.encode(), "text/html; charset=utf-8")
    storage.put(bucket, LATEST, current.model_dump_json().encode(), "application/json")
    return announced


def _put_event(storage: Storage, bucket: str, model: ModelFindings, at: datetime) -> bool:
    window = model.windows[-1]
    # Named by the window, so that two concurrent monitors write the same event once.
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
