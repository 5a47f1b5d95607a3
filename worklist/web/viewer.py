"""The viewer: one X-ray, what the model says of it, and what readers say."""

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
from worklist.web.context import Context, NotHere, Reader, Worklist, Writer

router = APIRouter()

_RECORD = TypeAdapter(ResultRecord)


@router.get("/x/{identity}", response_class=HTMLResponse)
def view(request: Request, identity: str, here: Context, person: Reader) -> Response:
    """The page."""
    wanted = Filter.of(request.query_params)
    with here.database.writing() as session:  # that it was opened is written before anything is shown
        entry = _entry(session, identity)
        audit.record(session, person.who, person.role, "opened", identity=identity)
        previous, following = entries.neighbours(session, wanted, entry)
        values = {
            "entry": entry,
            "record": record_of(session, entry),
            "others": _other_versions(session, entry),
            "earlier": entries.same_key(session, entry),
            "said": readings.history(session, identity),
            "told": notices.of_upload(session, identity),
        }
    links = {"previous": previous, "following": following, "wanted": wanted, "mlflow": here.settings.mlflow_uri}
    return here.pages.TemplateResponse(request, "viewer.html", values | links | {"person": person})


@router.get("/x/{identity}/xray")
def xray(request: Request, identity: str, here: Context, person: Reader) -> Response:  # noqa: ARG001 - as above
    """The X-ray."""
    return _image(request, here, identity, "xray")


@router.get("/x/{identity}/thumb")
def thumb(request: Request, identity: str, here: Context, person: Reader) -> Response:  # noqa: ARG001 - as above
    """The X-ray, small."""
    return _image(request, here, identity, "thumb")


@router.get("/x/{identity}/heat")
def heat(request: Request, identity: str, here: Context, person: Reader) -> Response:  # noqa: ARG001 - as above
    """What the model looked at, to be laid over the X-ray."""
    return _image(request, here, identity, "heat")


@router.post("/x/{identity}/readings")
async def read(request: Request, identity: str, here: Context, person: Writer) -> Response:
    """What a reader says; then the next upload of the list they came from."""
    form = await request.form()
    said, comment = str(form.get("say", "")), str(form.get("comment", ""))
    wanted = Filter.of(request.query_params)
    onwards = await run_in_threadpool(_read, here, person, identity, said, comment, wanted)
    here.live.nudge()
    query = wanted.query()
    return RedirectResponse(f"/x/{onwards}{query}" if onwards else f"/{query}", status_code=303)


@router.post("/x/{identity}/acknowledge")
def acknowledge(request: Request, identity: str, here: Context, person: Writer) -> Response:
    """Somebody takes care of this upload; nobody else is told."""
    with here.database.writing() as session:
        entry = _entry(session, identity)
        notices.acknowledge(session, identity, person.who)
        audit.record(session, person.who, person.role, "acknowledged", identity=identity)
        touch(entry)
    here.live.nudge()
    return RedirectResponse(f"/x/{identity}{Filter.of(request.query_params).query()}", status_code=303)


@router.get("/models/{version}/card")
def card(version: str, here: Context, person: Reader) -> Response:  # noqa: ARG001 - only for who is signed in
    """The card of a model: how it was trained, its thresholds and figures."""
    if not version.replace("-", "").replace("_", "").replace(".", "").isalnum() or version.startswith("."):
        raise NotHere("There is no such model.")
    key = f"{here.settings.model_name}/{version}/card.json"
    try:
        data = here.storage.get(here.settings.models_bucket, key).data
    except ObjectGone:
        raise NotHere("The card of this model does not lie in the models bucket.") from None
    return Response(data, media_type="application/json")


def record_of(session: Session, entry: WorklistEntry) -> ResultRecord:
    """The result record that an entry shows."""
    found = session.get(ResultRow, entry.record)
    if found is None:
        raise NotHere("The record of this upload is not in the database: run `lungline worklist rebuild`.")
    return _RECORD.validate_json(found.body)


def _read(  # one act of one reader  # noqa: PLR0917
    here: Worklist, person: Person, identity: str, said: str, comment: str, wanted: Filter
) -> str | None:
    """Store what was said; the identity of the upload to show next."""
    with here.database.writing() as session:
        entry = _entry(session, identity)
        verdict = cast("Verdict", said) if said in VERDICTS else None
        if verdict is None and said not in get_args(Action):
            raise ReadingRefused("Nobody can say that of an X-ray.")
        # Who names what the model said confirms it, whichever button they used.
        named = "confirmed" if verdict == entry.label else "corrected"
        action = cast("Action", named if verdict else said)
        said_now = readings.read(session, entry, reader=person.who, action=action, verdict=verdict, comment=comment)
        metrics.count_reading(said_now)
        audit.record(session, person.who, person.role, action, identity=identity, detail=verdict or "")
        if action == "reopened":
            return identity
        notices.cancel(session, identity, person.who)
        return entries.neighbours(session, wanted, entry)[1]


def _entry(session: Session, identity: str) -> WorklistEntry:
    entry = entries.find(session, identity)
    if entry is None:
        raise NotHere("There is no such upload on the worklist.")
    return entry


def _other_versions(session: Session, entry: WorklistEntry) -> list[ResultRecord]:
    asked = select(ResultRow.body).where(ResultRow.identity == entry.identity, ResultRow.id != entry.record)
    return [_RECORD.validate_json(body) for body in session.scalars(asked.order_by(ResultRow.done.desc()).limit(20))]


def _image(request: Request, here: Worklist, identity: str, kind: str) -> Response:
    with here.database.reading() as session:
        entry = _entry(session, identity)
        record = record_of(session, entry)
    tag = f'"{kind}-{record.id}"'
    # Kept by the browser, but asked for each time: who signs out sees nothing any more.
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    try:
        shown: RenderedImage = getattr(here.pictures, kind)(record)
    except ObjectGone as exc:
        raise NotHere(str(exc)) from exc
    return Response(shown.data, media_type=shown.media_type, headers=headers)
