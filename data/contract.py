"""The data contract: what must be true of a prepared data set before a model may be trained on it.

Great Expectations checks the expectations and renders the Data Docs page.
"""

# great-expectations and pandas ship partial types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import logging
import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from html import escape
from operator import and_
from pathlib import Path
from typing import Any

from data.expectations import Expectation, column_of, expectations_of
from lungline.datasets.prepared import Prepared, Row
from lungline.errors import ContractBreached
from lungline.task.task import Task

__all__ = ["OFFENDERS_SHOWN", "Breach", "check", "enforce", "expectations_of"]

OFFENDERS_SHOWN = 3

# Elements that load something from another host, and elements that only work with those.
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
class _Line:
    """One line of the summary: an expectation, its reason, and how the data break it."""

    sentence: str
    reason: str
    breach: str | None


def _self_contained(page: str, heading: str, notice: str | None, lines: Sequence[_Line]) -> str:
    """The page without anything from another host, with our style sheet and a summary before the details."""
    for pattern in _FOREIGN:
        page = re.sub(pattern, "", page, flags=re.DOTALL)
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    page = page.replace("</head>", f"<style>\n{style}</style>\n</head>", 1)
    return page.replace("<body>", f"<body>\n{_summary(heading, notice, lines)}", 1)


def _summary(heading: str, notice: str | None, lines: Sequence[_Line]) -> str:
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


@dataclass(frozen=True, slots=True)
class Breach:
    """An expectation that the data break.

    `count` images break it, and `examples` has the first of them with their values. For an expectation about a whole
    split, `count` is the number of its images and `observed` is the value of the split.
    """

    expectation: str
    count: int
    examples: tuple[str, ...]
    observed: str | None = None

    @property
    def finding(self) -> str:
        """How the data break the expectation, for a sentence."""
        more = ", ..." if self.count > len(self.examples) else ""
        images = "1 image that breaks it" if self.count == 1 else f"{self.count} images that break it"
        return self.observed or f"{images} ({', '.join(self.examples)}{more})"

    def __str__(self) -> str:
        return f"{self.expectation}; found {self.finding}"


def check(folder: Path, docs: Path) -> list[Breach]:
    """The expectations that a prepared data set breaks; an empty list when it keeps the contract.

    Writes the Data Docs page to `docs`/index.html: one file that loads nothing else.
    Raises DataError when the folder is not a prepared data set.
    """
    prepared = Prepared.load(folder)
    expectations, table = expectations_of(prepared.task), _table(prepared.index, prepared.task)
    with warnings.catch_warnings():
        # Great Expectations imports modules that Python or Google have deprecated.
        warnings.simplefilter("ignore")
        result = _validate(table, expectations)
        broken = {outcome.expectation_config.meta["at"]: outcome for outcome in result.results if not outcome.success}
        breaches = {at: _breach(expectations[at], broken[at], table) for at in sorted(broken)}
        details = _details(result)
    lines = [
        _Line(expectation.sentence, expectation.reason, breaches[at].finding if at in breaches else None)
        for at, expectation in enumerate(expectations)
    ]
    heading = f"{prepared.name}, {len(prepared.index):,} images, digest {prepared.digest[:12]}"
    docs.mkdir(parents=True, exist_ok=True)
    text = _self_contained(details, heading, prepared.notice, lines)
    (docs / "index.html").write_text(text, encoding="utf-8", errors="surrogateescape")
    return list(breaches.values())


def enforce(folder: Path, docs: Path) -> None:
    """Raises ContractBreached, with expectation, count and first images, unless the data keep the contract."""
    breaches = check(folder, docs)
    if breaches:
        raise ContractBreached(f"The data break the contract: {'. And: '.join(map(str, breaches))}.")


def _table(rows: Sequence[Row], task: Task) -> Any:
    """The index as a pandas table, with the columns that expectations need; unreadable images have no values."""
    import pandas as pd

    table = pd.DataFrame([asdict(row) for row in rows])
    for at in range(len(task.findings)):
        table[column_of(at)] = [int(at in task.present(row.label)) for row in rows]
    unreadable = table["error"] != ""
    table["error"] = table["error"].where(unreadable, None)
    sides = table[["width", "height"]]
    table["shortest_side"] = sides.min(axis=1).mask(unreadable)
    table["longest_to_shortest_side"] = (sides.max(axis=1) / sides.min(axis=1).clip(lower=1)).round(3).mask(unreadable)
    table["grey_span"] = (table["high"] - table["low"]).mask(unreadable)
    table["mean"] = table["mean"].mask(unreadable)
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


def _validate(table: Any, expectations: Sequence[Expectation]) -> Any:
    """Great Expectations' result for the table."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    # An ephemeral context leaves no files behind; its log is about its own work only.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("prepared data").add_dataframe_asset("index")
    batch = asset.add_batch_definition_whole_dataframe("all images").get_batch({"dataframe": table})
    suite = context.suites.add(gx.ExpectationSuite("data contract", expectations=_suite(expectations)))
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
    """A result as the page's renderer needs it.

    The renderer copies text from the data into the page unescaped, and file names may hold markup. It also shows a
    number's repr, which numpy 2 writes as np.float64(0.5).
    """
    import numpy as np

    if isinstance(value, dict):
        return {key: _harmless(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_harmless(item) for item in value]
    if isinstance(value, str):
        return escape(value)
    return value.item() if isinstance(value, np.generic) else value


def _suite(expectations: Sequence[Expectation]) -> list[Any]:
    import great_expectations.expectations as gx_expectations
    from great_expectations.expectations.row_conditions import Column

    suite: list[Any] = []
    for at, expectation in enumerate(expectations):
        conditions = [Column(column) == value for column, value in expectation.where.items()]
        limited = {"row_condition": reduce(and_, conditions)} if conditions else {}
        notes = f"{expectation.sentence[0].upper()}{expectation.sentence[1:]}. {expectation.reason}"
        kind = getattr(gx_expectations, expectation.check)
        suite.append(kind(**expectation.arguments, **limited, notes=notes, meta={"at": at}))
    return suite


def _breach(expectation: Expectation, outcome: Any, table: Any) -> Breach:
    """What Great Expectations found against an expectation, with the names of images."""
    result = outcome.result
    if "unexpected_index_list" not in result:
        for column, value in expectation.where.items():
            table = table[table[column] == value]
        observed = result["observed_value"]
        return Breach(expectation.sentence, len(table), (), "none" if observed is None else f"{observed:.3g}")
    column = expectation.arguments["column"]
    offenders = result["unexpected_index_list"] or []
    shown = tuple(
        offender["name"] if column == "name" else f"{offender['name']}: {offender[column]}"
        for offender in offenders[:OFFENDERS_SHOWN]
    )
    return Breach(expectation.sentence, int(result["unexpected_count"]), shown)
