"""The predictor's metrics: label values from closed sets, no patient data."""

import re
from datetime import UTC, datetime, timedelta

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from lungline.results.records import (
    ImageFacts,
    ModelFacts,
    OperatingPoint,
    Outcome,
    ReadFacts,
    ResultLabel,
    ResultRecord,
    Times,
    UploadFacts,
)
from serving import metrics

NOW = datetime.now(UTC)


def record(number: int, outcome: Outcome, label: ResultLabel | None) -> ResultRecord:
    """A record with a patient's name in every free text."""
    secret = f"Doe-Jane-{number}"
    return ResultRecord(
        id=secret,
        outcome=outcome,
        label=label,
        probability=0.5 if outcome == "judged" else None,
        thresholds=OperatingPoint(low=0.2, high=0.8, operating=0.5),
        reason="corrupt" if outcome == "refused" else None,
        message=f"{secret} cannot be read",
        warnings=(f"{secret} is odd",),
        model=ModelFacts(name="pneumonia", version="3", run_id=None, sha256="0" * 64, synthetic=False),
        upload=UploadFacts(
            identity=f"{number:032x}", bucket="b", key=f"{secret}.png", version_id=secret, etag=secret, sequencer=secret
        ),
        read=ReadFacts(etag=secret, version_id=None, size=1000 + number, modified=NOW),
        image=ImageFacts(format="png", width=100 + number, height=2000),
        times=Times(uploaded=NOW - timedelta(seconds=1), received=NOW, done=NOW),
        timings={"fetch": 3.0, "decode": 2.0, "predict": 0.2, "explain": 1.0, secret: 1.0},
    )


def series() -> dict[str, float]:
    families = text_string_to_metric_families(generate_latest().decode())
    ours = [sample for family in families for sample in family.samples if sample.name.startswith(("lungline", "http"))]
    return {f"{sample.name}{sorted(sample.labels.items())}": sample.value for sample in ours}


def test_the_number_of_series_does_not_grow_with_uploads() -> None:
    """A thousand uploads of a thousand patients add none after the first of each kind."""
    kinds: list[tuple[Outcome, ResultLabel | None]] = [("refused", "Refused"), ("gone", None), ("superseded", None)]
    labels: list[ResultLabel] = ["Normal", "Pneumonia", "Unsure"]
    kinds.extend(("judged", label) for label in labels)
    others = set(series())  # of models of tests that ran before in this process
    for number, (outcome, label) in enumerate(kinds):
        assert metrics.count_record(record(number, outcome, label), NOW)
    first = set(series())
    for number in range(1000):
        metrics.count_record(record(number, *kinds[number % len(kinds)]), NOW)
    assert set(series()) == first
    assert len(first - others) < 350


def test_no_patient_data_is_in_the_metrics() -> None:
    metrics.count_record(record(7, "judged", "Unsure"), NOW)
    text = generate_latest().decode()
    assert "Doe" not in text
    assert not re.search(r"\b[0-9a-f]{32}\b", text)  # no identity of an upload, which would tell who was X-rayed


def test_an_upload_delivered_twice_is_counted_once() -> None:
    before = series()
    assert metrics.count_record(record(1, "judged", "Normal"), NOW)
    assert not metrics.count_record(record(1, "judged", "Normal"), NOW + timedelta(seconds=9))
    after = series()
    labels = "[('label', 'Normal'), ('model_version', '3'), ('outcome', 'judged')]"
    assert after[f"lungline_results_total{labels}"] - before.get(f"lungline_results_total{labels}", 0) == 1
    assert after["lungline_duplicates_total[]"] - before["lungline_duplicates_total[]"] == 1


def test_stages_of_an_upload_are_measured_in_seconds() -> None:
    before = series()
    metrics.count_record(record(1, "judged", "Pneumonia"), NOW)
    after = series()

    def seconds(stage: str) -> float:
        name = f"lungline_stage_seconds_sum[('stage', '{stage}')]"
        return after[name] - before[name]

    assert [round(seconds(stage), 4) for stage in ("event", "fetch", "decode", "predict")] == [1, 0.003, 0.002, 0.0002]
    assert seconds("save") >= 0.001
    assert after["lungline_upload_to_result_seconds_sum[]"] - before["lungline_upload_to_result_seconds_sum[]"] >= 1


def test_names_and_units_are_those_of_prometheus() -> None:
    allowed = re.compile(r"(lungline|http)_[a-z_]+")
    for family in text_string_to_metric_families(generate_latest().decode()):
        if family.name.startswith(("lungline", "http")):
            assert allowed.fullmatch(family.name), family.name
            assert family.documentation, family.name
            assert not re.search("millisecond|_ms|_mb|percent", family.name), family.name
