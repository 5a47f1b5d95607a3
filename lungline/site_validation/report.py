"""The page of a site's validation: one self-contained HTML file, with the look of an evaluation's report."""

import html
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungline.evaluation import plots
from lungline.evaluation.page import STYLE, Table, image_html, table_html
from lungline.monitoring.comparison import TESTS, WindowComparison
from lungline.monitoring.reference import Reference
from lungline.site_validation.drift import SiteDrift
from lungline.site_validation.proposal import SiteProposal
from lungline.site_validation.results import risks_of
from lungline.site_validation.share import ShareEstimate
from lungline.site_validation.thresholds import NAMES
from lungline.site_validation.validation import SiteValidation, Validated
from lungline.wording import count

NOTICE = "For research. Not a medical device: whatever the metrics, a reader must check every result."
_METRICS = {
    "auc": "Area under the ROC curve",
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ece": "Expected calibration error (15 bins)",
    "unsure_rate": "Share Unsure",
    "sensitivity_decided": "Sensitivity without Unsure",
    "specificity_decided": "Specificity without Unsure",
}
_METHODS = {
    "given": "given by a person",
    "counted": "counted in the labels",
    "em": "maximum likelihood of the risks (EM)",
    "bbse": "positive answers, corrected by the test split (black-box)",
}


def page(validated: Validated, reference: Reference | None = None) -> str:
    """The validation as HTML."""
    validation = validated.validation
    title = html.escape(f"Site {validation.site}, version {validation.model}")
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>",
        f"<h1>{title}</h1><p class=notice>{NOTICE}</p>",
        "<p class=notice>Trained on drawn phantoms: its metrics say nothing about patients.</p>"
        if validation.synthetic
        else "",
        *(f"<p class=notice>{html.escape(warning)}</p>" for warning in validation.warnings),
        f"<p>{html.escape(summary(validation))}</p>",
        *_shares(validation.shares),
        *(_proposal(validation.proposal, validation) if validation.proposal else ()),
        *_metrics(validation),
        "<h2>Curves</h2><div class=plots>",
        *(image_html(png, text) for text, png in _plots(validated, reference).items()),
        "</div>",
        *(_drift(validation.drift) if validation.drift else ("<h2>Drift</h2><p>The package has no reference.</p>",)),
    ]
    return "\n".join(part for part in parts if part) + "\n"


def summary(validation: SiteValidation) -> str:
    """How many images, and what became of them."""
    labels = ", ".join(f"{number} {label}" for label, number in validation.labels.items())
    kind = "labelled" if validation.labelled else "unlabelled"
    return f"{count(validation.images, f'{kind} image')}: {labels}. {validation.doubted} of them are doubted."


def share_rows(shares: Sequence[ShareEstimate]) -> Table:
    """The estimates of the share, the proposed one first."""
    rows = [
        (_METHODS[share.method], f"{share.value:.1%}", _interval(share.low, share.high, ".1%"), str(share.images or ""))
        for share in shares
    ]
    return ("Method", "Share of positives", "95 % interval", "Images"), rows


def threshold_rows(proposal: SiteProposal) -> Table:
    """Prior and thresholds with their intervals."""
    source = proposal.source
    rows = [("prior", f"{proposal.prior.share:.4f}", _interval(source.low, source.high))]
    for name in NAMES:
        threshold = getattr(proposal.thresholds, name)
        rows.append((name, f"{threshold.value:.4f}", _interval(threshold.low, threshold.high)))
    return ("Proposed", "Value", "95 % interval"), rows


def metric_rows(validation: SiteValidation) -> Table:
    """The metrics with the site's labels."""
    evaluation = validation.evaluation
    rows: list[tuple[str, str, str]] = []
    for name, value in (evaluation.metrics() if evaluation else {}).items():
        interval = evaluation.intervals.get(name) if evaluation else None
        rows.append(
            (_METRICS.get(name, name), f"{value:.4f}", _interval(interval.low, interval.high) if interval else "")
        )
    if calibration := validation.calibration:
        if calibration.ece_proposed is not None:
            rows.append(("Expected calibration error at the proposed prior", f"{calibration.ece_proposed:.4f}", ""))
        rows.append(("Calibration slope and intercept", f"{calibration.scale:.3f}, {calibration.bias:+.3f}", ""))
    return ("Metric", "Value", "95 % interval"), rows


def drift_rows(drift: SiteDrift) -> Table:
    """Every test, against the reference as it is and at the site's share."""
    rows = [
        (name, *_tested(drift.plain, name), *(_tested(drift.at_share, name) if drift.at_share else ("", "", "")))
        for name in TESTS
    ]
    return ("Test", "Distance", "p", "", "Distance at the share", "p", ""), rows


def _tested(comparison: WindowComparison, name: str) -> tuple[str, str, str]:
    test = comparison.tests.get(name)
    return (f"{test.distance:.3f}", f"{test.p:.3f}", "drift" if test.alarm else "") if test else ("", "", "")


def _interval(low: float, high: float, form: str = ".4f") -> str:
    return "" if low == high else f"{low:{form}} to {high:{form}}"


def _shares(shares: Sequence[ShareEstimate]) -> Iterator[str]:
    yield "<h2>Share of positives</h2>"
    yield table_html(share_rows(shares))
    yield (
        "<p>An estimate without labels assumes that the images of each class look as they do in the model's own data. "
        "Counted labels tell the share only if the images came one after the other, not if they were picked by class."
        "</p>"
    )


def _proposal(proposal: SiteProposal, validation: SiteValidation) -> Iterator[str]:
    yield f"<h2>Proposed prior and thresholds</h2><p>{html.escape(proposal.prior.chosen)}</p>"
    yield table_html(threshold_rows(proposal))
    yield f"<p>{html.escape(proposal.thresholds.chosen)}</p>"
    rows = [
        (name, *(str(labels[label]) for label in labels))
        for name, labels in (("now", validation.labels), ("proposed", proposal.labels))
    ]
    yield table_html((("Labels", *validation.labels), rows))
    if proposal.ppv is not None and proposal.npv is not None:
        yield (
            f"<p>At that share, {proposal.ppv:.1%} of the images at or above the operating point are positive, and "
            f"{proposal.npv:.1%} of those below it are not.</p>"
        )


def _metrics(validation: SiteValidation) -> Iterator[str]:
    if validation.evaluation is None:
        return
    yield "<h2>Metrics with the site's labels</h2>"
    yield table_html(metric_rows(validation))


def _drift(drift: SiteDrift) -> Iterator[str]:
    yield "<h2>Drift against the package's reference</h2>"
    yield table_html(drift_rows(drift))
    if drift.at_share:
        yield (
            "<p>On the right, the reference is thinned to the site's share of positives: what still differs is more "
            "than another share.</p>"
        )
    statistics = sorted((drift.at_share or drift.plain).statistics.items(), key=lambda item: -item[1].distance)
    rows = [
        (name, f"{test.reference:.4g}", f"{test.field:.4g}", f"{test.distance:.3f}", f"{test.p:.3f}")
        for name, test in statistics
    ]
    if rows:
        yield table_html((("Image statistic", "Median of the reference", "Median here", "Distance", "p alone"), rows))


def _plots(validated: Validated, reference: Reference | None) -> dict[str, bytes]:
    validation = validated.validation
    risks = risks_of([row for row in validated.results if row.compared.probability is not None])
    before = np.array([risk for risk in (reference.scores if reference else ()) if risk is not None], np.float64)
    title = "Risks here and in the reference" if len(before) else "Risks here"
    drawn = {title: plots.drawn(title, partial(_histogram, risks, before))}
    if validation.evaluation is not None:
        drawn |= plots.report_plots(validation.evaluation, [row.scored for row in validated.results])
    return drawn


def _histogram(risks: NDArray[np.float64], before: NDArray[np.float64], axes: Any) -> None:
    bins = np.linspace(0, 1, 31)
    for values, colour, name in ((before, plots.GREY, "reference"), (risks, plots.POSITIVE, "site")):
        if len(values):
            weights = np.full(len(values), 1 / len(values))
            axes.hist(values, bins=bins, weights=weights, color=colour, alpha=0.6, label=name)
    axes.legend(frameon=False)
    axes.set(xlabel="risk", ylabel="share of images")
