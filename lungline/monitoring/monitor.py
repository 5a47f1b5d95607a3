"""One look at the field: read it, cut it into windows, compare each with the reference of its model version."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice

from lungline.datasets.dataset import patient_in, patient_pattern
from lungline.errors import ObjectGone, PackageError
from lungline.monitoring.comparison import ComparedResult, Sample, compare, sample
from lungline.monitoring.findings import Feedback, ModelFindings, MonitoringFindings, Window, proportion
from lungline.monitoring.reference import fetch_reference
from lungline.package.card import Card
from lungline.results import records as results
from lungline.results.readings import ReadingRecord, stored
from lungline.results.records import ResultRecord
from lungline.settings import MonitorSettings, Settings
from lungline.storage.s3 import Storage

# The latest; a hospital that judges more within the days that monitoring looks back is told of these.
MOST = 20_000
READERS = 8
_PAGE = 200


def record_keys(storage: Storage, bucket: str, since: datetime, most: int = MOST) -> list[tuple[str, str]]:
    """Keys and model versions of the records since a moment, the oldest first."""
    return list(islice(results.keys_since(storage, bucket, since), most))[::-1]


def records(storage: Storage, bucket: str, keys: list[str]) -> Iterator[ResultRecord | None]:
    """The records at keys, in their order; None where there is none any more or the upload was never judged."""

    def read(key: str) -> ResultRecord | None:
        try:
            record = results.load(storage, bucket, key)
        except ObjectGone:  # it was never written, or removed since
            return None
        return record if record.outcome in {"judged", "refused"} else None

    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(keys), _PAGE):
            yield from pool.map(read, keys[start : start + _PAGE])


def judged(record: ResultRecord, pattern: re.Pattern[str] | None) -> ComparedResult:
    """A record as tests compare it; who it is about is compared, and goes nowhere."""
    return ComparedResult(
        record.label or "Refused", record.probability, record.image_statistics, patient_in(record.upload.key, pattern)
    )


def verdicts(storage: Storage, bucket: str, since: datetime) -> tuple[dict[str, list[ReadingRecord]], int]:
    """The last verdict on each upload since a moment, by the model version that the reader saw.

    Also the number of objects among the readings that could not be read: a schema that has drifted must be seen.
    """
    last: dict[tuple[str, str], ReadingRecord] = {}
    unreadable = 0
    for reading in stored(storage, bucket, since):
        if reading is None:
            unreadable += 1
        elif reading.verdict in {"Normal", "Pneumonia"}:
            place = (reading.identity, reading.version)
            if place not in last or last[place].at <= reading.at:
                last[place] = reading
    versions: dict[str, list[ReadingRecord]] = {}
    for reading in last.values():
        versions.setdefault(reading.version, []).append(reading)
    return versions, unreadable


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
    held: list[tuple[datetime, ComparedResult]] = field(default_factory=list[tuple[datetime, ComparedResult]])
    windows: list[Window] = field(default_factory=list[Window])

    def take(self, record: ResultRecord | None, pattern: re.Pattern[str] | None) -> None:
        """Count the next result; a window that is full is compared and let go."""
        self.skip -= 1
        if record is None:
            return
        one = judged(record, pattern)
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

    def watched(self, readings: Iterable[ReadingRecord]) -> ModelFindings:
        """What was found."""
        self.close()
        total = sum(self.labels.values())
        return ModelFindings(
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


def monitor(settings: Settings, storage: Storage, since: datetime | None = None) -> MonitoringFindings:
    """Compare the field since a moment with the references.

    Windows hold `monitor.window` results, counted back from the latest; a field that is shorter than one is one window
    from 50 results on. Raises StorageUnavailable when the store does not answer.
    """
    now = datetime.now(UTC)
    since = since or now - timedelta(days=settings.monitor.lookback_days)
    bucket = settings.results_bucket
    pattern = patient_pattern(settings.worklist.patient_pattern)
    keys = record_keys(storage, bucket, since)
    counts = Counter(version for _, version in keys)
    readings, unreadable = verdicts(storage, bucket, since)
    # The latest first: what serves now is what a person wants to see.
    latest = list(dict.fromkeys(version for _, version in reversed(keys)))
    versions = {version: _open(settings, storage, version, counts[version]) for version in latest}
    found = records(storage, bucket, [key for key, _ in keys])
    for (_, version), record in zip(keys, found, strict=True):
        versions[version].take(record, pattern)
    return MonitoringFindings(
        at=now,
        since=since,
        window=settings.monitor.window,
        alarm_rate=settings.monitor.alarm_rate,
        unreadable_readings=unreadable,
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


def _feedback(readings: list[ReadingRecord], card: Card | None) -> Feedback | None:
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


def _positive(reading: ReadingRecord, card: Card | None) -> bool | None:
    """Whether the model called it pneumonia; without its card only a label that is sure tells."""
    if card is not None and reading.probability is not None:
        return reading.probability >= card.thresholds.operating
    return {"Pneumonia": True, "Normal": False}.get(reading.label or "")
