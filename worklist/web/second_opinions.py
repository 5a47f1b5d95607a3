"""How the second opinions of a version differ from the answers: a page, the same as JSON, and what is worth reading."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from lungline.evaluation.disagreement import Pair, compare, reading_list
from lungline.results.purposes import Purpose
from worklist.database import entries, opinions
from worklist.database.access import Person
from worklist.database.opinions import Judge
from worklist.web.context import Admin, Context, Worklist

router = APIRouter()

MOST_READ = 100
"""Uploads on the reading list."""
Of = Annotated[Purpose | None, Query()]
Version = Annotated[str, Query(max_length=128)]


@router.get("/shadow", response_class=HTMLResponse)
def show(request: Request, context: Context, person: Admin, purpose: Of = None, version: Version = "") -> Response:
    """The page."""
    judges, chosen, pairs = _chosen(context, person, purpose, version)
    listed = reading_list(pairs, MOST_READ)
    with context.database.reading() as session:
        rows = [(pair, entry) for pair in listed if (entry := entries.find(session, pair.identity))]
    values = {"judges": judges, "chosen": chosen, "comparison": compare(pairs), "rows": rows, "person": person}
    return context.pages.TemplateResponse(request, "shadow.html", values)


@router.get("/shadow.json")
def describe(context: Context, person: Admin, purpose: Of = None, version: Version = "") -> JSONResponse:
    """The same without names: uploads are identities."""
    judges, chosen, pairs = _chosen(context, person, purpose, version)
    comparison = compare(pairs)
    value: dict[str, Any] = {
        "versions": [asdict(judge) | {"last": judge.last.isoformat()} for judge in judges],
        "purpose": chosen and chosen.purpose,
        "version": chosen and chosen.version,
        "share": comparison.share,
        **asdict(comparison),
        "reading_list": [asdict(pair) for pair in reading_list(pairs, MOST_READ)],
    }
    return JSONResponse(value)


def _chosen(
    context: Worklist, person: Person, purpose: Purpose | None, version: str
) -> tuple[list[Judge], Judge | None, list[Pair]]:
    """The versions that gave second opinions, the one that is meant, by default the last, and its pairs."""
    context.looks.record(person, "listed", detail="second opinions")
    with context.database.reading() as session:
        judges = opinions.judges(session)
        meant = (judge for judge in judges if purpose in (None, judge.purpose) and version in ("", judge.version))
        chosen = next(meant, None)
        pairs = opinions.pairs(session, chosen.purpose, chosen.version) if chosen else []
    return judges, chosen, pairs
