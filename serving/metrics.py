"""The predictor's own metrics for Prometheus.

Label values come from closed sets (outcomes, labels, stages, reason codes, routes) and the versions that this process
has served, so the number of series is bounded. No label holds anything of a patient or an object.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from lungline.package.package import DOUBTS
from lungline.results.records import REFUSED, SET_ASIDE, ResultRecord
from lungline.results.records import UNSURE as UNSURE_LABEL
from lungline.task.terms import packaged_terms

if TYPE_CHECKING:
    from serving.served_models import ServedModels

REQUESTS = Counter("http_requests_total", "Requests that were answered.", ["method", "route", "code"])
IN_FLIGHT = Gauge("lungline_in_flight", "Requests that are processed now or wait for a thread.")
SECONDS = Histogram(
    "lungline_request_seconds",
    "Seconds from the last byte of a request to its answer.",
    ["route"],
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
)
RESULTS = Counter(
    "lungline_results_total", "Uploads that got a result, each counted once.", ["outcome", "label", "model_version"]
)
DUPLICATES = Counter("lungline_duplicates_total", "Uploads delivered again after they had their result.")
HANDED_ON = Counter("lungline_handed_on_total", "Uploads handed on to the predictor of another task.", ["task"])
REFUSALS = Counter("lungline_refusals_total", "Uploads that were refused, by reason code.", ["reason"])
LAST_RESULT = Gauge("lungline_last_result_timestamp_seconds", "When the last result was saved.")
RESULT_SECONDS = Histogram(
    "lungline_upload_to_result_seconds",
    "Seconds from the moment an upload was stored until its result was saved.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
)
STAGES = ("event", "fetch", "decode", "prepare", "predict", "observe", "explain", "save")
STAGE_SECONDS = Histogram(
    "lungline_stage_seconds",
    "Seconds of each stage of an upload; `event` runs from the store to the predictor.",
    ["stage"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 300),
)
SCORES = Histogram(
    "lungline_score",
    "Calibrated risks: probabilities of anything but the negative finding.",
    ["model_version"],
    buckets=tuple(step / 20 for step in range(1, 21)),
)
IMAGE_BYTES = Histogram(
    "lungline_image_size_bytes", "Sizes of image files.", buckets=tuple(2.0**power for power in range(10, 27, 2))
)
IMAGE_SIDE = Histogram(
    "lungline_image_side_pixels",
    "Shorter sides of images.",
    buckets=(28, 64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096),
)
IMAGE_GREY = Histogram(
    "lungline_image_mean_grey_level",
    "Mean grey levels of images, 0 to 255.",
    buckets=tuple(range(16, 257, 16)),
)
UNSURE = Counter("lungline_unsure_total", "Results labelled Unsure, by reason: a doubt, or the risk alone.", ["reason"])
HEAT_INSIDE = Histogram(
    "lungline_heat_inside_lungs",
    "Share of the heatmap inside the lungs, of results labelled with a finding.",
    buckets=(0.25, 0.5, 0.75, 0.9, 1),
)
WARNINGS = Counter("lungline_warned_results_total", "Results that carry a warning.")

# A series must exist from the first scrape on, as 0: `rate` does not see one that begins at 1 rise.
REASONS = (
    *("bomb", "blank", "corrupt", "empty", "not-an-image", "not-an-xray"),
    *("too-large", "too-many-pixels", "too-small", "truncated", "unsupported-format"),
    *sorted(SET_ASIDE),
)

_stages = {stage: STAGE_SECONDS.labels(stage) for stage in STAGES}
# Bound children, so that a request neither makes nor looks up labels. Versions come one promotion at a time.
request = cache(REQUESTS.labels)
_result = cache(RESULTS.labels)
_refusal = cache(REFUSALS.labels)
_score = cache(SCORES.labels)
_unsure = cache(UNSURE.labels)
BETWEEN = "between-thresholds"
REASONS_UNSURE = (*DOUBTS, BETWEEN, "other")
for _reason in REASONS:
    _refusal(_reason)
for _doubt in REASONS_UNSURE:
    _unsure(_doubt)


def count_record(record: ResultRecord, received: datetime) -> bool:
    """Count a result; False when it had been saved by an earlier delivery."""
    if record.times.received != received:
        DUPLICATES.inc()
        return False
    now = datetime.now(UTC)
    # Images that are set aside become no dead letters, which the alert on these weighs against the refused.
    outcome, label = ("set-aside", "") if record.is_set_aside else (record.outcome, record.label or "")
    _result(outcome, label, record.model.version).inc()
    LAST_RESULT.set(now.timestamp())
    if record.reason:
        _refusal(record.reason).inc()
    if record.warnings:
        WARNINGS.inc()
    if record.label == "Unsure":
        for doubt in record.doubts or (BETWEEN,):
            _unsure(doubt if doubt in REASONS_UNSURE else "other").inc()
    if record.lungs and record.lungs.heat_inside is not None and _is_finding(record):
        HEAT_INSIDE.observe(record.lungs.heat_inside)
    _observe_times(record, now)
    _observe_image(record)
    return True


def _is_finding(record: ResultRecord) -> bool:
    """Whether the label is a finding, and not the one that says that there is none."""
    terms = record.terms or packaged_terms(record.task)
    finding = terms and terms.labelled(record.label)
    return bool(finding and not finding.negative)


def _observe_times(record: ResultRecord, now: datetime) -> None:
    times, timings = record.times, record.timings
    if times.uploaded:
        # The store's clock may be ahead of ours.
        _stages["event"].observe(max(0.0, (times.received - times.uploaded).total_seconds()))
        RESULT_SECONDS.observe(max(0.0, (now - times.uploaded).total_seconds()))
    for stage, milliseconds in timings.items():
        if stage in _stages:
            _stages[stage].observe(milliseconds / 1000)
    _stages["save"].observe(max(0.0, (now - times.done).total_seconds()))


def _observe_image(record: ResultRecord) -> None:
    if record.probability is not None:
        _score(record.model.version).observe(record.probability)
    if record.image:
        IMAGE_SIDE.observe(min(record.image.width, record.image.height))
    if record.read:
        IMAGE_BYTES.observe(record.read.size)
    if record.image_statistics and (mean := record.image_statistics.statistics.get("mean")) is not None:
        IMAGE_GREY.observe(mean)


class ModelCollector(Collector):
    """Metrics of the model, read when Prometheus scrapes."""

    def __init__(self, models: "ServedModels") -> None:
        self._models = models
        REGISTRY.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The model's metrics now."""
        loaders = [loader for _, loader in self._models]
        loaded = [loader for loader in loaders if loader.ready]
        yield GaugeMetricFamily("lungline_model_ready", "Whether a model is loaded and tested.", self._models.ready)
        yield GaugeMetricFamily(
            "lungline_model_refused",
            "Whether a package that should serve is refused, so that an older one or none serves.",
            any(loader.refuses for loader in loaders),
        )
        info = GaugeMetricFamily(
            "lungline_model_info", "The model that serves.", labels=["name", "version", "sha256", "run_id", "synthetic"]
        )
        signed = GaugeMetricFamily(
            "lungline_model_signed", "Whether the packages that serve have a signature of the site."
        )
        created = GaugeMetricFamily("lungline_model_created_timestamp_seconds", "When the model was trained.")
        for loader in loaded:
            diagnoser = loader.current()
            card = diagnoser.package.card
            for label in (*card.task.labels, UNSURE_LABEL):
                _result("judged", label, diagnoser.record_version)
            _result("refused", REFUSED, diagnoser.record_version)
            synthetic = str(card.synthetic).lower()
            info.add_metric(
                [card.name, diagnoser.version, diagnoser.package.sha256, card.mlflow_run_id or "", synthetic], 1
            )
        if loaded:
            signed.add_metric([], all(loader.signed_by is not None for loader in loaded))
            created.add_metric([], min(loader.current().package.card.created.timestamp() for loader in loaded))
        yield info
        yield signed
        yield created
