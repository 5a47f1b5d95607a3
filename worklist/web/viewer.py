"""The viewer: one X-ray, its result and its readings."""

from typing import cast, get_args

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from lungline.errors import ObjectGone
from lungline.results.readings import Action, Verdict
from lungline.results.records import ResultRecord
from worklist import metrics
from worklist.database import audit, entries, notices, readings
from worklist.database.access import Person
from worklist.database.entries import Filter
from worklist.database.ingest import touch
from worklist.database.models import ResultRow, WorklistEntry
from worklist.database.readings import VERDICTS, ReadingRefused
from worklist.exports.images import RenderedImage
from worklist.web.context import Context, NotFound, Reader, Worklist, Writer

router = APIRouter()

_RECORD = TypeAdapter(ResultRecord)


@router.get("/x/{identity}", response_class=HTMLResponse)
def view(request: Request, identity: str, context: Context, person: Reader) -> Response:
    """The page."""
    wanted = Filter.of(request.query_params)
    with context.database.writing() as session:  # the audit entry is committed before anything is shown
        entry = _entry(session, identity)
        audit.record(session, person.who, person.role, "opened", identity=identity)
        previous, following = entries.neighbours(session, wanted, entry)
        values = {
            "entry": entry,
            "record": record_of(session, entry),
            "others": _other_versions(session, entry),
            "earlier": entries.same_key(session, entry),
            "readings": readings.history(session, identity),
            "notices": notices.of_upload(session, identity),
        }
    links = {"previous": previous, "following": following, "wanted": wanted, "mlflow": context.settings.mlflow_uri}
    return context.pages.TemplateResponse(request, "viewer.html", values | links | {"person": person})


@router.get("/x/{identity}/xray")
def xray(request: Request, identity: str, context: Context, person: Reader) -> Response:  # noqa: ARG001 - requires a session
    """The X-ray."""
    return _image(request, context, identity, "xray")


@router.get("/x/{identity}/thumb")
def thumb(request: Request, identity: str, context: Context, person: Reader) -> Response:  # noqa: ARG001 - requires a session
    """The X-ray's thumbnail."""
    return _image(request, context, identity, "thumb")


@router.get("/x/{identity}/heat")
def heat(request: Request, identity: str, context: Context, person: Reader) -> Response:  # noqa: ARG001 - requires a session
    """The heatmap, as an overlay for the X-ray."""
    return _image(request, context, identity, "heat")


@router.post("/x/{identity}/readings")
async def read(request: Request, identity: str, context: Context, person: Writer) -> Response:
    """Store a reading, then show the next upload of the list."""
    form = await request.form()
    choice, comment = str(form.get("say", "")), str(form.get("comment", ""))
    wanted = Filter.of(request.query_params)
    following = await run_in_threadpool(_read, context, person, identity, choice, comment, wanted)
    context.live.nudge()
    query = wanted.query()
    return RedirectResponse(f"/x/{following}{query}" if following else f"/{query}", status_code=303)


@router.post("/x/{identity}/acknowledge")
def acknowledge(request: Request, identity: str, context: Context, person: Writer) -> Response:
    """Acknowledge the notices of an upload; nobody else is notified."""
    with context.database.writing() as session:
        entry = _entry(session, identity)
        notices.acknowledge(session, identity, person.who)
        audit.record(session, person.who, person.role, "acknowledged", identity=identity)
        touch(entry)
    context.live.nudge()
    return RedirectResponse(f"/x/{identity}{Filter.of(request.query_params).query()}", status_code=303)


@router.get("/models/{version}/card")
def card(version: str, context: Context, person: Reader) -> Response:  # noqa: ARG001 - requires a session
    """A model's card: its training, thresholds and metrics."""
    if not version.replace("-", "").replace("_", "").replace(".", "").isalnum() or version.startswith("."):
        raise NotFound("Model not found.")
    key = f"{context.settings.model_name}/{version}/card.json"
    try:
        data = context.storage.get(context.settings.models_bucket, key).data
    except ObjectGone:
        raise NotFound("The card of this model is not in the models bucket.") from None
    return Response(data, media_type="application/json")


def record_of(session: Session, entry: WorklistEntry) -> ResultRecord:
    """The result record that an entry shows."""
    row = session.get(ResultRow, entry.record)
    if row is None:
        raise NotFound("The result of this upload is not in the database. Run `lungline worklist rebuild`.")
    return _RECORD.validate_json(row.body)


def _read(  # noqa: PLR0917 - a reading, who made it, and the list they came from
    context: Worklist, person: Person, identity: str, choice: str, comment: str, wanted: Filter
) -> str | None:
    """Store a reading; return the identity of the upload to show next."""
    with context.database.writing() as session:
        entry = _entry(session, identity)
        verdict = cast("Verdict", choice) if choice in VERDICTS else None
        if verdict is None and choice not in get_args(Action):
            raise ReadingRefused("Unknown reading.")
        # Choosing the predicted label confirms it, whichever button was used.
        by_verdict = "confirmed" if verdict == entry.label else "corrected"
        action = cast("Action", by_verdict if verdict else choice)
        reading = readings.read(session, entry, reader=person.who, action=action, verdict=verdict, comment=comment)
        metrics.count_reading(reading)
        audit.record(session, person.who, person.role, action, identity=identity, detail=verdict or "")
        if action == "reopened":
            return identity
        notices.cancel(session, identity, person.who)
        return entries.neighbours(session, wanted, entry)[1]


def _entry(session: Session, identity: str) -> WorklistEntry:
    entry = entries.find(session, identity)
    if entry is None:
        raise NotFound("Upload not found on the worklist.")
    return entry


def _other_versions(session: Session, entry: WorklistEntry) -> list[ResultRecord]:
    statement = select(ResultRow.body).where(ResultRow.identity == entry.identity, ResultRow.id != entry.record)
    return [
        _RECORD.validate_json(body) for body in session.scalars(statement.order_by(ResultRow.done.desc()).limit(20))
    ]


def _image(request: Request, context: Worklist, identity: str, kind: str) -> Response:
    with context.database.reading() as session:
        entry = _entry(session, identity)
        record = record_of(session, entry)
    tag = f'"{kind}-{record.id}"'
    # Browsers cache it but revalidate each time, so nothing is shown after signing out.
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    try:
        image: RenderedImage = getattr(context.images, kind)(record)
    except ObjectGone as exc:
        raise NotFound(str(exc)) from exc
    return Response(image.data, media_type=image.media_type, headers=headers)
