"""Prometheus gauges of the last findings: lungline_drift_* and lungline_field_*, read from the results bucket.

Monitoring is a short run that stores its findings in the bucket; the worklist, which runs all the time, exposes them on
its /metrics through `DriftCollector`. Nothing is pushed: lungline_monitor_timestamp_seconds shows a monitor that has
stopped.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from lungline.errors import LunglineError
from lungline.monitoring import findings
from lungline.monitoring.findings import ModelFindings, MonitoringFindings, Proportion
from lungline.storage.s3 import Storage

# Findings change once an hour; Prometheus scrapes every few seconds.
KEPT_SECONDS = 30.0
# The versions with the latest results; no more serve at a time.
MOST_VERSIONS = 5
UNREADABLE = "lungline_readings_unreadable"


class DriftCollector(Collector):
    """Gauges of the last findings, fetched again on a scrape when the cached ones are too old."""

    def __init__(self, storage: Storage, bucket: str) -> None:
        self._storage = storage
        self._bucket = bucket
        self._findings: MonitoringFindings | None = None
        self._until = 0.0

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All gauges; only the age of the findings while there are none."""
        if time.monotonic() >= self._until:
            with contextlib.suppress(LunglineError):  # keep the last ones; the timestamp shows their age
                self._findings = findings.latest(self._storage, self._bucket)
            self._until = time.monotonic() + KEPT_SECONDS
        return families(self._findings)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Names only: registering must not access the store."""
        return families(None)


def families(current: MonitoringFindings | None) -> Iterator[GaugeMetricFamily]:
    """The gauges of some findings."""
    at = current.at.timestamp() if current else 0.0
    yield GaugeMetricFamily("lungline_monitor_timestamp_seconds", "Time of the last monitoring run; 0 for never.", at)
    unreadable = current.unreadable_readings if current else 0
    yield GaugeMetricFamily(UNREADABLE, "Reading records that monitoring could not read.", unreadable)
    for name, text, labels, values in _GAUGES:
        family = GaugeMetricFamily(name, text, labels=("model_version", *labels))
        shown = () if current is None else current.in_service if values is _alarm else current.models
        for model in shown[:MOST_VERSIONS]:
            for keys, value in values(model):
                family.add_metric((model.version, *keys), value)
        yield family


Values = Iterator[tuple[tuple[str, ...], float]]


def _alarm(model: ModelFindings) -> Values:
    if model.windows:
        yield (), float(model.drifted)


def _has_reference(model: ModelFindings) -> Values:
    yield (), float(model.reference is not None)


def _windows(model: ModelFindings) -> Values:
    alarmed = sum(window.alarm for window in model.windows)
    yield ("alarm",), alarmed
    yield ("calm",), len(model.windows) - alarmed


def _p_value(model: ModelFindings) -> Values:
    for window in model.windows[-1:]:
        for name, test in window.comparison.tests.items():
            yield (name,), test.p


def _distance(model: ModelFindings) -> Values:
    for window in model.windows[-1:]:
        for name, test in window.comparison.tests.items():
            yield (name,), test.distance


def _statistic(model: ModelFindings) -> Values:
    for window in model.windows[-1:]:
        for name, statistic in window.comparison.statistics.items():
            yield (name,), statistic.distance


def _share(model: ModelFindings) -> Values:
    for label, count in model.labels.items():
        yield (label,), count / max(1, model.results)


def _readings(model: ModelFindings) -> Values:
    if model.feedback:
        yield (), model.feedback.readings


def _sensitivity(model: ModelFindings) -> Values:
    return _ends(model.feedback and model.feedback.sensitivity)


def _specificity(model: ModelFindings) -> Values:
    return _ends(model.feedback and model.feedback.specificity)


def _ends(share: Proportion | None) -> Values:
    if share:
        yield ("low",), share.low
        yield ("value",), share.value
        yield ("high",), share.high


_GAUGES: tuple[tuple[str, str, tuple[str, ...], Callable[[ModelFindings], Values]], ...] = (
    (
        "lungline_drift_alarm",
        "Whether the latest results of a version in service differ from its reference.",
        (),
        _alarm,
    ),
    ("lungline_drift_reference", "Whether the version's package has a reference to compare with.", (), _has_reference),
    (
        "lungline_drift_windows",
        "Windows of results that were compared, with and without an alarm.",
        ("state",),
        _windows,
    ),
    (
        "lungline_drift_p_value",
        "Chance of such a latest window without drift, by test.",
        ("test",),
        _p_value,
    ),
    (
        "lungline_drift_distance",
        "Distance of the latest window from the reference, 0 to 1, by test.",
        ("test",),
        _distance,
    ),
    ("lungline_drift_statistic_distance", "The same for each image statistic.", ("statistic",), _statistic),
    ("lungline_field_share", "Share of the monitored results, by label.", ("label",), _share),
    ("lungline_field_readings", "X-rays on which a reader gave a finding.", (), _readings),
    (
        "lungline_field_sensitivity",
        "Sensitivity by readers' verdicts, and its 95 % interval.",
        ("bound",),
        _sensitivity,
    ),
    (
        "lungline_field_specificity",
        "Specificity by readers' verdicts, and its 95 % interval.",
        ("bound",),
        _specificity,
    ),
)
