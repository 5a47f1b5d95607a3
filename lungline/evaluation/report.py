"""The report of an evaluation: a self-contained HTML page, and a model card in Markdown."""

import html
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image

from lungline.diagnosis.diagnoser import Diagnoser
from lungline.evaluation import evidence, plots
from lungline.evaluation.finding_metrics import FindingsEvaluation, summarise_findings
from lungline.evaluation.metrics import Evaluation, Scored, risk_labels, summarise
from lungline.evaluation.page import STYLE, Table, image_html, table_html
from lungline.evaluation.robustness import Robustness
from lungline.imaging.image import DecodedImage
from lungline.package.card import Card
from lungline.package.package import Package

WORST = 12
_NAMES = {
    "auc": "Area under the ROC curve",
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ece": "Expected calibration error (15 bins)",
    "unsure_rate": "Share Unsure",
    "sensitivity_decided": "Sensitivity without Unsure",
    "specificity_decided": "Specificity without Unsure",
    "heat_inside": "Heatmap inside the lungs",
    "border_auc": "AUC from the border alone",
    "inside_auc": "AUC from the inside alone",
}


def write_report(
    folder: Path,
    package: Package,
    evaluation: Evaluation,
    scored: Sequence[Scored],
    *,
    robustness: Robustness | None = None,
    images: Iterable[bytes] = (),
) -> Path:
    """Write report.html, model_card.md and the pictures of the evidence into a folder; returns the page.

    `images` are the files of `scored` in the same order, to show the largest errors; without them these are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    error = [-1.0 if case.probability is None else abs(case.probability - case.label) for case in scored]
    worst = [int(at) for at in np.argsort(error)[::-1][:WORST] if error[int(at)] >= 0]
    chosen = {*worst, *evidence.confident(scored, package.card), *evidence.least_inside(scored, package.card)}
    files = {at: data for at, (_, data) in enumerate(zip_longest(scored, images)) if at in chosen and data is not None}
    pictures = _Pictures(
        evidence.pictures(package, evaluation, scored, files),
        tuple(_worst_errors(package, [(scored[at], files[at]) for at in worst if at in files])),
    )
    for name, png in pictures.evidence.items():
        (folder / name).write_bytes(png)
    page.write_text(_page(package.card, evaluation, scored, robustness, pictures), encoding="utf-8")
    card = model_card(package.card, evaluation, scored, robustness, pictures=pictures.evidence)
    (folder / "model_card.md").write_text(card, encoding="utf-8")
    return page


def slices(scored: Sequence[Scored], card: Card) -> dict[str, Evaluation]:
    """Metrics of subsets: each kind of image, and the smaller and the larger half by shortest side."""
    parts: dict[str, list[Scored]] = {}
    predicted = [case for case in scored if case.probability is not None]
    for case in predicted:
        parts.setdefault(case.kind, []).append(case)
    sides = sorted(case.side for case in predicted)
    middle = sides[len(sides) // 2] if sides else 0
    if sides and sides[0] < middle:
        parts[f"shortest side under {middle} px"] = [case for case in predicted if case.side < middle]
        parts[f"shortest side from {middle} px"] = [case for case in predicted if case.side >= middle]
    return {name: summarise(part, card.thresholds, task=card.task) for name, part in parts.items()}


def model_card(
    card: Card,
    evaluation: Evaluation,
    scored: Sequence[Scored] = (),
    robustness: Robustness | None = None,
    *,
    pictures: Iterable[str] = (),
) -> str:
    """The model card in Markdown, with the same numbers as the page; `pictures` are files beside it, of CAPTIONS."""
    lines = [f"# {card.name} {card.version or '(not registered)'}", "", card.task.warning, ""]
    if card.synthetic:
        lines += ["**Trained on drawn phantoms, not on X-rays: its metrics say nothing about patients.**", ""]
    for title, facts in _facts(card).items():
        lines += [f"## {title}", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    lines += ["## Metrics", "", _counts(evaluation), "", *_markdown(_metric_rows(evaluation)), ""]
    findings = summarise_findings(scored, card) if scored else None
    if findings:
        lines += ["## Findings", "", *_markdown(_finding_rows(findings)), ""]
        lines += ["## Labels given", "", *_markdown(_taken_rows(findings)), ""]
    if scored:
        lines += ["## Slices", "", *_markdown(_slice_rows(slices(scored, card))), ""]
    if robustness:
        lines += ["## Robustness", "", *_markdown(_robustness_rows(robustness)), ""]
    shown = [f"![{evidence.CAPTIONS[name]}]({name})\n" for name in pictures]
    lines += ["## Where the evidence lies", "", *shown] if shown else []
    return "\n".join(lines)


def _facts(card: Card) -> dict[str, dict[str, object]]:
    preparation, thresholds, calibration = card.preparation, card.thresholds, card.calibration
    negative, _, positive = risk_labels(card.task)
    counts = ", ".join(f"{split} {count}" for split, count in card.data.counts.items())
    commit = f"{card.code.commit or 'unknown'}{' with changes' if card.code.dirty else ''}"
    return {
        "Use": {
            "Meant for": card.task.use.meant_for,
            "Not meant for": card.task.use.not_meant_for,
            "Input": f"{preparation.size} x {preparation.size} grey, {preparation.geometry}, "
            f"normalisation {preparation.normalisation}",
        },
        "Labels": {
            f"{negative} below": f"{thresholds.low:.4f}",
            f"{positive} from": f"{thresholds.high:.4f}",
            "Operating point": f"{thresholds.operating:.4f}",
            "How chosen": thresholds.chosen,
            "Calibration": f"{calibration.kind}, scale {calibration.scale:.3f}, bias {calibration.bias:.3f}",
            "Prior": f"risks are for a share of {card.prior.share:.1%} {positive.lower()}. {card.prior.chosen}"
            if card.prior
            else "risks are for the share of the calibration's images",
            "Chest check": card.chest.chosen if card.chest else "none",
            "Population check": card.population.chosen if card.population else "none: other patients are not noticed",
            "Lung model": card.lungs.source if card.lungs else "none: the evidence may lie outside the lungs",
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
        f"{evaluation.n} images with a prediction ({classes}), {evaluation.refused} refused, {evaluation.doubted} "
        "doubted (no chest X-ray, or no lungs to outline). "
        "Accuracy, sensitivity and specificity at the operating point "
        f"{evaluation.operating:.4f}. Intervals: 95 %, stratified bootstrap."
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _metric_rows(evaluation: Evaluation) -> Table:
    rows: list[Sequence[str]] = []
    for name, value in evaluation.metrics().items():
        interval = evaluation.intervals.get(name)
        rows.append(
            (
                _NAMES.get(name, name.replace("_", " ")),
                _number(value),
                f"{interval.low:.4f} to {interval.high:.4f}" if interval else "",
            )
        )
    return ("Metric", "Value", "95 % interval"), rows


def _slice_rows(parts: dict[str, Evaluation]) -> Table:
    columns = ("auc", "accuracy", "sensitivity", "specificity", "unsure_rate")
    rows = [(name, str(part.n), *(_number(getattr(part, key)) for key in columns)) for name, part in parts.items()]
    return ("Slice", "Images", "AUC", "Accuracy", "Sensitivity", "Specificity", "Unsure"), rows


def _robustness_rows(robustness: Robustness) -> Table:
    columns = ("auc", "accuracy", "sensitivity", "specificity", "unsure_rate")
    rows = [
        (row.corruption, str(row.strength), *(_number(getattr(row, key)) for key in columns)) for row in robustness.rows
    ]
    rows.append(("mean of all", "", _number(robustness.auc), "", "", "", ""))
    return ("Corruption", "Strength", "AUC", "Accuracy", "Sensitivity", "Specificity", "Unsure"), rows


def _finding_rows(findings: FindingsEvaluation) -> Table:
    columns = ("auc", "sensitivity", "specificity", "ece", "unsure_rate")
    rows: list[Sequence[str]] = [
        (name, str(list(part.classes.values())[1]), *(_number(getattr(part, key)) for key in columns))
        for name, part in findings.each.items()
    ]
    rows.append(("mean", "", _number(findings.macro_auc), "", "", "", ""))
    return ("Finding against the rest", "Images with it", "AUC", "Sensitivity", "Specificity", "ECE", "Unsure"), rows


def _taken_rows(findings: FindingsEvaluation) -> Table:
    labels = tuple(next(iter(findings.taken_for.values())))
    rows = [(name, *(str(counts[label]) for label in labels)) for name, counts in findings.taken_for.items()]
    return ("Images with", *labels), rows


def _label_rows(evaluation: Evaluation) -> Table:
    labels = tuple(next(iter(evaluation.per_class.values())))
    return ("True class", *labels), [
        (truth, *(str(counts[label]) for label in labels)) for truth, counts in evaluation.per_class.items()
    ]


def _markdown(table: Table) -> Iterator[str]:
    head, rows = table
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


@dataclass(frozen=True, slots=True)
class _Pictures:
    """What the page shows of single images: where the evidence lies, and the largest errors."""

    evidence: dict[str, bytes]
    worst: tuple[tuple[Scored, bytes], ...]


def _page(
    card: Card,
    evaluation: Evaluation,
    scored: Sequence[Scored],
    robustness: Robustness | None,
    pictures: "_Pictures",
) -> str:
    title = html.escape(f"{card.name} {card.version or ''}".strip())
    synthetic = "<p class=notice>Trained on drawn phantoms: its metrics say nothing about patients.</p>"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>",
        f"<h1>{title}</h1><p class=notice>{html.escape(card.task.warning)}</p>",
        synthetic if card.synthetic else "",
        f"<h2>Metrics</h2><p>{html.escape(_counts(evaluation))}</p>",
        table_html(_metric_rows(evaluation)),
        "<h2>Curves</h2><div class=plots>",
        *(image_html(png, text) for text, png in plots.report_plots(evaluation, scored).items()),
        "</div><h2>Predicted labels</h2>",
        table_html(_label_rows(evaluation)),
        *_findings_html(summarise_findings(scored, card)),
        "<h2>Slices</h2>",
        table_html(_slice_rows(slices(scored, card))),
        f"<h2>Robustness</h2>{table_html(_robustness_rows(robustness))}" if robustness else "",
        "<h2>Where the evidence lies</h2>" if pictures.evidence else "",
        *(_captioned(png, evidence.CAPTIONS[name]) for name, png in pictures.evidence.items()),
        f"<h2>Largest errors</h2><div class=worst>{''.join(_worst(card, error) for error in pictures.worst)}</div>"
        if pictures.worst
        else "",
    ]
    for name, facts in _facts(card).items():
        rows = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(str(v))}</td></tr>" for k, v in facts.items())
        parts.append(f"<h2>{name}</h2><table>{rows}</table>")
    return "\n".join(part for part in parts if part)


def _findings_html(findings: FindingsEvaluation | None) -> Iterator[str]:
    if findings:
        yield f"<h2>Findings</h2>{table_html(_finding_rows(findings))}"
        yield f"<h2>Labels given</h2>{table_html(_taken_rows(findings))}"


def _captioned(png: bytes, caption: str) -> str:
    return f"<figure class=wide>{image_html(png, caption)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _worst(card: Card, error: tuple[Scored, bytes]) -> str:
    scored, png = error
    truth = card.task.called(scored.whole).lower()
    kind = f", {scored.kind}" if scored.kind not in ("unknown", truth) else ""
    caption = f"{truth}{kind}; risk {scored.probability:.3f}, predicted {scored.predicted}"
    return f"<figure>{image_html(png, caption)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _worst_errors(package: Package, cases: Iterable[tuple[Scored, bytes]]) -> Iterator[tuple[Scored, bytes]]:
    """The cases, each with its image beside the heatmap as PNG bytes."""
    diagnoser = Diagnoser(package)
    for scored, data in cases:
        diagnosis = diagnoser.diagnose(data, statistics=False)
        if diagnosis.image is not None and diagnosis.heatmap is not None:
            yield scored, _beside(diagnosis.image, diagnosis.heatmap)


def _beside(image: DecodedImage, heatmap: bytes) -> bytes:
    """The image as it is and with its heatmap, side by side, as PNG bytes."""
    heat = Image.open(io.BytesIO(heatmap))
    plain = Image.fromarray(image.pixels).resize(heat.size).convert(heat.mode)
    both = Image.fromarray(np.hstack([np.asarray(plain), np.asarray(heat)]))
    both.thumbnail((480, 480))
    buffer = io.BytesIO()
    both.save(buffer, "PNG")
    return buffer.getvalue()
