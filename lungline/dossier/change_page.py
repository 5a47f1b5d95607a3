"""The page of a promotion, in the three parts of a change control plan, from what was recorded of it."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from lungline.dossier.change_parts import Change, Difference, Limit, OpinionFigures, VersionSheet
from lungline.dossier.impact import impact
from lungline.dossier.model_sections import promotion_rows
from lungline.dossier.page import NOT_RECORDED, Code, Markup, bullets, facts, paragraph, section, standalone, table
from lungline.registry.history import PromotionEntry
from lungline.wording import count

NONE = Markup('<span class="none">none</span>')
_DIGEST = re.compile(r"[0-9a-f]{32,}")


def change_page(change: Change, document: dict[str, Any]) -> str:
    """A promotion as HTML that stands alone; `document` is its signed JSON value."""
    kicker = f"Change control, made {change.made:%Y-%m-%d %H:%M:%S} UTC for {change.by}"
    return standalone(title_of(change.after.entry, change.model), kicker, _sections(change), document)


def title_of(entry: PromotionEntry, model: str) -> str:
    """What a promotion did."""
    verb = "Rollback" if entry.kind == "rollback" else "Promotion"
    return f"{verb} {entry.number}: {model} version {entry.version}"


def _sections(change: Change) -> Iterator[Markup]:
    yield _summary(change)
    if change.missing:
        yield section("What is not here", bullets(each.sentence for each in change.missing))
    yield _modifications(change)
    yield _protocol(change)
    yield section("3 · Impact assessment", *impact(change))
    rows = [*promotion_rows(change.after.entry), ("Follows entry", Code(change.after.entry.previous))]
    yield section("Record", paragraph(change.history), facts(rows))


def _summary(change: Change) -> Markup:
    entry, before = change.after.entry, change.before
    gate = entry.facts.gate
    rows = [
        ("Replaced", f"version {before.entry.version}" if before else "nothing: it was the first in service"),
        ("In service", _period(entry.at, change.until)),
        ("Decided by", entry.by),
        ("Reason", entry.reason),
        ("Gate", _way_past(entry) if gate or entry.facts.without_gate else None),
    ]
    warnings = [paragraph("Trained on drawn phantoms: its figures say nothing about patients.", "notice")]
    return section("Summary", facts(rows), *(warnings if entry.facts.synthetic else []))


def _period(since: datetime, until: datetime | None) -> str:
    end = f"until {until:%Y-%m-%d %H:%M:%S} UTC" if until else "still"
    return f"since {since:%Y-%m-%d %H:%M:%S} UTC, {end}"


def _way_past(entry: PromotionEntry) -> str:
    gate, reason = entry.facts.gate, entry.facts.without_gate
    verdict = f"{'passed' if gate.passed else 'failed'}: {gate.sentence}" if gate else "no verdict"
    return f"{verdict}{f' Why it may serve without: {reason}' if reason else ''}"


def _modifications(change: Change) -> Markup:
    rows = change.differences
    if change.after.card is None:
        blocks = [paragraph("The card of the version is not there, so what changed cannot be listed.", "notice bad")]
    elif change.before is None:
        blocks = [paragraph("It was the first version in service: everything about it was new. Its values:")]
    elif change.before.card is None:
        blocks = [paragraph("The card of the version before is not there; the values of this one:", "notice")]
    elif not rows:
        blocks = [paragraph("The cards of both versions say the same.")]
    else:
        topics = list(dict.fromkeys(row.topic for row in rows))
        blocks = [paragraph(f"{count(len(rows), 'value')} of the card differ, about: {', '.join(topics).lower()}.")]
    blocks += [block for topic, group in groupby(rows, lambda row: row.topic) for block in _topic(topic, list(group))]
    versions = [("Digest", *map(_package, (change.before, change.after)))]
    blocks += [Markup("<h3>Package</h3>"), table(("", "Before", "After"), versions)]
    return section("1 · Description of modifications", *blocks)


def _topic(topic: str, rows: Sequence[Difference]) -> list[Markup]:
    is_first = all(row.before is None for row in rows)
    titles = ("Value of the card", "Value") if is_first else ("Value of the card", "Before", "After")
    lines = [(row.name, *(() if is_first else (_shown(row.before),)), _shown(row.after)) for row in rows]
    return [Markup(f"<h3>{topic}</h3>"), table(titles, lines)]


def _shown(value: str | None) -> str:
    if value is None:
        return NONE
    return Code(value) if _DIGEST.fullmatch(value) else value


def _package(sheet: VersionSheet | None) -> str:
    return Code(sheet.entry.facts.package) if sheet else NONE


def _protocol(change: Change) -> Markup:
    entry, card, run = change.after.entry, change.after.card, change.run
    gate = entry.facts.gate
    data = card.data if card else None
    rows = [
        ("Data", entry.facts.data),
        ("Data digest", Code(entry.facts.data_digest) if entry.facts.data_digest else None),
        ("Images", data and ", ".join(f"{split} {number:,}" for split, number in data.counts.items())),
        ("Labels from readers", data and data.feedback),
        ("Training run", Code(entry.facts.mlflow_run) if entry.facts.mlflow_run else None),
        ("Ran", run and f"{run.status.lower()}, from {_clock(run.started)} to {_clock(run.ended)}"),
        ("Pipeline run", Code(entry.facts.pipeline_run) if entry.facts.pipeline_run else None),
        ("Code", entry.facts.code_version),
        ("Gate", _way_past(entry) if gate or entry.facts.without_gate else None),
        ("Limits that were lowered", (", ".join(gate.lowered) or Markup("none")) if gate else None),
        ("Proof before service", _proof(entry)),
        ("Took", _took(change)),
        ("Failed attempts before", bullets(map(_failure, change.failed)) or Markup("none")),
        ("Stored package", _stored(change.after)),
    ]
    limits = table(("Figure on the test split", "Measured", "Limit", "Kept"), map(_limit, change.limits), NOT_RECORDED)
    titles = ("Purpose", "Uploads", "Another label", "Risks apart", "Risk moved by", "Answer → second opinion")
    opinions = table(titles, map(_opinion, change.opinions), "The version gave none beside the one in service.")
    heads = (Markup("<h3>Limits of the gate</h3>"), Markup("<h3>Second opinions beside the version in service</h3>"))
    return section("2 · Modification protocol", facts(rows), heads[0], limits, heads[1], opinions)


def _clock(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "a time that is not recorded"


def _proof(entry: PromotionEntry) -> str | None:
    if entry.facts.signed_by is None:
        return None
    return (
        f"the package had the registered digest, the signature of key {entry.facts.signed_by[:12]}…, and answered for "
        "drawn chests; no promotion is written without"
    )


def _took(change: Change) -> str | None:
    if change.began is None:
        return None
    seconds = (change.after.entry.at - change.began.at).total_seconds()
    return f"{seconds:.1f} s from its begin (entry {change.began.number})"


def _failure(entry: PromotionEntry) -> str:
    return f"Entry {entry.number}, {_clock(entry.at)}, version {entry.version} by {entry.by}: {entry.outcome}"


def _stored(sheet: VersionSheet) -> Markup | str | None:
    if sheet.is_as_promoted is None:
        return None
    return "its card is the promoted one" if sheet.is_as_promoted else "its card is another than the promoted one"


def _opinion(figures: OpinionFigures) -> tuple[Any, ...]:
    share = f"{figures.different / figures.results:.1%}"
    labels = ", ".join(f"{answer} → {opinion} {uploads:,}" for answer, opinion, uploads in figures.labels)
    apart = None if figures.distance is None else f"{figures.distance:.4f}"
    moved = None if figures.shift is None else f"{figures.shift:+.4f}"
    return figures.purpose, f"{figures.results:,}", share, apart, moved, labels


def _limit(limit: Limit) -> tuple[Any, ...]:
    wanted = f"{'at most' if limit.most else 'at least'} {limit.limit:g}{' (lowered)' if limit.lowered else ''}"
    figure = None if limit.figure is None else f"{limit.figure:.4f}"
    return limit.name, figure, wanted, limit.holds
