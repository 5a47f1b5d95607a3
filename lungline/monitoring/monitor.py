"""A monitoring run: read production results, split them into windows, compare each with its model's reference."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice

from lungline import bounds
from lungline.datasets.dataset import patient_in, patient_pattern
from lungline.errors import PackageError
from lungline.monitoring.comparison import ComparedResult, Sample, compare, sample
from lungline.monitoring.findings import Feedback, ModelFindings, MonitoringFindings, Window, proportion
from lungline.monitoring.reference import fetch_reference
from lungline.package.card import Card
from lungline.results import latest_list, record_store
from lungline.results.readings import NOT_USABLE, ReadingRecord, stored
from lungline.results.records import ResultRecord, place_of
from lungline.settings import MonitorSettings, Settings
from lungline.storage.s3 import Storage
from lungline.task.overrides import default_model
from lungline.task.reading import default_task

# The latest results; a hospital with more within the monitored days gets findings on these.
MOST = 20_000
READERS = 8
_PAGE = 200


def record_keys(storage: Storage, bucket: str, since: datetime, most: int = MOST) -> list[tuple[str, str]]:
    """Keys and model versions of the records since a moment, the oldest first."""
    return list(islice(latest_list.keys_since(storage, bucket, since), most))[::-1]


def records(storage: Storage, bucket: str, keys: list[str]) -> Iterator[ResultRecord | None]:
    """The records at keys, in their order; None for one that is gone, set aside, or impossible."""

    def read(key: str) -> ResultRecord | None:
        record = record_store.load_or_none(storage, bucket, key)
        if record is None or record.outcome not in {"judged", "refused"} or record.is_set_aside:
            return None
        written = (record.times.received, record.times.done)
        return record if all(bounds.recorded(time) == time for time in written) else None

    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(keys), _PAGE):
            yield from pool.map(read, keys[start : start + _PAGE])


def compared(record: ResultRecord, pattern: re.Pattern[str] | None) -> ComparedResult:
    """A record as tests compare it; the patient is used for grouping only and is not stored."""
    return ComparedResult(
        record.label or "Refused", record.probability, record.image_statistics, patient_in(record.upload.key, pattern)
    )


def verdicts(storage: Storage, bucket: str, since: datetime) -> tuple[dict[str, list[ReadingRecord]], int]:
    """The last verdict on each upload since a moment, by the model version that the reader saw.

    Also the number of reading records that could not be read, so that a changed schema does not go unnoticed.
    """
    last: dict[tuple[str, str], ReadingRecord] = {}
    unreadable = 0
    for reading in stored(storage, bucket, since):
        if reading is None:
            unreadable += 1
        elif reading.verdict not in (None, NOT_USABLE):
            place = (reading.identity, reading.version)
            if place not in last or last[place].at <= reading.at:
                last[place] = reading
    versions: dict[str, list[ReadingRecord]] = {}
    for reading in last.values():
        versions.setdefault(reading.version, []).append(reading)
    return versions, unreadable


# The last window is compared before it is full, once it holds this many results: to detect strong drift early.
LEAST = 50


@dataclass
class _Version:
    """A model version while results are read; at most one window of its results is in memory."""

    version: str
    card: Card | None
    reference: Sample | None
    reason: str | None
    skip: int
    """Number of results before its first window: windows are counted back from the latest result."""
    settings: MonitorSettings
    labels: Counter[str] = field(default_factory=Counter[str])
    held: list[tuple[datetime, ComparedResult]] = field(default_factory=list[tuple[datetime, ComparedResult]])
    windows: list[Window] = field(default_factory=list[Window])

    def take(self, record: ResultRecord | None, pattern: re.Pattern[str] | None) -> None:
        """Count the next result; a full window is compared and dropped."""
        self.skip -= 1
        if record is None:
            return
        result = compared(record, pattern)
        self.labels[result.label] += 1
        if self.reference is None or self.skip >= 0:
            return
        self.held.append((record.times.uploaded or record.times.received, result))
        if len(self.held) == self.settings.window:
            self.close()

    def close(self) -> None:
        """Compare the results in memory, if there are enough."""
        if self.reference is not None and len(self.held) >= LEAST:
            times = [at for at, _ in self.held]
            window = sample(result for _, result in self.held)
            comparison = compare(self.reference, window, self.settings.alarm_rate)
            self.windows.append(Window(start=min(times), end=max(times), results=len(times), comparison=comparison))
        self.held = []

    def findings(self, readings: Iterable[ReadingRecord]) -> ModelFindings:
        """The findings, after the last window."""
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
    """Compare production results since a moment with the references of their models.

    Windows hold `monitor.window` results, counted back from the latest; fewer results than one window are compared from
    50 on. Raises StorageUnavailable when the store does not respond.
    """
    now = datetime.now(UTC)
    since = since or now - timedelta(days=settings.monitor.lookback_days)
    bucket = settings.results_bucket
    pattern = patient_pattern(settings.worklist.patient_pattern)
    keys = record_keys(storage, bucket, since)
    counts = Counter(version for _, version in keys)
    readings, unreadable = verdicts(storage, bucket, since)
    # The latest first: the version that serves now.
    latest = list(dict.fromkeys(version for _, version in reversed(keys)))
    versions = {version: _open(settings, storage, version, counts[version]) for version in latest}
    loaded = records(storage, bucket, [key for key, _ in keys])
    for (_, version), record in zip(keys, loaded, strict=True):
        versions[version].take(record, pattern)
    return MonitoringFindings(
        at=now,
        since=since,
        window=settings.monitor.window,
        alarm_rate=settings.monitor.alarm_rate,
        unreadable_readings=unreadable,
        models=tuple(version.findings(readings.get(version.version, ())) for version in versions.values()),
    )


def _open(settings: Settings, storage: Storage, version: str, count: int) -> _Version:
    card, sampled, reason = None, None, None
    try:
        place = "/".join(place_of(version, default_model(settings)))
        card, reference = fetch_reference(storage, settings.models_bucket, place)
    except PackageError as exc:
        reason = str(exc)
    else:
        sampled = reference and reference.sample()
        if card is None:
            reason = f"The package of version {version} is not in bucket {settings.models_bucket}."
        elif reference is None:
            reason = f"The package of version {version} has no reference: its release had no monitoring."
    window = settings.monitor.window
    skip = count % window if count > window else 0
    return _Version(version, card, sampled, reason, skip, settings.monitor)


def _feedback(readings: list[ReadingRecord], card: Card | None) -> Feedback | None:
    negative, *positives = (card.task if card else default_task()).labels
    predicted = [(reading.verdict, _positive(reading, card)) for reading in readings]
    sick = [positive for verdict, positive in predicted if verdict in positives and positive is not None]
    well = [positive for verdict, positive in predicted if verdict == negative and positive is not None]
    if not sick and not well:
        return None
    return Feedback(
        readings=len(sick) + len(well),
        sensitivity=proportion(sum(sick), len(sick)),
        specificity=proportion(len(well) - sum(well), len(well)),
    )


def _positive(reading: ReadingRecord, card: Card | None) -> bool | None:
    """Whether the model predicted a positive finding; None if its card is missing and the label is Unsure."""
    if card is not None and reading.probability is not None:
        return reading.probability >= card.thresholds.operating
    negative, *positives = (card.task if card else default_task()).labels
    return dict.fromkeys(positives, True).get(reading.label or "", False if reading.label == negative else None)
