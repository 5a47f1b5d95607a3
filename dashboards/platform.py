"""The dashboard "Platform": requests, errors, latency, lag, services, cold starts, resources."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.panels import Query, dashboard, lines, row

LATENCY = 'histogram_quantile({}, sum by (le) (rate(lungline_request_seconds_bucket{{route=~".*:predict"}}[5m])))'
NAMESPACE = 'namespace="lungline"'
CONTAINERS = f'{NAMESPACE}, container!=""'
REVISIONS = f"kn_serving_invocation_duration_seconds_count{{{NAMESPACE}}}"
PREDICTORS = f'{NAMESPACE}, pod=~".+-predictor-.+"'


def platform() -> Dashboard:
    """The dashboard "Platform"."""
    board = dashboard("lungline-platform", "Lungline: Platform", "Requests, events, services and their resources.")
    for title, panels in (
        ("Requests", _requests()),
        ("DICOM gateway", _gateway()),
        ("Events", _events()),
        ("Services", _services()),
        ("Resources", _resources()),
    ):
        board = board.with_row(row(title))
        for panel in panels:
            board = board.with_panel(panel)
    return board


def _requests():
    yield lines(
        "Requests per second",
        "Of the predictor and the worklist, by route and status.",
        "reqps",
        Query("rate(http_requests_total[5m])", "{{job}} {{method}} {{route}} {{code}}"),
    )
    yield lines(
        "Error rate",
        "Share of responses with a status of 500 or more.",
        "percentunit",
        Query(
            '(sum(rate(http_requests_total{code=~"5.."}[5m])) or vector(0)) / sum(rate(http_requests_total[5m]))', "5xx"
        ),
    )
    yield lines(
        "Latency of upload events",
        "Median, 95th and 99th percentile.",
        "s",
        *(Query(LATENCY.format(share), f"{share:.0%}") for share in (0.5, 0.95, 0.99)),
    )
    yield lines(
        "Requests in flight",
        "Processed or waiting.",
        "none",
        Query("sum(lungline_in_flight)", "requests"),
    )
    yield lines(
        "Requests per second by revision",
        "On a cluster as Knative's proxy counts them; on a laptop results by version.",
        "reqps",
        Query(
            f"sum by (serving_knative_dev_revision) (rate({REVISIONS}[5m]))"
            " or sum by (model_version) (rate(lungline_results_total[5m]))",
            "{{serving_knative_dev_revision}}{{model_version}}",
        ),
    )


def _gateway():
    yield lines(
        "Objects per minute",
        "DICOM objects by way and outcome.",
        "none",
        Query("sum by (way, outcome) (rate(lungline_gateway_instances_total[5m])) * 60", "{{way}} {{outcome}}"),
    )
    yield lines(
        "Associations per minute",
        "By how they went; rejected senders keep their X-rays.",
        "none",
        Query("sum by (outcome) (rate(lungline_gateway_associations_total[5m])) * 60", "{{outcome}}"),
    )
    yield lines(
        "Spool",
        "Bytes received and not stored yet, and the room for them.",
        "bytes",
        Query("sum(lungline_gateway_spooled_bytes)", "received"),
        Query("sum(lungline_gateway_spool_limit_bytes)", "room"),
    )


def _events():
    yield lines(
        "Consumer lag",
        "Records of each topic that are not processed.",
        "none",
        Query(
            "sum by (topic) (lungline_consumer_lag_records) or sum by (topic) (kafka_consumergroup_lag)", "{{topic}}"
        ),
    )
    yield lines(
        "Deliveries and retries per minute",
        "Of the laptop's trigger; on a cluster Knative's dispatchers have metrics of their own.",
        "none",
        Query("sum by (route) (rate(lungline_deliveries_total[5m])) * 60", "delivered to {{route}}"),
        Query("sum by (route) (rate(lungline_retries_total[5m])) * 60", "retried for {{route}}"),
    )
    yield lines(
        "Dead letters per hour",
        "Includes refused images.",
        "none",
        Query(
            "sum(increase(lungline_dead_letters_total[1h])"
            ' or increase(kafka_topic_partition_current_offset{topic="xray-dead-letters"}[1h]))',
            "dead letters",
        ),
    )


def _services():
    yield lines(
        "Ready",
        "1 when a service runs and is ready.",
        "none",
        Query(f"min by (part) (lungline_part_ready) or min by (job) (up{{{NAMESPACE}}})", "{{part}}{{job}}"),
    )
    yield lines(
        "Restarts per hour",
        "After a service ended by itself.",
        "none",
        Query(
            "sum by (part) (increase(lungline_part_restarts_total[1h]))"
            f" or sum by (pod) (increase(kube_pod_container_status_restarts_total{{{NAMESPACE}}}[1h]))",
            "{{part}}{{pod}}",
        ),
    )
    yield lines(
        "Cold starts",
        "Time from the start of a predictor until it is ready.",
        "s",
        Query(
            'max by (part) (lungline_part_start_seconds{part="predictor"})'
            f" or max by (pod) (kube_pod_status_ready_time{{{PREDICTORS}}} - kube_pod_created{{{PREDICTORS}}})",
            "{{part}}{{pod}}",
        ),
    )
    yield lines("Ready predictors", "With a model loaded.", "none", Query("sum(lungline_model_ready)", "ready"))


def _resources():
    yield lines(
        "Memory",
        "Resident memory by service.",
        "bytes",
        Query(
            "sum by (part) (lungline_part_resident_memory_bytes)"
            f" or sum by (pod) (container_memory_working_set_bytes{{{CONTAINERS}}})",
            "{{part}}{{pod}}",
        ),
    )
    yield lines(
        "CPU",
        "Cores in use by service.",
        "none",
        Query(
            "sum by (part) (rate(lungline_part_cpu_seconds_total[5m]))"
            f" or sum by (pod) (rate(container_cpu_usage_seconds_total{{{CONTAINERS}}}[5m]))",
            "{{part}}{{pod}}",
        ),
    )
    yield lines(
        "Free disk space",
        "Share of the disk or volume.",
        "percentunit",
        Query(
            "min(lungline_disk_free_bytes / lungline_disk_size_bytes)"
            " or min by (persistentvolumeclaim) (kubelet_volume_stats_available_bytes"
            f"{{{NAMESPACE}}} / kubelet_volume_stats_capacity_bytes{{{NAMESPACE}}})",
            "{{persistentvolumeclaim}}",
        ),
    )
    yield lines(
        "Certificate expiry",
        "Days until a certificate expires.",
        "d",
        Query(
            "min by (certificate) (lungline_certificate_expiry_timestamp_seconds - time()) / 86400"
            f" or min by (name) (certmanager_certificate_expiration_timestamp_seconds{{{NAMESPACE}}} - time()) / 86400",
            "{{certificate}}{{name}}",
        ),
    )
