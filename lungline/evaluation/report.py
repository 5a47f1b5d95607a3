"""What is said of a model once it is measured: one self-contained HTML page, and a model card in Markdown."""

import base64
import html
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image

from lungline.errors import ImageRefused
from lungline.evaluation import plots
from lungline.evaluation.metrics import Evaluation, Scored, summarise
from lungline.evaluation.robustness import Robustness
from lungline.imaging.preparation import heatmap_png
from lungline.package.card import Card
from lungline.package.package import Package

NOTICE = "For research. Not a medical device: no figure here makes it safe to rely on without a reader."
WORST = 12
_NAMES = {
    "auc": "Area under the ROC curve",
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ece": "Expected calibration error (15 bins)",
    "unsure_rate": "Share Unsure",
    "sensitivity_decided": "Sensitivity outside the Unsure band",
    "specificity_decided": "Specificity outside the Unsure band",
}


def write_report(
    folder: Path,
    package: Package,
    evaluation: Evaluation,
    scored: Sequence[Scored],
    *,
    robustness: Robustness | None = None,
    pictures: Iterable[bytes] = (),
) -> Path:
    """Write report.html and model_card.md into a folder; returns the page.

    `pictures` are the files of `scored` in the same order, for the worst errors; without them these are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    worst = list(_worst_pictures(package, scored, pictures))
    page.write_text(_page(package.card, evaluation, scored, robustness, worst), encoding="utf-8")
    (folder / "model_card.md").write_text(model_card(package.card, evaluation, scored, robustness), encoding="utf-8")
    return page


def slices(scored: Sequence[Scored], card: Card) -> dict[str, Evaluation]:
    """Figures of parts of the cases: each kind of picture, and the smaller and the larger half by shortest side."""
    parts: dict[str, list[Scored]] = {}
    for one in scored:
        if one.probability is not None:
            parts.setdefault(one.kind, []).append(one)
    sides = sorted(one.side for one in scored if one.probability is not None)
    middle = sides[len(sides) // 2] if sides else 0
    if sides and sides[0] < middle:
        judged = [one for one in scored if one.probability is not None]
        parts[f"shortest side under {middle} px"] = [one for one in judged if one.side < middle]
        parts[f"shortest side from {middle} px"] = [one for one in judged if one.side >= middle]
    return {name: summarise(part, card.thresholds) for name, part in parts.items()}


def model_card(
    card: Card, evaluation: Evaluation, scored: Sequence[Scored] = (), robustness: Robustness | None = None
) -> str:
    """The model card in Markdown, from the same numbers as the page."""
    lines = [f"# {card.name} {card.version or '(not registered)'}", "", NOTICE, ""]
    if card.synthetic:
        lines += ["**Trained on drawn phantoms, not on X-rays: its figures say nothing about patients.**", ""]
    for title, facts in _facts(card).items():
        lines += [f"## {title}", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    lines += ["## Figures", "", _counts(evaluation), "", *_markdown(_figure_rows(evaluation)), ""]
    if scored:
        lines += ["## Slices", "", *_markdown(_slice_rows(slices(scored, card))), ""]
    if robustness:
        lines += ["## Robustness", "", *_markdown(_robustness_rows(robustness)), ""]
    return "\n".join(lines)


def _facts(card: Card) -> dict[str, dict[str, object]]:
    preparation, thresholds, calibration = card.preparation, card.thresholds, card.calibration
    counts = ", ".join(f"{split} {count}" for split, count in card.data.counts.items())
    commit = f"{card.code.commit or 'unknown'}{' with changes' if card.code.dirty else ''}"
    return {
        "Use": {
            "Meant for": "ordering a worklist and a second look in research, on frontal chest X-rays of children",
            "Not meant for": "diagnosis, adults, other projections, findings other than pneumonia",
            "Input": f"{preparation.size} x {preparation.size} grey, {preparation.geometry}, "
            f"normalisation {preparation.normalisation}",
        },
        "Labels": {
            "Normal below": f"{thresholds.low:.4f}",
            "Pneumonia from": f"{thresholds.high:.4f}",
            "Operating point": f"{thresholds.operating:.4f}",
            "How chosen": thresholds.chosen,
            "Calibration": f"{calibration.kind}, scale {calibration.scale:.3f}, bias {calibration.bias:.3f}",
            "Chest check": card.chest.chosen if card.chest else "none",
        },
        "Origin": {
            "Data": f"{card.data.name}, digest {card.data.digest[:12]}, images: {counts or 'unknown'}",
            "Code": f"{card.code.version}, commit {commit}",
            "Seed": card.seed,
            "MLflow run": card.mlflow_run_id or "none",
            "Created": f"{card.created:%Y-%m-%d %H:%M} UTC",
        },
    }


def _counts(evaluation: Evaluation) -> str:
    classes = ", ".join(f"{count} {name}" for name, count in evaluation.classes.items())
    return (
        f"{evaluation.n} pictures judged ({classes}), {evaluation.refused} refused, {evaluation.doubted} not taken for "
        f"a chest X-ray. Accuracy, sensitivity and specificity at the operating point {evaluation.operating:.4f}. "
        "Intervals: 95 %, stratified bootstrap."
    )


Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _figure_rows(evaluation: Evaluation) -> Table:
    rows: list[Sequence[str]] = []
    for name, value in evaluation.figures().items():
        interval = evaluation.intervals.get(name)
        rows.append((_NAMES[name], _number(value), f"{interval.low:.4f} to {interval.high:.4f}" if interval else ""))
    return ("Figure", "Value", "95 % interval"), rows


def _slice_rows(parts: dict[str, Evaluation]) -> Table:
    columns = ("auc", "accuracy", "sensitivity", "specificity", "unsure_rate")
    rows = [(name, str(one.n), *(_number(getattr(one, key)) for key in columns)) for name, one in parts.items()]
    return ("Slice", "Pictures", "AUC", "Accuracy", "Sensitivity", "Specificity", "Unsure"), rows


def _robustness_rows(robustness: Robustness) -> Table:
    columns = ("auc", "accuracy", "sensitivity", "specificity", "unsure_rate")
    rows = [
        (row.corruption, str(row.strength), *(_number(getattr(row, key)) for key in columns)) for row in robustness.rows
    ]
    rows.append(("mean of all", "", _number(robustness.auc), "", "", "", ""))
    return ("Corruption", "Strength", "AUC", "Accuracy", "Sensitivity", "Specificity", "Unsure"), rows


def _called_rows(evaluation: Evaluation) -> Table:
    labels = ("Normal", "Unsure", "Pneumonia")
    return ("Truth", *labels), [
        (truth, *(str(called[label]) for label in labels)) for truth, called in evaluation.per_class.items()
    ]


def _markdown(table: Table) -> Iterator[str]:
    head, rows = table
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _html(table: Table) -> str:
    head, rows = table
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _image(png: bytes, text: str) -> str:
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1d2733;
  background: #fff }
table { border-collapse: collapse; margin: .6rem 0 } th, td { text-align: left; padding: .3rem .7rem;
  border-bottom: 1px solid #d9e0e7; font-variant-numeric: tabular-nums }
.notice { border-left: 4px solid #c8502d; padding: .4rem .8rem; background: #faf1ee }
.plots, .worst { display: flex; flex-wrap: wrap; gap: 1rem } .plots img { width: 21rem; max-width: 100% }
figure { margin: 0; width: 13rem } figure img { width: 100% } figcaption { font-size: .85rem }
"""


def _page(
    card: Card,
    evaluation: Evaluation,
    scored: Sequence[Scored],
    robustness: Robustness | None,
    worst: Sequence[tuple[Scored, bytes]],
) -> str:
    title = html.escape(f"{card.name} {card.version or ''}".strip())
    synthetic = "<p class=notice>Trained on drawn phantoms: its figures say nothing about patients.</p>"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>",
        f"<h1>{title}</h1><p class=notice>{NOTICE}</p>",
        synthetic if card.synthetic else "",
        f"<h2>Figures</h2><p>{html.escape(_counts(evaluation))}</p>",
        _html(_figure_rows(evaluation)),
        "<h2>Curves</h2><div class=plots>",
        *(_image(png, text) for text, png in plots.all_of(evaluation, scored).items()),
        "</div><h2>Labels given</h2>",
        _html(_called_rows(evaluation)),
        "<h2>Slices</h2>",
        _html(_slice_rows(slices(scored, card))),
        f"<h2>Robustness</h2>{_html(_robustness_rows(robustness))}" if robustness else "",
        f"<h2>Farthest from the truth</h2><div class=worst>{''.join(map(_worst, worst))}</div>" if worst else "",
    ]
    for name, facts in _facts(card).items():
        rows = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(str(v))}</td></tr>" for k, v in facts.items())
        parts.append(f"<h2>{name}</h2><table>{rows}</table>")
    return "\n".join(part for part in parts if part)


def _worst(one: tuple[Scored, bytes]) -> str:
    scored, png = one
    truth = "pneumonia" if scored.label else "normal"
    kind = f", {scored.kind}" if scored.kind not in ("unknown", truth) else ""
    caption = f"{truth}{kind}; risk {scored.probability:.3f}, called {scored.called}"
    return f"<figure>{_image(png, caption)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _worst_pictures(
    package: Package, scored: Sequence[Scored], pictures: Iterable[bytes]
) -> Iterator[tuple[Scored, bytes]]:
    """The judged cases farthest from their truth, each with its picture and heatmap."""
    distance = [-1.0 if one.probability is None else abs(one.probability - one.label) for one in scored]
    chosen = {int(at) for at in np.argsort(distance)[::-1][:WORST] if distance[int(at)] >= 0}
    found: dict[int, bytes] = {}
    for at, (_, data) in enumerate(zip_longest(scored, pictures)):
        if at in chosen and data is not None:
            found[at] = data
    for at in sorted(found, key=lambda place: -distance[place]):
        try:
            yield scored[at], _explained(package, found[at])
        except ImageRefused:
            continue


def _explained(package: Package, data: bytes) -> bytes:
    preparation = package.card.preparation
    picture = preparation.decode(data)
    (prediction,) = package.predict(preparation.apply(picture)[np.newaxis])
    # Side by side: the film as it is, and where the evidence lies.
    heat = Image.open(io.BytesIO(heatmap_png(picture, prediction.cam, preparation)))
    plain = Image.fromarray(picture.pixels).resize(heat.size).convert(heat.mode)
    both = Image.fromarray(np.hstack([np.asarray(plain), np.asarray(heat)]))
    both.thumbnail((480, 480))
    buffer = io.BytesIO()
    both.save(buffer, "PNG")
    return buffer.getvalue()
