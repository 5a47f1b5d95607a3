"""The model in the field: what it says, whether readers agree, whether the world is still the one it learnt from."""

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.panels import Query, bars, dashboard, distribution, lines, number, row

JUDGED = 'lungline_results_total{outcome="judged"}'
READ = 'lungline_read_score_{}{{verdict=~"Normal|Pneumonia"}}'


def model() -> Dashboard:
    """The dashboard "Model"."""
    board = dashboard("lungline-model", "Lungline: Model", "What the model says, and whether it still fits the field.")
    for panel in _facts():
        board = board.with_panel(panel)
    for title, panels in (("Scores and versions", _scores()), ("Readers", _readers()), ("Drift", _drift())):
        board = board.with_row(row(title))
        for panel in panels:
            board = board.with_panel(panel)
    return board


def _facts():
    info = Query("max by (name, version, synthetic) (lungline_model_info)", "{{name}} {{version}}")
    yield number("Serving", "The versions that serve now.", "none", info, 6)
    age = Query("time() - max(lungline_model_created_timestamp_seconds)")
    yield number("Age", "Since the model was trained.", "s", age, 6)
    refused = Query("max(lungline_model_refused)")
    yield number("Package refused", "1: what should serve cannot be loaded.", "none", refused, 6)
    monitored = Query("time() - max(lungline_monitor_timestamp_seconds)")
    yield number("Last look for drift", "Since monitoring looked.", "s", monitored, 6)


def _scores():
    yield distribution(
        "Scores",
        "Calibrated probabilities of pneumonia.",
        Query("sum by (le) (increase(lungline_score_bucket[30m]))", "{{le}}"),
    )
    yield lines(
        "Mean score, by version",
        "Of a canary and the champion, which see the same uploads.",
        "percentunit",
        Query(
            "sum by (model_version) (rate(lungline_score_sum[30m]))"
            " / sum by (model_version) (rate(lungline_score_count[30m]))",
            "version {{model_version}}",
        ),
    )
    yield lines(
        "Shares of labels, by version",
        "Canary against champion: they should agree.",
        "percentunit",
        Query(
            f"sum by (model_version, label) (rate({JUDGED}[30m]))"
            f" / on (model_version) group_left () sum by (model_version) (rate({JUDGED}[30m]))",
            "version {{model_version}}: {{label}}",
        ),
    )
    yield lines(
        "Results a minute, by version",
        "How much a canary is given.",
        "none",
        Query("sum by (model_version) (rate(lungline_results_total[5m])) * 60", "version {{model_version}}"),
    )
    yield lines(
        "Refused and warned",
        "Shares of all results.",
        "percentunit",
        Query(
            'sum(rate(lungline_results_total{outcome="refused"}[30m])) / sum(rate(lungline_results_total[30m]))',
            "refused",
        ),
        Query("sum(rate(lungline_warned_results_total[30m])) / sum(rate(lungline_results_total[30m]))", "warned"),
    )
    yield lines(
        "Images",
        "Median grey level, 0 to 255, and median shorter side in pixels.",
        "none",
        Query("histogram_quantile(0.5, sum by (le) (rate(lungline_image_mean_grey_level_bucket[30m])))", "grey level"),
        Query("histogram_quantile(0.5, sum by (le) (rate(lungline_image_side_pixels_bucket[30m])))", "side"),
    )


def _readers():
    count = READ.format("count")
    yield lines(
        "Calibration in the field",
        "Mean score of X-rays that were read, and the share that readers found pneumonia in: they should agree.",
        "percentunit",
        Query(
            f"sum by (model_version) ({READ.format('sum')}) / sum by (model_version) ({count})",
            "version {{model_version}}: mean score",
        ),
        Query(
            'sum by (model_version) (lungline_read_score_count{verdict="Pneumonia"})'
            f" / sum by (model_version) ({count})",
            "version {{model_version}}: pneumonia",
        ),
    )
    yield bars(
        "Pneumonia among X-rays up to a score",
        "By readers' verdicts: the share rises with the score.",
        "percentunit",
        Query(
            'sum by (le) (lungline_read_score_bucket{verdict="Pneumonia"})'
            f" / (sum by (le) ({READ.format('bucket')}) > 0)",
            "up to {{le}}",
        ),
    )
    yield lines(
        "Sensitivity and specificity in the field",
        "By readers' verdicts, with 95 % intervals, as monitoring found them.",
        "percentunit",
        Query("max by (model_version, bound) (lungline_field_sensitivity)", "{{model_version}} sensitivity, {{bound}}"),
        Query("max by (model_version, bound) (lungline_field_specificity)", "{{model_version}} specificity, {{bound}}"),
    )


def _drift():
    yield lines(
        "Drift alarm",
        "1: the latest window differs from the reference.",
        "none",
        Query("max by (model_version) (lungline_drift_alarm)", "version {{model_version}}"),
    )
    yield lines(
        "How usual the latest window is",
        "By test: near 0 is unusual.",
        "percentunit",
        Query("min by (model_version, test) (lungline_drift_p_value)", "version {{model_version}}: {{test}}"),
    )
    yield bars(
        "What has moved",
        "Distance from the reference, 0 to 1, by statistic of the pictures.",
        "percentunit",
        Query("max by (statistic) (lungline_drift_statistic_distance)", "{{statistic}}"),
    )
