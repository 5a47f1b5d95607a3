"""Monitors and alerts agree with the code."""

import re

from tests.support.manifests_of import (
    NAMESPACE,
    ROOT,
    every_overlay,
    named,
    of_kind,
    text_of,
)


@every_overlay
def test_monitors_scrape_existing_ports_every_15_seconds(overlay: str) -> None:
    # Ports of Knative's proxy and of Strimzi's containers, which are theirs to name.
    ports = {"http-usermetric", "tcp-prometheus"}
    ports |= {port["name"] for service in of_kind(overlay, "Service") for port in service["spec"]["ports"]}
    ports |= {
        port["name"]
        for deployment in of_kind(overlay, "Deployment")
        for container in deployment["spec"]["template"]["spec"]["containers"]
        for port in container.get("ports", [])
    }
    for monitor in of_kind(overlay, "ServiceMonitor", "PodMonitor"):
        for endpoint in monitor["spec"].get("endpoints", []) + monitor["spec"].get("podMetricsEndpoints", []):
            assert endpoint["interval"] == "15s"
            assert endpoint.get("portNumber") == 8080 or endpoint["port"] in ports


@every_overlay
def test_alerts_and_dashboards_use_metrics_of_the_code(overlay: str) -> None:
    source = "\n".join(
        path.read_text()
        for folder in ("serving", "gateway", "worklist", "lungline", "eventing", "laptop")
        for path in (ROOT / folder).rglob("*.py")
    )
    rendered = text_of(f"overlays/{overlay}")
    names = set(re.findall(r"\blungline_[a-z_]+(?=[\[{)])", rendered))
    assert len(names) > 30
    for name in names:
        # A client adds these endings itself.
        assert any(f'"{re.sub(ending, "", name)}"' in source for ending in ("$", "_(bucket|count|sum)$", "_total$")), (
            name
        )
    # As patterns, because each further task has a trigger of its own.
    groups = set(re.findall(r'consumergroup=~\\?"([a-z-.*]+)', rendered))
    (pattern,) = groups
    judges = [t for t in (*named(overlay, "Trigger"), "judge-rib-fracture") if t.startswith("judge")]
    assert len(judges) == 2
    assert all(re.fullmatch(pattern, f"knative-trigger-{NAMESPACE}-{trigger}") for trigger in judges)
    assert not re.fullmatch(pattern, f"knative-trigger-{NAMESPACE}-show")


@every_overlay
def test_every_alert_has_summary_runbook_and_severity(overlay: str) -> None:
    for rule in of_kind(overlay, "PrometheusRule"):
        for group in rule["spec"]["groups"]:
            for alert in group["rules"]:
                assert {"summary", "runbook"} <= set(alert["annotations"]), alert["alert"]
                assert alert["labels"]["severity"] in {"warning", "critical"}
