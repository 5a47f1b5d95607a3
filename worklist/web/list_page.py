"""The list, its live changes, and what stands beside it."""

from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse

from worklist.database import entries, notices
from worklist.database.entries import Cursor, Filter
from worklist.web.context import Context, Reader, Worklist
from worklist.web.rendering import timeline

router = APIRouter()

LAST_IMAGES = 6
DOTS = 240


@router.get("/", response_class=HTMLResponse)
def show_list(request: Request, here: Context, person: Reader) -> Response:
    """The page."""
    values = _rows(request, here) | _aside(here) | {"person": person, "counters": here.live.counters}
    return here.pages.TemplateResponse(request, "list.html", values)


@router.get("/rows", response_class=HTMLResponse)
def show_rows(request: Request, here: Context, person: Reader) -> Response:
    """The table alone, for a page that fell behind or whose filter changed."""
    return here.pages.TemplateResponse(request, "_rows.html", _rows(request, here) | {"person": person})


@router.get("/aside", response_class=HTMLResponse)
def show_aside(request: Request, here: Context, person: Reader) -> Response:
    """Last images, risk over time and open notices."""
    return here.pages.TemplateResponse(request, "_aside.html", _aside(here) | {"person": person})


@router.get("/live")
async def follow(request: Request, here: Context, person: Reader) -> Response:  # noqa: ARG001 - only for who is signed in
    """Changes of the list that a filter asks for, as server-sent events."""
    stream = here.live.follow(Filter.of(request.query_params))
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


def _rows(request: Request, here: Worklist) -> dict[str, object]:
    wanted = Filter.of(request.query_params)
    after = Cursor.read(request.query_params.get("after", ""))
    before = None if after else Cursor.read(request.query_params.get("before", ""))
    mark = here.live.mark
    with here.database.reading() as session:
        page = entries.page(session, wanted, after=after, before=before)
        versions = entries.versions(session)
    first = after is None and before is None
    return {"wanted": wanted, "page": page, "versions": versions, "first": first, "mark": mark}


def _aside(here: Worklist) -> dict[str, object]:
    with here.database.reading() as session:
        newest = entries.latest(session, DOTS)
        told = notices.open_notices(session)
    seen = [entry for entry in newest if entry.outcome == "judged"][:LAST_IMAGES]
    return {"last": seen, "timeline": timeline(newest, datetime.now(UTC)), "told": told}
