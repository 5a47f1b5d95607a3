"""The plots of a training run as PNG files: learning curve, the report's curves, and sample predictions."""

# matplotlib's types are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import io
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lungline.datasets.prepared import Prepared
from lungline.diagnosis.diagnoser import Diagnoser
from lungline.evaluation.metrics import ECE_BINS, Evaluation, Scored, weights_for
from lungline.evaluation.scoring import Scores
from lungline.package.package import Package
from lungline.registry.tracking import RunRecord

NEGATIVE, POSITIVE, GREY = "#2a7f9e", "#c8502d", "#8a8f98"
RESAMPLES = 200
_GRID = np.linspace(0, 1, 201)

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]


def report_plots(evaluation: Evaluation, scored: Sequence[Scored]) -> dict[str, bytes]:
    """PNG bytes by title: ROC, precision-recall, confusion matrix, histogram, reliability diagram."""
    predicted = [(case.label, case.probability) for case in scored if case.probability is not None]
    labels = np.array([label for label, _ in predicted])
    probabilities = np.array([probability for _, probability in predicted])
    plots: dict[str, Callable[[Any], None]] = {}
    if len(set(labels.tolist())) == 2:
        plots["ROC curve with 95 % band"] = partial(_roc, evaluation, labels, probabilities)
        plots["Precision-recall curve with 95 % band"] = partial(_precision_recall, labels, probabilities)
    plots["Confusion matrix at the operating point"] = partial(_confusion, evaluation)
    plots["Histogram of risks"] = partial(_histogram, evaluation, labels, probabilities)
    plots["Reliability diagram"] = partial(
        _reliability, evaluation, labels, probabilities, weights_for(labels, evaluation.prior)
    )
    return {text: drawn(text, plot) for text, plot in plots.items()}


def drawn(title: str, plot: Callable[[Any], None]) -> bytes:
    """A plot with its title as PNG bytes; `plot` gets the axes."""
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
    axes.fill_between(_GRID, *_band(roc, labels, probabilities), color=POSITIVE, alpha=0.2, linewidth=0)
    axes.plot(_GRID, roc(labels, probabilities), color=POSITIVE)
    if evaluation.specificity is not None and evaluation.sensitivity is not None:
        axes.plot(1 - evaluation.specificity, evaluation.sensitivity, "o", color=NEGATIVE, label="operating point")
    axes.legend(loc="lower right", frameon=False, title=f"AUC {evaluation.auc:.4f}")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity")


def _precision_recall(labels: Labels, probabilities: Floats, axes: Any) -> None:
    axes.fill_between(_GRID, *_band(precision, labels, probabilities), color=POSITIVE, alpha=0.2, linewidth=0)
    axes.plot(_GRID, precision(labels, probabilities), color=POSITIVE)
    axes.axhline(float(labels.mean()), color=GREY, linewidth=0.8)
    axes.set(xlabel="sensitivity (recall)", ylabel="precision", ylim=(0, 1.02))


def _reliability(evaluation: Evaluation, labels: Labels, probabilities: Floats, weights: Floats, axes: Any) -> None:
    places = np.minimum((probabilities * ECE_BINS).astype(int), ECE_BINS - 1)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    for place in np.unique(places):
        within = places == place
        size = 12 + 300 * weights[within].sum() / weights.sum()
        means = (np.average(values[within], weights=weights[within]) for values in (probabilities, labels))
        axes.scatter(*means, s=size, color=NEGATIVE, alpha=0.8)
    axes.set(
        xlabel="mean risk in a bin", ylabel=f"share of {_names(evaluation)[1]}", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03)
    )


def _confusion(evaluation: Evaluation, axes: Any) -> None:
    counts = evaluation.confusion
    matrix = np.array([[counts["tn"], counts["fp"]], [counts["fn"], counts["tp"]]])
    axes.imshow(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1.3)
    for row, column in np.ndindex(matrix.shape):
        axes.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", fontsize=14)
    names = _names(evaluation)
    axes.set(xlabel="predicted", ylabel="true", xticks=[0, 1], yticks=[0, 1], xticklabels=names, yticklabels=names)


def _names(evaluation: Evaluation) -> tuple[str, str]:
    """What images without and with a positive finding are called on plots."""
    negative, positive = evaluation.classes
    return negative.lower(), positive.lower()


def _histogram(evaluation: Evaluation, labels: Labels, probabilities: Floats, axes: Any) -> None:
    bins = np.linspace(0, 1, 31)
    for label, (colour, name) in enumerate(zip((NEGATIVE, POSITIVE), _names(evaluation), strict=True)):
        axes.hist(probabilities[labels == label], bins=bins, color=colour, alpha=0.6, label=name)
    axes.legend(frameon=False)
    axes.set(xlabel="risk", ylabel="images", yscale="symlog")


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(folder: Path, record: RunRecord, scores: Scores, package: Package, prepared: Prepared) -> None:
    """Write learning_curve, samples, roc, confusion_matrix and the report's other curves into a folder."""
    _save(folder / "learning_curve.png", (7, 4), lambda figure: _learning_curve(figure, record))
    for title, png in report_plots(scores.evaluation, scores.scored).items():
        (folder / f"{_file_name(title)}.png").write_bytes(png)
    _save(folder / "samples.png", (10, 5), lambda figure: _samples(figure, scores, package, prepared))


def _file_name(title: str) -> str:
    """The first words of a title: `Precision-recall curve with 95 % band` is `precision_recall`."""
    return re.split(r" (?:curve|diagram|with|at|of)\b", title)[0].lower().translate(str.maketrans(" -", "__"))


def _save(path: Path, size: tuple[float, float], paint: Callable[["Figure"], None]) -> None:
    # Without pyplot: no window system, no state that a second figure could inherit.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    paint(figure)
    figure.savefig(path, dpi=110)


def _learning_curve(figure: "Figure", record: RunRecord) -> None:
    numbers = [epoch["number"] for epoch in record.epochs]
    left: Any = figure.subplots()
    right: Any = left.twinx()
    left.plot(numbers, [epoch["loss"] for epoch in record.epochs], color=GREY, label="training loss")
    right.plot(numbers, [epoch["val_auc"] for epoch in record.epochs], color=NEGATIVE, label="validation AUC")
    left.set(xlabel="epoch", ylabel="training loss")
    right.set(ylabel="validation AUC")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)


def _samples(figure: "Figure", scores: Scores, package: Package, prepared: Prepared) -> None:
    """The six images of each class farthest from their true label, as network inputs with the heatmap on top."""
    diagnoser = Diagnoser(package)
    error = {case.name: abs(case.probability - case.label) for case in scores.scored if case.probability is not None}
    originals = {row.name: (int(row.label > 0), data) for row, data in prepared.originals("test") if row.name in error}
    axes: Any = figure.subplots(2, 6)
    for label in (0, 1):
        names = sorted((name for name in error if originals[name][0] == label), key=lambda name: -error[name])
        for place, name in zip(axes[label], islice(names, 6), strict=False):
            diagnosis = diagnoser.diagnose(originals[name][1], heatmap=False, statistics=False)
            if diagnosis.image is None or diagnosis.prediction is None:
                continue
            inputs = package.card.preparation.apply(diagnosis.image)
            place.imshow(inputs[..., 0], cmap="gray", extent=(0, 1, 0, 1))
            heat = {"cmap": "inferno", "alpha": 0.35, "vmin": 0, "vmax": 1, "interpolation": "bilinear"}
            place.imshow(diagnosis.prediction.cam, extent=(0, 1, 0, 1), **heat)
            title = f"{diagnosis.probability:.2f} {diagnosis.label}"
            place.set_title(title, fontsize=8, color=(NEGATIVE, POSITIVE)[label])
    for place in axes.ravel():
        place.axis("off")
    above, below = _names(scores.evaluation)
    figure.suptitle(f"Largest errors: {above} above, {below} below; risk and predicted label", fontsize=9)
