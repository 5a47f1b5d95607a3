"""The sections of a dossier about models: package, card, data, figures, training run, promotion in force."""

from collections.abc import Iterator
from typing import Any

from lungline.dossier.page import Code, Markup, facts, paragraph, section
from lungline.dossier.parts import Dossier, ModelSheet
from lungline.package.card import Card
from lungline.registry.history import PromotionEntry
from lungline.registry.runs import RunFacts


def sections(dossier: Dossier) -> Iterator[Markup]:
    """One section for each model that judged the upload, then one about the history."""
    for sheet in dossier.models:
        blocks = [facts(_package(sheet))]
        if sheet.card:
            blocks += [facts(_card(sheet.card)), Markup("<h3>Figures on the test split</h3>"), figures(sheet.card)]
        yield section(f"Model {sheet.name} {sheet.version}", *blocks)
        if sheet.run:
            yield section(f"Training run of version {sheet.version}", facts(_run(sheet.run)))
    entries = {sheet.in_force.number: sheet.in_force for sheet in dossier.models if sheet.in_force}
    blocks = [facts(promotion_rows(entry)) for _, entry in sorted(entries.items())]
    if dossier.history:
        blocks.append(paragraph(dossier.history.sentence))
    yield section("Promotion in force", *(blocks or [paragraph("None is recorded.", "none")]))


def figures(card: Card) -> Markup:
    """The metrics of a card."""
    return facts((name, f"{value:.4f}") for name, value in card.metrics.items())


def promotion_rows(entry: PromotionEntry) -> list[tuple[str, Any]]:
    """An entry of the history."""
    gate = entry.facts.gate
    return [
        ("Entry", f"{entry.number}, {entry.kind} of version {entry.version}"),
        ("In service since", entry.at),
        ("By", entry.by),
        ("Reason", entry.reason),
        ("Gate", gate and ("passed" if gate.passed else "failed")),
        ("Verdict", gate and gate.sentence),
        ("Lowered limits", (", ".join(gate.lowered) or Markup("none")) if gate else None),
        ("Without the gate", entry.facts.without_gate or Markup("no")),
        ("Package", Code(entry.facts.package)),
        ("Package signed with", entry.facts.signed_by and Code(entry.facts.signed_by)),
        ("Hash of the entry", Code(entry.hash)),
        ("Entry signed with", entry.key and Code(entry.key)),
    ]


def _package(sheet: ModelSheet) -> list[tuple[str, Any]]:
    stored, same = sheet.stored_sha256, sheet.stored_sha256 == sheet.sha256
    return [
        ("Package digest in the record", Code(sheet.sha256)),
        ("Card in the models bucket", None if stored is None else "the same" if same else Code(stored)),
    ]


def _card(card: Card) -> list[tuple[str, Any]]:
    points, prior, data, code = card.thresholds, card.prior, card.data, card.code
    counts = ", ".join(f"{split} {number:,}" for split, number in data.counts.items())
    dirty = ", with changes that were not committed" if code.dirty else ""
    return [
        ("Created", card.created),
        ("Data", f"{data.name}{', drawn phantoms' if data.synthetic else ''}"),
        ("Data digest", Code(data.digest)),
        ("Images", counts),
        ("Labels from readers", data.feedback),
        ("Code", f"{code.version}{dirty}"),
        ("Commit", code.commit and Code(code.commit)),
        ("Thresholds", f"low {points.low:.4f}, high {points.high:.4f}, operating {points.operating:.4f}"),
        ("How chosen", points.chosen),
        (
            "Calibration",
            f"{card.calibration.kind}, scale {card.calibration.scale:.4f}, bias {card.calibration.bias:.4f}",
        ),
        ("Prior", prior and f"{prior.share:.1%}. {prior.chosen}"),
        ("Input", f"{card.preparation.size} × {card.preparation.size}, {card.preparation.normalisation}"),
        ("Meant for", card.task.use.meant_for),
        ("Not meant for", card.task.use.not_meant_for),
        ("MLflow run", card.mlflow_run_id and Code(card.mlflow_run_id)),
        ("Pipeline run", card.pipeline_run and Code(card.pipeline_run)),
    ]


def _run(run: RunFacts) -> list[tuple[str, Any]]:
    settings = ", ".join(f"{name} {value}" for name, value in sorted(run.params.items()))
    return [
        ("Run", Code(run.id)),
        ("Name", run.name),
        ("Status", run.status),
        ("Started", run.started),
        ("Ended", run.ended),
        ("Settings", settings),
        ("Gate", run.tags.get("gate")),
        ("Cause", run.tags.get("cause") or Markup("none")),
        ("Address", Code(run.address)),
    ]
