"""The data contract: what must hold of a prepared data set before a model may be trained on it.

Great Expectations checks the terms and writes the Data Docs page.
"""

# great-expectations and pandas ship partial types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import logging
import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from data.expectations import TERMS, Term
from lungline.datasets.prepared import Prepared, Row
from lungline.errors import ContractBreached

# What loads or calls something from elsewhere, and the parts that only work with it.
_FOREIGN = (
    r"<script\b.*?</script>",
    r"<link\b[^>]*>",
    r"<img\b[^>]*>",
    r"<footer\b.*?</footer>",
    r"@media \(prefers-color-scheme: dark\) \{.*?\n\}(?=</style>)",
    r"\sonclick=\"[^\"]*\"",
    r"\shref=\"[^#\"][^\"]*\"",
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the summary: what must hold, why, and what was found against it."""

    sentence: str
    reason: str
    breach: str | None


def self_contained(page: str, heading: str, notice: str | None, lines: Sequence[Line]) -> str:
    """The page without anything foreign, with our style sheet in its head and a summary before the details."""
    for pattern in _FOREIGN:
        page = re.sub(pattern, "", page, flags=re.DOTALL)
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    page = page.replace("</head>", f"<style>\n{style}</style>\n</head>", 1)
    return page.replace("<body>", f"<body>\n{_summary(heading, notice, lines)}", 1)


def _summary(heading: str, notice: str | None, lines: Sequence[Line]) -> str:
    broken = sum(line.breach is not None for line in lines)
    verdict = f"{broken} of {len(lines)} expectations are broken" if broken else f"all {len(lines)} expectations hold"
    rows = "\n".join(
        f'<tr><td><i class="text-{"danger" if line.breach else "success"}"></i></td>'
        f"<td>{escape(line.sentence)}</td><td>{escape(line.reason)}</td><td>{escape(line.breach or '')}</td></tr>"
        for line in sorted(lines, key=lambda line: line.breach is None)
    )
    return (
        f'<main class="container-fluid"><h4>Data contract: {verdict}</h4>\n<p>{escape(heading)}</p>\n'
        + (f"<p><strong>{escape(notice)}</strong></p>\n" if notice else "")
        + "<table><thead><tr><th></th><th>Expectation</th><th>Why</th><th>Found</th></tr></thead>\n"
        f"<tbody>{rows}</tbody></table></main>\n"
    )


__all__ = ["OFFENDERS_SHOWN", "TERMS", "Breach", "check", "enforce"]

OFFENDERS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Breach:
    """A term that does not hold.

    `count` images stand against it, `examples` are the first of them with what was found. Where a whole split is
    judged, `count` is the number of its images and `figure` says what was found.
    """

    expectation: str
    count: int
    examples: tuple[str, ...]
    figure: str | None = None

    @property
    def found(self) -> str:
        """What was found, for a sentence."""
        more = ", ..." if self.count > len(self.examples) else ""
        return self.figure or f"{self.count} against it ({', '.join(self.examples)}{more})"

    def __str__(self) -> str:
        return f"{self.expectation}; found {self.found}"


def check(folder: Path, docs: Path) -> list[Breach]:
    """The terms that a prepared data set breaks, none when it keeps the contract.

    Writes the Data Docs page to `docs`/index.html: one file that needs nothing else and asks no other host.
    Raises DataError when the folder is not a prepared data set.
    """
    prepared = Prepared.load(folder)
    table = _table(prepared.index)
    with warnings.catch_warnings():
        # What great-expectations warns of is its own: modules it imports that Python or Google will drop some day.
        warnings.simplefilter("ignore")
        result = _validate(table)
        broken = {outcome.expectation_config.meta["term"]: outcome for outcome in result.results if not outcome.success}
        breaches = {at: _breach(TERMS[at], broken[at], table) for at in sorted(broken)}
        details = _details(result)
    lines = [
        Line(term.sentence, term.reason, breaches[at].found if at in breaches else None)
        for at, term in enumerate(TERMS)
    ]
    heading = f"{prepared.name}, {len(prepared.index):,} images, digest {prepared.digest[:12]}"
    docs.mkdir(parents=True, exist_ok=True)
    text = self_contained(details, heading, prepared.notice, lines)
    (docs / "index.html").write_text(text, encoding="utf-8", errors="surrogateescape")
    return list(breaches.values())


def enforce(folder: Path, docs: Path) -> None:
    """Raises ContractBreached, which names expectation, count and first offenders, unless the contract is kept."""
    breaches = check(folder, docs)
    if breaches:
        raise ContractBreached(f"The data break the contract: {'. And: '.join(map(str, breaches))}.")


def _table(rows: Sequence[Row]) -> Any:
    """The index as a pandas table, with what the terms look at beside it; nothing stands where nothing is known."""
    import pandas as pd

    table = pd.DataFrame([asdict(row) for row in rows])
    unread = table["error"] != ""
    table["error"] = table["error"].where(unread, None)
    sides = table[["width", "height"]]
    table["shortest_side"] = sides.min(axis=1).mask(unread)
    table["longest_to_shortest_side"] = (sides.max(axis=1) / sides.min(axis=1).clip(lower=1)).round(3).mask(unread)
    table["grey_span"] = (table["high"] - table["low"]).mask(unread)
    table["mean"] = table["mean"].mask(unread)
    table["same_image_in_other_split"] = _twin(table, "sha256", "split")
    table["same_patient_in_other_split"] = _twin(table, "patient", "split")
    table["same_image_with_other_label"] = _twin(table, "sha256", "label")
    return table


def _twin(table: Any, same: str, other: str) -> list[str | None]:
    """For each row the name of the first row with the same value in one column and another in the other, or None."""
    groups: dict[Any, dict[Any, str]] = {}
    pairs = list(zip(table[same], table[other], table["name"], strict=True))
    for key, kind, name in pairs:
        groups.setdefault(key, {}).setdefault(kind, name)
    return [next((name for at, name in groups[key].items() if key and at != kind), None) for key, kind, _ in pairs]


def _validate(table: Any) -> Any:
    """Great Expectations' result for the table."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    # An ephemeral context leaves no files behind; its log tells how it works, not what it found.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("prepared data").add_dataframe_asset("index")
    batch = asset.add_batch_definition_whole_dataframe("all images").get_batch({"dataframe": table})
    suite = context.suites.add(gx.ExpectationSuite("data contract", expectations=_expectations()))
    shown = {"result_format": "COMPLETE", "unexpected_index_column_names": ["name"], "partial_unexpected_count": 10}
    return batch.validate(suite, result_format=shown)


def _details(result: Any) -> str:
    """The Data Docs page of a result."""
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view.view import DefaultJinjaPageView

    for outcome in result.results:
        outcome.result = _harmless(outcome.result)
    return DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(result))


def _harmless(value: Any) -> Any:
    """What was found, as the page's renderer needs it.

    It copies text from the data into the page as it is, and a file's name may hold markup. And it takes a number's
    repr for its digits, where numpy 2 writes np.float64(0.5).
    """
    import numpy as np

    if isinstance(value, dict):
        return {key: _harmless(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_harmless(item) for item in value]
    if isinstance(value, str):
        return escape(value)
    return value.item() if isinstance(value, np.generic) else value


def _expectations() -> list[Any]:
    import great_expectations.expectations as kinds
    from great_expectations.expectations.row_conditions import Column

    made: list[Any] = []
    for at, term in enumerate(TERMS):
        conditions = [Column(column) == value for column, value in term.where.items()]
        where = None
        for condition in conditions:
            where = condition if where is None else where & condition
        limited = {"row_condition": where} if where is not None else {}
        notes = f"{term.sentence[0].upper()}{term.sentence[1:]}. {term.reason}"
        made.append(getattr(kinds, term.expectation)(**term.arguments, **limited, notes=notes, meta={"term": at}))
    return made


def _breach(term: Term, outcome: Any, table: Any) -> Breach:
    """What Great Expectations found against a term, with the images' names."""
    found = outcome.result
    if "unexpected_index_list" not in found:
        return _breach_of_split(term, found["observed_value"], table)
    column = term.arguments["column"]
    offenders = found["unexpected_index_list"] or []
    shown = tuple(
        entry["name"] if column == "name" else f"{entry['name']}: {entry[column]}"
        for entry in offenders[:OFFENDERS_SHOWN]
    )
    return Breach(term.sentence, int(found["unexpected_count"]), shown)


def _breach_of_split(term: Term, figure: float | None, table: Any) -> Breach:
    for column, value in term.where.items():
        table = table[table[column] == value]
    return Breach(term.sentence, len(table), (), "none" if figure is None else f"{figure:.3g}")
