"""The alerts, minute by minute, as Prometheus' own promtool evaluates them; and that each can be looked up."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from laptop.services.prometheus import rules
from tests.support.prometheus_server import program

ROOT = Path(__file__).parent.parent
PREDICT = 'route="/v1/models/pneumonia:predict"'
DAY = 86400
GATEWAY = "lungline_gateway_"


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for group in yaml.safe_load(rules())["groups"] for rule in group["rules"]}


def results(values: str, label: str = "Normal", outcome: str = "judged") -> tuple[str, str]:
    return f'lungline_results_total{{label="{label}", model_version="1", outcome="{outcome}"}}', values


LAG = 'lungline_consumer_lag_records{topic="xray-uploads"}'
CLUSTER_LAG = 'kafka_consumergroup_lag{consumergroup="knative-trigger-lungline-judge"}'
LETTERS = 'lungline_dead_letters_total{route="predictor"}'
CLUSTER_LETTERS = 'kafka_topic_partition_current_offset{topic="xray-dead-letters"}'
KNATIVE = 'kn_serving_invocation_duration_seconds_count{{http_response_status_code="{}", namespace="lungline"}}'
PODS = 'kube_pod_status_ready{{condition="true", namespace="lungline", pod="{}-predictor-00001-deployment-x"}}'
CERTIFICATE = "certmanager_certificate_expiration_timestamp_seconds"
VOLUME = 'kubelet_volume_stats_{}_bytes{{namespace="lungline", persistentvolumeclaim="data"}}'
SHOWN = ('lungline_worklist_results_total{label="Normal"}', "0+5x400")
# Name, what is scraped each minute, the minute, whether the alert fires then. Times begin at 0 = 1970.
CASES: list[tuple[str, list[tuple[str, str]], int, bool]] = [
    ("UploadsWithoutResults", [(LAG, "3x60"), results("0+5x5 25x60")], 14, False),
    ("UploadsWithoutResults", [(LAG, "3x60"), results("0+5x5 25x60")], 30, True),
    ("UploadsWithoutResults", [(CLUSTER_LAG, "3x60")], 12, True),
    ("UploadsWithoutResults", [(CLUSTER_LAG, "3x60"), results("0+1x60")], 30, False),
    ("UploadsWithoutResults", [(LAG, "0x60"), results("5x60")], 30, False),
    ("UploadsPileUp", [(LAG, "501x60")], 12, True),
    ("UploadsPileUp", [(CLUSTER_LAG, "0+100x5 0x60")], 30, False),
    ("DeadLetters", [(LETTERS, "0x10 1x30")], 12, True),
    ("DeadLetters", [(CLUSTER_LETTERS, "100x10 102x30")], 12, True),
    ("DeadLetters", [(LETTERS, "0+10x60"), results("0+10x60", "Refused", "refused")], 30, False),
    ("DeadLetters", [(LETTERS, "5x60")], 30, False),
    ("ResultsNotShown", [results("0+5x400"), SHOWN], 60, False),
    ("ResultsNotShown", [results("0+5x400"), (SHOWN[0], "0x400")], 60, True),
    (
        "NoticesFail",
        [('lungline_notices_total{outcome="failed"}', "0+1x60"), ("lungline_notices_troubled", "1x60")],
        9,
        True,
    ),
    (
        "NoticesFail",
        [('lungline_notices_total{outcome="failed"}', "0+1x60"), ("lungline_notices_troubled", "0x60")],
        9,
        False,
    ),
    ("DeliveriesFail", [('lungline_result_deliveries{destination="pacs",state="failed"}', "0x10 1x30")], 20, True),
    ("DeliveriesFail", [('lungline_result_delivery_wait_seconds{destination="pacs"}', "0+60x40")], 30, True),
    (
        "DeliveriesFail",
        [
            ('lungline_result_deliveries{destination="pacs",state="failed"}', "0x60"),
            ('lungline_result_deliveries{destination="pacs",state="waiting"}', "9x60"),
            ('lungline_result_delivery_wait_seconds{destination="pacs"}', "5x60"),
        ],
        40,
        False,
    ),
    ("SendersRejected", [(f'{GATEWAY}associations_total{{outcome="rejected"}}', "0+1x60")], 15, True),
    ("SendersRejected", [(f'{GATEWAY}associations_total{{outcome="unproved"}}', "0+1x60")], 15, True),
    ("SendersRejected", [(f'{GATEWAY}associations_total{{outcome="rejected"}}', "0x10 1x30")], 15, False),
    ("SendersRejected", [(f'{GATEWAY}associations_total{{outcome="accepted"}}', "0+9x60")], 15, False),
    (
        "ObjectsRefused",
        [(f'{GATEWAY}instances_total{{outcome="out-of-resources", way="dimse"}}', "0x10 1x30")],
        13,
        True,
    ),
    ("ObjectsRefused", [(f'{GATEWAY}instances_total{{outcome="repeated", way="dimse"}}', "0+9x60")], 13, False),
    (
        "ObjectsRefused",
        [(f'{GATEWAY}instances_total{{outcome="class-not-supported", way="dimse"}}', "0+9x60")],
        13,
        False,
    ),
    ("SpoolFills", [(f"{GATEWAY}spooled_bytes", "90x60"), (f"{GATEWAY}spool_limit_bytes", "100x60")], 5, True),
    ("SpoolFills", [(f"{GATEWAY}spooled_bytes", "20x60"), (f"{GATEWAY}spool_limit_bytes", "100x60")], 5, False),
    ("PredictorNotReady", [("lungline_model_ready", "0x60")], 6, True),
    (
        "PredictorNotReady",
        [("lungline_model_ready", "1x60"), ('lungline_part_ready{part="predictor"}', "0x60")],
        6,
        True,
    ),
    (
        "PredictorNotReady",
        [("lungline_model_ready", "1x60"), ('lungline_part_ready{part="predictor"}', "1x60")],
        6,
        False,
    ),
    ("PredictorNotReady", [(PODS.format("pneumonia"), "1x60"), (PODS.format("rib-fracture"), "0x60")], 6, True),
    ("PredictorNotReady", [(PODS.format("pneumonia"), "1x60"), (PODS.format("rib-fracture"), "1x60")], 6, False),
    ("UploadsPileUp", [(CLUSTER_LAG.replace("judge", "judge-rib-fracture"), "501x60")], 12, True),
    ("PredictorFails", [(KNATIVE.format(503), "0+6x60"), (KNATIVE.format(200), "0+60x60")], 12, True),
    ("PredictorFails", [(KNATIVE.format(503), "0+1x60"), (KNATIVE.format(200), "0+60x60")], 12, False),
    (
        "PredictorFails",
        [
            (f'http_requests_total{{code="503", {PREDICT}}}', "0+6x60"),
            (f'http_requests_total{{code="200", {PREDICT}}}', "0+60x60"),
        ],
        12,
        True,
    ),
    (
        "PredictorSlow",
        [
            (f'lungline_request_seconds_bucket{{le="2.5", {PREDICT}}}', "0+90x60"),
            (f'lungline_request_seconds_bucket{{le="10", {PREDICT}}}', "0+100x60"),
            (f'lungline_request_seconds_bucket{{le="+Inf", {PREDICT}}}', "0+100x60"),
        ],
        20,
        True,
    ),
    (
        "PredictorSlow",
        [
            (f'lungline_request_seconds_bucket{{le="2.5", {PREDICT}}}', "0+100x60"),
            (f'lungline_request_seconds_bucket{{le="+Inf", {PREDICT}}}', "0+100x60"),
        ],
        20,
        False,
    ),
    ("ModelRefused", [("lungline_model_refused", "1x60")], 3, True),
    ("ModelRefused", [("lungline_model_refused", "1 0x60")], 3, False),
    ("ChampionStale", [("lungline_model_created_timestamp_seconds", f"{-181 * DAY}x90")], 70, True),
    ("ChampionStale", [("lungline_model_created_timestamp_seconds", f"{-100 * DAY}x90")], 70, False),
    ("Drift", [('lungline_drift_alarm{model_version="1"}', "0x5 1x60")], 6, True),
    ("Drift", [('lungline_drift_alarm{model_version="1"}', "0x60")], 6, False),
    ("DriftNotWatched", [("lungline_monitor_timestamp_seconds", "1x60")], 51 * 60, True),
    ("DriftNotWatched", [("lungline_monitor_timestamp_seconds", "0x60")], 51 * 60, False),
    ("UnsureRate", [results("0+5x60", "Unsure"), results("0+5x60")], 40, True),
    ("UnsureRate", [results("0+1x60", "Unsure"), results("0+9x60")], 40, False),
    ("UnsureRate", [results("0x50 10x10", "Unsure"), results("0x60")], 58, False),
    ("PartRestarts", [('lungline_part_restarts_total{part="trigger"}', "0+1x60")], 15, True),
    ("PartRestarts", [('lungline_part_restarts_total{part="trigger"}', "0x10 1x60")], 15, False),
    (
        "CertificateExpires",
        [('lungline_certificate_expiry_timestamp_seconds{certificate="store"}', f"{10 * DAY}x90")],
        70,
        True,
    ),
    ("CertificateExpires", [(f'{CERTIFICATE}{{namespace="lungline", name="tls"}}', f"{60 * DAY}x90")], 70, False),
    ("DiskFull", [("lungline_disk_free_bytes", "5x60"), ("lungline_disk_size_bytes", "100x60")], 12, True),
    ("DiskFull", [(VOLUME.format("available"), "5x60"), (VOLUME.format("capacity"), "100x60")], 12, True),
    ("DiskFull", [("lungline_disk_free_bytes", "50x60"), ("lungline_disk_size_bytes", "100x60")], 12, False),
]


def test_every_alert_is_tried_both_ways() -> None:
    for fires in (True, False):
        assert {name for name, _, _, wanted in CASES if wanted is fires} == set(alerts())


@pytest.mark.parametrize("step", ["1m", "1h"])
def test_alerts_fire_when_they_must_and_only_then(step: str, tmp_path: Path) -> None:
    promtool = program("promtool")
    (tmp_path / "rules.yml").write_text(rules())
    tests = [
        {
            "name": f"{name} at {minute}: {fires}",
            "interval": step,
            "input_series": [{"series": series, "values": values} for series, values in scraped],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}})',
                    "eval_time": f"{minute}m",
                    "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                }
            ],
        }
        for name, scraped, minute, fires in CASES
        if (minute > 400) == (step == "1h")  # days, minute by minute, would take minutes
    ]
    # JSON is YAML.
    file = {"rule_files": ["rules.yml"], "evaluation_interval": step, "tests": tests}
    (tmp_path / "tests.yml").write_text(json.dumps(file))
    command = [promtool, "test", "rules", "tests.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(rules())
    command = [program("promtool"), "check", "rules", "--lint=all", "--lint-fatal", tmp_path / "rules.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", alerts())
def test_the_runbook_has_cause_check_and_cure_of_alerts(name: str) -> None:
    text = (ROOT / "docs/operations.md").read_text()
    section = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"docs/operations.md has no heading {name}"
    for part in ("**Cause.**", "**Check.**", "**Cure.**"):
        assert part in section[1], f"{name}: {part}"
    rule = alerts()[name]
    assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{name.lower()}"
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["labels"]["severity"] in {"warning", "critical"}
