"""The third part of a change's page: what the change may affect, in figures, in service, and for whom."""

from collections.abc import Iterator, Sequence

from lungline.dossier.change_parts import Change, LiveFigures
from lungline.dossier.page import Code, Markup, cell, facts, paragraph, table
from lungline.package.card import Card

IMAGES = 1000


def impact(change: Change) -> Iterator[Markup]:
    """The blocks of the section."""
    after, before = change.after.card, change.before.card if change.before else None
    use = after.task.use if after else None
    back = change.before
    site = change.after.entry.facts.site
    yield facts(
        (
            ("Meant for", use and use.meant_for),
            ("Not meant for", use and use.not_meant_for),
            ("Who is affected", f"uploads of the site {site}" if site else "every upload of the task from then on"),
            ("Earlier results", "stay as they are: each record names the version that wrote it"),
            ("Way back", _way_back(change) if back else "none: there was no version before"),
        )
    )
    yield Markup("<h3>Figures on the test split</h3>")
    yield _metrics(change)
    if after:
        yield from _expected(before, after, is_first=change.before is None)
    yield Markup("<h3>Seen in service</h3>")
    yield _service(change)


def _way_back(change: Change) -> Markup | str:
    sheet = change.before
    if sheet is None or sheet.is_as_promoted is None:
        return "the package of the version before is not stored any longer"
    state = "is stored as it was promoted" if sheet.is_as_promoted else "was changed since it was promoted"
    version = cell(sheet.entry.version)
    return Markup(f"{cell(Code('lungline rollback'))}: the package of version {version} {state}")


def _metrics(change: Change) -> Markup:
    new = change.after.entry.facts.metrics
    if change.before is None:
        return facts((name, _number(value)) for name, value in new.items())
    old = change.before.entry.facts.metrics
    rows = [
        (name, _number(old.get(name)), _number(new.get(name)), _difference(old.get(name), new.get(name)))
        for name in dict.fromkeys((*old, *new))
    ]
    return table(("Figure", "Before", "After", "Difference"), rows, "The history has none.")


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def _difference(old: float | None, new: float | None) -> str:
    return _signed(old, new, ".4f")


def _expected(before: Card | None, after: Card, *, is_first: bool) -> Iterator[Markup]:
    """What the figures mean for a thousand images, at the share of positives that the new version's risks are for."""
    share = after.prior.share if after.prior else None
    yield Markup(f"<h3>Expected among {IMAGES:,} images</h3>")
    if share is None:
        yield paragraph("The card names no share of positives, so nothing is expected of it.", "none")
        return
    basis = "with sensitivity and specificity of the test split at the operating point"
    yield paragraph(f"At a share of {share:.1%} positives, {basis}.")
    names = ("Findings missed", "False alarms", "Left to readers as Unsure")
    old, new = (_counts(card, share) if card else (None, None, None) for card in (before, after))
    if is_first:
        yield facts((name, _count(value)) for name, value in zip(names, new, strict=True))
        return
    rows = [(name, _count(a), _count(b), _more(a, b)) for name, a, b in zip(names, old, new, strict=True)]
    yield table(("", "Before", "After", "Difference"), rows)


def _counts(card: Card, share: float) -> tuple[float | None, float | None, float | None]:
    metrics = card.metrics
    sensitivity, specificity, unsure = (metrics.get(name) for name in ("sensitivity", "specificity", "unsure_rate"))
    return (
        None if sensitivity is None else IMAGES * share * (1 - sensitivity),
        None if specificity is None else IMAGES * (1 - share) * (1 - specificity),
        None if unsure is None else IMAGES * unsure,
    )


def _count(value: float | None) -> str | None:
    return None if value is None else f"{value:.0f}"


def _more(old: float | None, new: float | None) -> str:
    return _signed(old, new, ".0f")


def _signed(old: float | None, new: float | None, digits: str) -> str:
    """The difference with its sign, where both are there and it is not too small to be seen."""
    if old is None or new is None:
        return "–"
    text = f"{new - old:+{digits}}"
    return text if float(text) else "none"


def _service(change: Change) -> Markup:
    pairs: Sequence[tuple[str, LiveFigures | None]] = (
        *([(f"Version {change.before.entry.version}", change.live_before)] if change.before else []),
        (f"Version {change.after.entry.version}", change.live),
    )
    rows = [
        (name, f"{live.results:,}", _labels(live), _agreement(live)) if live else (name, None, None, None)
        for name, live in pairs
    ]
    return table(("", "Results so far", "Labels of the latest", "Readers agree"), rows)


def _labels(live: LiveFigures) -> str:
    if not live.looked_at:
        return "none yet"
    shares = ", ".join(f"{label} {number / live.looked_at:.0%}" for label, number in live.labels.items())
    return f"{shares} (of {live.looked_at:,})"


def _agreement(live: LiveFigures) -> str:
    return f"{live.agreed / live.read:.0%} of {live.read:,} read" if live.read else "none was read yet"
