"""The dashboard "Reading room": whether X-rays are predicted, how fast, and what waits for a reader."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.panels import Query, bars, dashboard, lines, number, row, shares

LAG = (
    'sum(lungline_consumer_lag_records{topic="xray-uploads"})'
    ' or sum(kafka_consumergroup_lag{consumergroup=~"knative-trigger-lungline-judge.*"})'
)
TO_RESULT = "histogram_quantile({}, sum by (le) (rate(lungline_upload_to_result_seconds_bucket[15m])))"
TO_LIST = "histogram_quantile({}, sum by (le) (rate(lungline_upload_to_worklist_seconds_bucket[15m])))"
UPLOADS = (
    'sum(rate(lungline_uploads_total[5m]) or rate(kafka_topic_partition_current_offset{topic="xray-uploads"}[5m])) * 60'
)


def reading_room() -> Dashboard:
    """The dashboard "Reading room"."""
    board = dashboard(
        "lungline-reading-room",
        "Lungline: Reading room",
        "Results, their speed, and what waits for a reader.",
    )
    now = (
        number(
            "Results per day", "Uploads that got a result.", "none", Query("sum(increase(lungline_results_total[24h]))")
        ),
        number(
            "Last result",
            "Time since the latest result.",
            "s",
            Query("time() - max(lungline_last_result_timestamp_seconds)"),
        ),
        number("Waiting uploads", "Upload events that are not processed.", "none", Query(LAG)),
        number("Unread results", "Results that no reader has seen.", "none", Query("max(lungline_unread_results)")),
        number("Time to result", "Median time from upload to result.", "s", Query(TO_RESULT.format(0.5))),
        number(
            "Open notices",
            "Sent and not acknowledged.",
            "none",
            Query("max(lungline_notices_unacknowledged)"),
        ),
    )
    for panel in now:
        board = board.with_panel(panel)
    board = board.with_row(row("Flow"))
    for panel in _flow():
        board = board.with_panel(panel)
    board = board.with_row(row("Findings"))
    for panel in _findings():
        board = board.with_panel(panel)
    return board


def _flow():
    yield lines(
        "Uploads and results per minute",
        "While there are fewer results than uploads, a backlog builds up.",
        "none",
        Query(UPLOADS, "uploads"),
        Query("sum(rate(lungline_results_total[5m])) * 60", "results"),
    )
    yield lines(
        "From upload to result and worklist",
        "Median, 95th and 99th percentile.",
        "s",
        Query(TO_RESULT.format(0.5), "result, 50 %"),
        Query(TO_RESULT.format(0.95), "result, 95 %"),
        Query(TO_RESULT.format(0.99), "result, 99 %"),
        Query(TO_LIST.format(0.95), "on the worklist, 95 %"),
    )
    yield bars(
        "Time by stage",
        "Mean seconds of each stage of an upload.",
        "s",
        Query(
            "sum by (stage) (rate(lungline_stage_seconds_sum[15m]))"
            " / sum by (stage) (rate(lungline_stage_seconds_count[15m]))",
            "{{stage}}",
        ),
    )


def _findings():
    yield shares(
        "Labels of a day",
        "Share of each label.",
        Query('sum by (label) (increase(lungline_results_total{outcome="judged"}[24h]))', "{{label}}"),
    )
    yield lines(
        "Results per minute by label",
        "Includes refused images.",
        "none",
        Query("sum by (label) (rate(lungline_results_total[5m])) * 60", "{{label}}"),
    )
    yield bars(
        "Refused images per day by reason",
        "The worklist shows each with its reason.",
        "none",
        Query("sum by (reason) (increase(lungline_refusals_total[24h]))", "{{reason}}"),
    )
    yield lines(
        "Readings per hour",
        "By the model's label and the reader's verdict.",
        "none",
        Query("sum by (label, verdict) (increase(lungline_readings_total[1h]))", "{{label}} read as {{verdict}}"),
    )
    yield lines(
        "Notices per hour",
        "By outcome of the attempt.",
        "none",
        Query("sum by (outcome) (increase(lungline_notices_total[1h]))", "{{outcome}}"),
        Query("max(lungline_notices_troubled)", "failing"),
    )
    yield lines("Open worklist pages", "In browsers.", "none", Query("sum(lungline_pages_open)", "pages"))
