"""One look at the field: read it, cut it into windows, compare each with the reference of its model version."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from lungline.datasets.patients import patient_pattern
from lungline.errors import PackageError
from lungline.monitoring import field as the_field
from lungline.monitoring.comparison import compare
from lungline.monitoring.field import Reading
from lungline.monitoring.findings import Feedback, Monitored, Watched, Window
from lungline.monitoring.proportion import proportion
from lungline.monitoring.reference import fetch_reference
from lungline.monitoring.sample import Judged, Sample, sample
from lungline.package import Card
from lungline.results import ResultRecord
from lungline.settings import MonitorSettings, Settings
from lungline.storage import Storage

# A last window that is not full yet is compared from here on: what shows in so few is worth saying early.
LEAST = 50


@dataclass
class _Version:
    """A model version while the field is read; of its results no more than one window is held."""

    version: str
    card: Card | None
    reference: Sample | None
    reason: str | None
    skip: int
    """Results before its first window: windows are counted back from the latest result."""
    settings: MonitorSettings
    labels: Counter[str] = field(default_factory=Counter[str])
    held: list[tuple[datetime, Judged]] = field(default_factory=list[tuple[datetime, Judged]])
    windows: list[Window] = field(default_factory=list[Window])

    def take(self, record: ResultRecord | None, pattern: re.Pattern[str] | None) -> None:
        """Count the next result; a window that is full is compared and let go."""
        self.skip -= 1
        if record is None:
            return
        one = the_field.judged(record, pattern)
        self.labels[one.label] += 1
        if self.reference is None or self.skip >= 0:
            return
        self.held.append((record.times.uploaded or record.times.received, one))
        if len(self.held) == self.settings.window:
            self.close()

    def close(self) -> None:
        """Compare what is held, if it is enough."""
        if self.reference is not None and len(self.held) >= LEAST:
            times = [at for at, _ in self.held]
            found = compare(self.reference, sample(one for _, one in self.held), self.settings.alarm_rate)
            self.windows.append(Window(start=min(times), end=max(times), results=len(times), comparison=found))
        self.held = []

    def watched(self, readings: Iterable[Reading]) -> Watched:
        """What was found."""
        self.close()
        total = sum(self.labels.values())
        return Watched(
            version=self.version,
            reference=None if self.reference is None else len(self.reference),
            reason=self.reason,
            results=total,
            labels=dict(self.labels),
            unsure=proportion(self.labels["Unsure"], total - self.labels["Refused"]),
            refused=proportion(self.labels["Refused"], total),
            windows=tuple(self.windows),
            feedback=_feedback(list(readings), self.card),
        )


def monitor(settings: Settings, storage: Storage, since: datetime | None = None) -> Monitored:
    """Compare the field since a moment with the references.

    Windows hold `monitor.window` results, counted back from the latest; a field that is shorter than one is one window
    from 50 results on. Raises StorageUnavailable when the store does not answer.
    """
    now = datetime.now(UTC)
    since = since or now - timedelta(days=settings.monitor.days)
    bucket = settings.results_bucket
    pattern = patient_pattern(settings.worklist.patient_pattern)
    names = the_field.names(storage, bucket, since)
    counts = Counter(version for _, version in names)
    readings = the_field.readings(storage, bucket, since)
    # The latest first: what serves now is what a person wants to see.
    latest = list(dict.fromkeys(version for _, version in reversed(names)))
    versions = {version: _open(settings, storage, version, counts[version]) for version in latest}
    found = the_field.records(storage, bucket, [key for key, _ in names])
    for (_, version), record in zip(names, found, strict=True):
        versions[version].take(record, pattern)
    return Monitored(
        at=now,
        since=since,
        window=settings.monitor.window,
        alarm_rate=settings.monitor.alarm_rate,
        models=tuple(one.watched(readings.get(one.version, ())) for one in versions.values()),
    )


def _open(settings: Settings, storage: Storage, version: str, count: int) -> _Version:
    card, sampled, reason = None, None, None
    try:
        card, reference = fetch_reference(storage, settings.models_bucket, f"{settings.model_name}/{version}")
    except PackageError as exc:
        reason = str(exc)
    else:
        sampled = reference and reference.sample()
        if card is None:
            reason = f"The package of version {version} is not in bucket {settings.models_bucket}."
        elif reference is None:
            reason = f"The package of version {version} has no reference: it was trained before monitoring was there."
    window = settings.monitor.window
    skip = count % window if count > window else 0
    return _Version(version, card, sampled, reason, skip, settings.monitor)


def _feedback(readings: list[Reading], card: Card | None) -> Feedback | None:
    told = [(one, _positive(one, card)) for one in readings]
    sick = [positive for one, positive in told if one.verdict == "Pneumonia" and positive is not None]
    well = [positive for one, positive in told if one.verdict == "Normal" and positive is not None]
    if not sick and not well:
        return None
    return Feedback(
        readings=len(sick) + len(well),
        sensitivity=proportion(sum(sick), len(sick)),
        specificity=proportion(len(well) - sum(well), len(well)),
    )


def _positive(reading: Reading, card: Card | None) -> bool | None:
    """Whether the model called it pneumonia; without its card only a label that is sure tells."""
    if card is not None and reading.probability is not None:
        return reading.probability >= card.thresholds.operating
    return {"Pneumonia": True, "Normal": False}.get(reading.label or "")
