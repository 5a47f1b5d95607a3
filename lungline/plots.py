"""Plots of a training run, as PNG files in the colours of one house."""

# matplotlib's types are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import base64
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lungline.package import Package
from lungline.prepared import Prepared
from lungline.scoring import Scores
from lungline.tracking import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NORMAL, PNEUMONIA, GREY = "#2a7f9e", "#c8502d", "#8a8f98"


def draw(folder: Path, record: Record, scores: Scores, package: Package, prepared: Prepared) -> None:
    """Write learning_curve, roc, confusion_matrix and samples as PNG files into a folder."""
    _save(folder / "learning_curve.png", (7, 4), lambda figure: _learning_curve(figure, record))
    _save(folder / "roc.png", (4.5, 4.5), lambda figure: _roc(figure, scores))
    _save(folder / "confusion_matrix.png", (4.5, 4), lambda figure: _confusion_matrix(figure, scores))
    _save(folder / "samples.png", (10, 5), lambda figure: _samples(figure, scores, package, prepared))


def page(folder: Path, scores: Scores) -> str:
    """One HTML page with the figures and the plots of a folder, which needs no other file."""
    rows = "".join(
        f"<tr><td>{name}</td><td>{value:.4f}</td></tr>" for name, value in scores.evaluation.figures().items()
    )
    images = "".join(
        f'<p><img alt="{path.stem}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"></p>'
        for path in sorted(folder.glob("*.png"))
    )
    heading = f"Test split, {scores.evaluation.n} pictures"
    return (
        f'<!doctype html><meta charset="utf-8"><title>{heading}</title><h1>{heading}</h1><table>{rows}</table>{images}'
    )


def _save(path: Path, size: tuple[float, float], paint: Callable[["Figure"], None]) -> None:
    # Without pyplot: no window system, no state that a second figure could inherit.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    paint(figure)
    figure.savefig(path, dpi=110)


def _learning_curve(figure: "Figure", record: Record) -> None:
    numbers = [epoch["number"] for epoch in record.epochs]
    left: Any = figure.subplots()
    right: Any = left.twinx()
    left.plot(numbers, [epoch["loss"] for epoch in record.epochs], color=GREY, label="training loss")
    right.plot(numbers, [epoch["val_auc"] for epoch in record.epochs], color=NORMAL, label="validation AUC")
    left.set(xlabel="epoch", ylabel="training loss")
    right.set(ylabel="validation AUC")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)


def _roc(figure: "Figure", scores: Scores) -> None:
    false, true, _ = scores.roc()
    axes: Any = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    axes.plot(false, true, color=PNEUMONIA)
    at = scores.evaluation
    if at.specificity is not None and at.sensitivity is not None:
        axes.plot(1 - at.specificity, at.sensitivity, "o", color=NORMAL, label=f"operating point {at.operating:.2f}")
        axes.legend(loc="lower right", frameon=False)
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", title=f"AUC {at.auc or float('nan'):.4f}", aspect="equal")


def _confusion_matrix(figure: "Figure", scores: Scores) -> None:
    names, counts = scores.confusion_matrix()
    axes: Any = figure.subplots()
    matrix = np.array(counts)
    axes.imshow(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1.3)
    for row, column in np.ndindex(matrix.shape):
        axes.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", fontsize=14)
    axes.set(xlabel="called", ylabel="true", xticks=[0, 1], yticks=[0, 1], xticklabels=names, yticklabels=names)


def _samples(figure: "Figure", scores: Scores, package: Package, prepared: Prepared) -> None:
    """Six pictures of each class as the network sees them, the least certain first, with where it looked."""
    preparation = package.card.preparation
    doubt = {one.name: abs((one.probability or 0) - one.label) for one in scores.scored if one.probability is not None}
    originals = {row.name: (row.label, data) for row, data in prepared.originals("test") if row.name in doubt}
    axes: Any = figure.subplots(2, 6)
    for label in (0, 1):
        names = sorted((name for name in doubt if originals[name][0] == label), key=lambda name: -doubt[name])
        for place, name in zip(axes[label], islice(names, 6), strict=False):
            inputs = preparation.apply(preparation.decode(originals[name][1]))
            (found,) = package.predict(inputs[np.newaxis])
            place.imshow(inputs[..., 0], cmap="gray", extent=(0, 1, 0, 1))
            heat = {"cmap": "inferno", "alpha": 0.35, "vmin": 0, "vmax": 1, "interpolation": "bilinear"}
            place.imshow(found.cam, extent=(0, 1, 0, 1), **heat)
            place.set_title(f"{found.probability:.2f} {found.label}", fontsize=8, color=(NORMAL, PNEUMONIA)[label])
    for place in axes.ravel():
        place.axis("off")
    figure.suptitle("Farthest from the truth: normal above, pneumonia below; the risk and the label given", fontsize=9)
