"""The list, its live updates, and the overview beside it."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from lungline.results.patients import readable
from worklist.database import entries, notices, patients
from worklist.database.access import Person
from worklist.database.entries import Cursor
from worklist.web.context import Context, Reader, Worklist, require_sees_patients, searched, wanted_of
from worklist.web.looks import detail_of
from worklist.web.rendering import timeline

router = APIRouter()

LAST_IMAGES = 6
DOTS = 240
MOST_PATIENTS = 250
"""More than the rows of a page, which keeps 200."""


@router.get("/", response_class=HTMLResponse)
def show_list(request: Request, context: Context, person: Reader) -> Response:
    """The page."""
    _look(request, context, person)
    values = _rows(request, context, person) | _aside(context, wanted_of(request, context).task)
    values |= {"person": person, "counters": context.live.counters}
    values |= {"restoration": context.restoration, "lost": context.losses.sentence}
    return context.pages.TemplateResponse(request, "list.html", values)


@router.get("/rows", response_class=HTMLResponse)
def show_rows(request: Request, context: Context, person: Reader) -> Response:
    """The table alone, for a page that fell behind or changed its filter."""
    _look(request, context, person)
    return context.pages.TemplateResponse(request, "_rows.html", _rows(request, context, person) | {"person": person})


@router.get("/aside", response_class=HTMLResponse)
def show_aside(request: Request, context: Context, person: Reader) -> Response:
    """The overview: last images, risk over time and open notices."""
    context.looks.record(person, "listed", detail="overview")
    values = _aside(context, wanted_of(request, context).task)
    return context.pages.TemplateResponse(request, "_aside.html", values | {"person": person})


@router.get("/tasks.css")
def show_colours(context: Context, person: Reader) -> Response:  # noqa: ARG001 - requires a session
    """The colours of the findings of all tasks."""
    headers = {"cache-control": "private, max-age=86400"}
    return Response(context.tasks.sheet, media_type="text/css", headers=headers)


@router.get("/live")
async def follow(request: Request, context: Context, person: Reader) -> Response:
    """Changes of a filtered list as server-sent events."""
    await run_in_threadpool(_look, request, context, person)
    wanted = await run_in_threadpool(searched, request, context, person)
    if not context.live.has_room(person.digest):
        # Browsers do not try again by themselves; the page does, and shows until then that it is not live.
        sentence = "Too many pages of this sign-in are open; close some."
        return JSONResponse({"error": sentence}, status_code=429, headers={"retry-after": "5"})
    stream = context.live.follow(wanted, person.digest)
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


@router.get("/patients")
def show_patients(context: Context, person: Reader, of: Annotated[list[str] | None, Query()] = None) -> JSONResponse:
    """Whom these uploads are of, by identity; for those who may see patients, each in the audit log first.

    Apart from the rows, which are the same for everybody who follows the list.
    """
    require_sees_patients(person)
    with context.database.reading() as session:
        rows = patients.of_uploads(session, (of or [])[:MOST_PATIENTS])
    context.looks.record_patients(person, [row.identity for row in rows])
    return JSONResponse(
        {
            row.identity: {
                "patient": " · ".join(filter(None, (readable(row.name), row.patient_id))),
                "accession": row.accession,
            }
            for row in rows
        },
        headers={"cache-control": "no-store"},
    )


def _look(request: Request, context: Worklist, person: Person) -> None:
    """Note in the audit log what a list shows, and what was searched for."""
    wanted, query = wanted_of(request, context), request.query_params
    place = str(Cursor.read(query.get("after", "")) or Cursor.read(query.get("before", "")) or "")
    context.looks.record(person, "searched" if wanted.q else "listed", detail=detail_of(wanted, place))


def _rows(request: Request, context: Worklist, person: Person) -> dict[str, object]:
    wanted = searched(request, context, person)
    after = Cursor.read(request.query_params.get("after", ""))
    before = None if after else Cursor.read(request.query_params.get("before", ""))
    mark = context.live.mark
    with context.database.reading() as session:
        page = entries.page(session, wanted, after=after, before=before)
        versions = entries.versions(session)
    first = after is None and before is None
    shown: dict[str, object] = {"wanted": wanted, "page": page, "versions": versions, "first": first, "mark": mark}
    return shown | {"tasks": context.tasks.tasks}


def _aside(context: Worklist, task: str) -> dict[str, object]:
    with context.database.reading() as session:
        newest = entries.latest(session, DOTS, task)
        open_notices = notices.count_open(session)
    images = [entry for entry in newest if entry.outcome == "judged"][:LAST_IMAGES]
    return {"last": images, "timeline": timeline(newest, datetime.now(UTC)), "notices": open_notices}
