"""The dashboard "Model": predictions, agreement with readers, and drift in production."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.panels import Query, bars, dashboard, distribution, lines, number, row

PREDICTED = 'lungline_results_total{outcome="judged"}'
# By what verdicts say of the findings, not by their words: each task has its own.
READ_SCORE = 'lungline_read_score_{}{{presence=~"present|absent"}}'
WITH_FINDING = 'lungline_read_score_{}{{presence="present"}}'


def model() -> Dashboard:
    """The dashboard "Model"."""
    board = dashboard("lungline-model", "Lungline: Model", "Predictions, and whether the model still fits the data.")
    for panel in _facts():
        board = board.with_panel(panel)
    for title, panels in (("Scores and versions", _scores()), ("Readers", _readers()), ("Drift", _drift())):
        board = board.with_row(row(title))
        for panel in panels:
            board = board.with_panel(panel)
    return board


def _facts():
    info = Query("max by (name, version, synthetic) (lungline_model_info)", "{{name}} {{version}}")
    yield number("Versions", "Model versions that serve now.", "none", info, 6)
    age = Query("time() - max(lungline_model_created_timestamp_seconds)")
    yield number("Model age", "Time since the model was trained.", "s", age, 6)
    refused = Query("max(lungline_model_refused)")
    yield number("Package refused", "1 when the promoted package cannot be loaded.", "none", refused, 6)
    monitored = Query("time() - max(lungline_monitor_timestamp_seconds)")
    yield number("Last drift check", "Time since monitoring last ran.", "s", monitored, 6)


def _scores():
    yield distribution(
        "Score distribution",
        "Calibrated risks: probabilities that anything is there that the task looks for.",
        Query("sum by (le) (increase(lungline_score_bucket[30m]))", "{{le}}"),
    )
    yield lines(
        "Mean score by version",
        "A canary and the champion see the same kind of uploads and should agree.",
        "percentunit",
        Query(
            "sum by (model_version) (rate(lungline_score_sum[30m]))"
            " / sum by (model_version) (rate(lungline_score_count[30m]))",
            "version {{model_version}}",
        ),
    )
    yield lines(
        "Label shares by version",
        "A canary and the champion should agree.",
        "percentunit",
        Query(
            f"sum by (model_version, label) (rate({PREDICTED}[30m]))"
            f" / on (model_version) group_left () sum by (model_version) (rate({PREDICTED}[30m]))",
            "version {{model_version}}: {{label}}",
        ),
    )
    yield lines(
        "Results per minute by version",
        "Shows the share of uploads that a canary gets.",
        "none",
        Query("sum by (model_version) (rate(lungline_results_total[5m])) * 60", "version {{model_version}}"),
    )
    yield lines(
        "Refused images and warnings",
        "Share of all results.",
        "percentunit",
        Query(
            'sum(rate(lungline_results_total{outcome="refused"}[30m])) / sum(rate(lungline_results_total[30m]))',
            "refused",
        ),
        Query("sum(rate(lungline_warned_results_total[30m])) / sum(rate(lungline_results_total[30m]))", "warnings"),
    )
    yield lines(
        "Image properties",
        "Median grey level, 0 to 255, and median shorter side in pixels.",
        "none",
        Query("histogram_quantile(0.5, sum by (le) (rate(lungline_image_mean_grey_level_bucket[30m])))", "grey level"),
        Query("histogram_quantile(0.5, sum by (le) (rate(lungline_image_side_pixels_bucket[30m])))", "shorter side"),
    )


def _readers():
    count = READ_SCORE.format("count")
    yield lines(
        "Calibration in production",
        "Mean score of read X-rays, and the share in which readers see a finding: the two should agree.",
        "percentunit",
        Query(
            f"sum by (model_version) ({READ_SCORE.format('sum')}) / sum by (model_version) ({count})",
            "version {{model_version}}: mean score",
        ),
        Query(
            f"sum by (model_version) ({WITH_FINDING.format('count')}) / sum by (model_version) ({count})",
            "version {{model_version}}: with a finding",
        ),
    )
    yield bars(
        "Share with a finding up to a score",
        "By readers' verdicts; the share should rise with the score.",
        "percentunit",
        Query(
            f"sum by (model_version, le) ({WITH_FINDING.format('bucket')})"
            f" / (sum by (model_version, le) ({READ_SCORE.format('bucket')}) > 0)",
            "version {{model_version}}: up to {{le}}",
        ),
    )
    yield lines(
        "Sensitivity and specificity in production",
        "By readers' verdicts, with 95 % intervals, from the last monitoring run.",
        "percentunit",
        Query("max by (model_version, bound) (lungline_field_sensitivity)", "{{model_version}} sensitivity, {{bound}}"),
        Query("max by (model_version, bound) (lungline_field_specificity)", "{{model_version}} specificity, {{bound}}"),
    )


def _drift():
    yield lines(
        "Drift alarm",
        "1 when the latest window differs from the reference.",
        "none",
        Query("max by (model_version) (lungline_drift_alarm)", "version {{model_version}}"),
    )
    yield lines(
        "p-value of the latest window",
        "By test; values near 0 mean drift.",
        "percentunit",
        Query("min by (model_version, test) (lungline_drift_p_value)", "version {{model_version}}: {{test}}"),
    )
    yield bars(
        "Drift by image statistic",
        "Distance from the reference, 0 to 1.",
        "percentunit",
        Query("max by (statistic) (lungline_drift_statistic_distance)", "{{statistic}}"),
    )
