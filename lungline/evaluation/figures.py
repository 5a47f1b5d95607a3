"""The curves of a report, as PNG bytes."""

# matplotlib's types are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungline.metrics import ECE_BINS, Evaluation, Scored

NORMAL, PNEUMONIA, GREY = "#2a7f9e", "#c8502d", "#8a8f98"
RESAMPLES = 200
_GRID = np.linspace(0, 1, 201)

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]


def all_of(evaluation: Evaluation, scored: Sequence[Scored]) -> dict[str, bytes]:
    """ROC, precision-recall, reliability, confusion matrix and histogram, by what they show."""
    judged = [(one.label, one.probability) for one in scored if one.probability is not None]
    labels = np.array([label for label, _ in judged])
    probabilities = np.array([probability for _, probability in judged])
    plots: dict[str, Callable[[Any], None]] = {}
    if len(set(labels.tolist())) == 2:
        plots["ROC curve with 95 % band"] = partial(_roc, evaluation, labels, probabilities)
        plots["Precision-recall curve with 95 % band"] = partial(_precision_recall, labels, probabilities)
    plots["Confusion matrix at the operating point"] = partial(_confusion, evaluation)
    plots["Histogram of risks"] = partial(_histogram, labels, probabilities)
    plots["Reliability diagram"] = partial(_reliability, labels, probabilities)
    return {text: _drawn(text, plot) for text, plot in plots.items()}


def _drawn(title: str, plot: Callable[[Any], None]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 4.2), layout="constrained")  # without pyplot there is no state to clean up
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots()
    axes.set_title(title, fontsize=10)
    plot(axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def roc(labels: Labels, probabilities: Floats) -> Floats:
    """Sensitivity on an even grid of 201 false positive rates from 0 to 1."""
    order = np.argsort(-probabilities, kind="stable")
    last = np.append(np.diff(probabilities[order]) != 0, True)  # ties move together
    hits, misses = np.cumsum(labels[order] == 1)[last], np.cumsum(labels[order] == 0)[last]
    return np.interp(_GRID, np.append(0, misses / misses[-1]), np.append(0, hits / hits[-1]))


def precision(labels: Labels, probabilities: Floats) -> Floats:
    """Precision on an even grid of 201 sensitivities from 0 to 1: the best that reaches at least that sensitivity."""
    order = np.argsort(-probabilities, kind="stable")
    last = np.append(np.diff(probabilities[order]) != 0, True)
    hits, called = np.cumsum(labels[order] == 1)[last], (np.arange(len(labels)) + 1)[last]
    best = np.maximum.accumulate((hits / called)[::-1])[::-1]
    return best[np.searchsorted(hits / hits[-1], _GRID - 1e-12)]


def _band(curve: Callable[[Labels, Floats], Floats], labels: Labels, probabilities: Floats) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(0)
    sides = [np.flatnonzero(labels == label) for label in (0, 1)]
    drawn: list[Floats] = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([rng.choice(side, len(side)) for side in sides])
        drawn.append(curve(labels[rows], probabilities[rows]))
    low, high = np.percentile(np.stack(drawn), [2.5, 97.5], axis=0)
    return low, high


def _roc(evaluation: Evaluation, labels: Labels, probabilities: Floats, axes: Any) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    axes.fill_between(_GRID, *_band(roc, labels, probabilities), color=PNEUMONIA, alpha=0.2, linewidth=0)
    axes.plot(_GRID, roc(labels, probabilities), color=PNEUMONIA)
    if evaluation.specificity is not None and evaluation.sensitivity is not None:
        axes.plot(1 - evaluation.specificity, evaluation.sensitivity, "o", color=NORMAL, label="operating point")
    axes.legend(loc="lower right", frameon=False, title=f"AUC {evaluation.auc:.4f}")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity")


def _precision_recall(labels: Labels, probabilities: Floats, axes: Any) -> None:
    axes.fill_between(_GRID, *_band(precision, labels, probabilities), color=PNEUMONIA, alpha=0.2, linewidth=0)
    axes.plot(_GRID, precision(labels, probabilities), color=PNEUMONIA)
    axes.axhline(float(labels.mean()), color=GREY, linewidth=0.8)
    axes.set(xlabel="sensitivity (recall)", ylabel="precision", ylim=(0, 1.02))


def _reliability(labels: Labels, probabilities: Floats, axes: Any) -> None:
    places = np.minimum((probabilities * ECE_BINS).astype(int), ECE_BINS - 1)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    for place in np.unique(places):
        within = places == place
        size = 12 + 300 * within.mean()
        axes.scatter(probabilities[within].mean(), labels[within].mean(), s=size, color=NORMAL, alpha=0.8)
    axes.set(xlabel="mean risk in a bin", ylabel="share of pneumonia", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))


def _confusion(evaluation: Evaluation, axes: Any) -> None:
    found = evaluation.confusion
    matrix = np.array([[found["tn"], found["fp"]], [found["fn"], found["tp"]]])
    axes.imshow(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1.3)
    for row, column in np.ndindex(matrix.shape):
        axes.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", fontsize=14)
    names = ["normal", "pneumonia"]
    axes.set(xlabel="called", ylabel="true", xticks=[0, 1], yticks=[0, 1], xticklabels=names, yticklabels=names)


def _histogram(labels: Labels, probabilities: Floats, axes: Any) -> None:
    bins = np.linspace(0, 1, 31)
    for label, colour, name in ((0, NORMAL, "normal"), (1, PNEUMONIA, "pneumonia")):
        axes.hist(probabilities[labels == label], bins=bins, color=colour, alpha=0.6, label=name)
    axes.legend(frameon=False)
    axes.set(xlabel="risk", ylabel="pictures", yscale="symlog")
