"""The plots of a training run as PNG files: how it learned, the curves of its report, and sample predictions."""

# matplotlib's types are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lungline.datasets.prepared import Prepared
from lungline.evaluation.figures import GREY, NORMAL, PNEUMONIA, all_of
from lungline.evaluation.scoring import Scores
from lungline.lineage.tracking import Record
from lungline.package import Package

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(folder: Path, record: Record, scores: Scores, package: Package, prepared: Prepared) -> None:
    """Write learning_curve, samples, roc, confusion_matrix and the report's other curves into a folder."""
    _save(folder / "learning_curve.png", (7, 4), lambda figure: _learning_curve(figure, record))
    for title, png in all_of(scores.evaluation, scores.scored).items():
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


def _learning_curve(figure: "Figure", record: Record) -> None:
    numbers = [epoch["number"] for epoch in record.epochs]
    left: Any = figure.subplots()
    right: Any = left.twinx()
    left.plot(numbers, [epoch["loss"] for epoch in record.epochs], color=GREY, label="training loss")
    right.plot(numbers, [epoch["val_auc"] for epoch in record.epochs], color=NORMAL, label="validation AUC")
    left.set(xlabel="epoch", ylabel="training loss")
    right.set(ylabel="validation AUC")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)


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
