"""The viewer: one X-ray, its result and its readings."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from lungline.errors import ObjectGone
from lungline.results.records import ResultRecord, place_of
from lungline.task.overrides import default_model
from worklist import metrics
from worklist.database import audit, deliveries, entries, notices, opinions, patients, readings
from worklist.database.access import Person
from worklist.database.entries import Filter
from worklist.database.ingest import notes_of, touch, warnings_of
from worklist.database.models import ResultRow, WorklistEntry
from worklist.database.readings import ResultChanged
from worklist.destinations import Destination
from worklist.exports.images import RenderedImage
from worklist.web.context import Context, NotFound, Reader, Worklist, Writer, next_page, searched, wanted_of, wants_page
from worklist.web.looks import SAW_PATIENT
from worklist.web.shown_findings import ShownFindings
from worklist.web.submitted_reading import Judgement, SubmittedReading

router = APIRouter()


_RECORD = TypeAdapter(ResultRecord)
# What the audit log calls a look at an image.
_SAW = {"xray": "saw the X-ray", "thumb": "saw the thumbnail", "heat": "saw the heatmap"}


@router.get("/x/{identity}", response_class=HTMLResponse)
def view(request: Request, identity: str, context: Context, person: Reader) -> Response:
    """The page."""
    return _page(request, identity, context, person)


def _page(  # what a request shows, and what is kept of a reading that was not stored
    request: Request, identity: str, context: Worklist, person: Person, *, conflict: str = "", comment: str = ""
) -> Response:
    wanted = searched(request, context, person)
    with context.database.writing() as session:  # the audit entries are committed before anything is shown
        entry = _entry(session, identity)
        patient = patients.of_upload(session, identity) if person.sees_patients else None
        other_images = patients.other_images(session, patient) if patient else []
        record = record_of(session, entry)
        previous, following = entries.neighbours(session, wanted, entry)
        values = {
            "entry": entry,
            "record": record,
            "warnings": warnings_of(record),
            "outlines": record.lungs.outlines if record.lungs else (),
            "inside": record.lungs.heat_inside if record.lungs else None,
            "notes": notes_of(record),
            "capture_error": _capture_error(session, entry),
            "others": _other_versions(session, entry),
            "second_opinions": opinions.of_upload(session, identity),
            "earlier": entries.same_key(session, entry),
            "readings": (history := readings.history(session, identity)),
            "shown_findings": ShownFindings.of(record, entry, history),
            "notices": notices.of_upload(session, identity),
            "deliveries": deliveries.of_upload(session, identity),
            "patient": patient,
            "other_images": other_images,
        }
        audit.record(session, person.who, person.role, "opened", identity=identity)
        for shown in (patient, *(other for _, other in other_images)):
            if shown:
                audit.record(session, person.who, person.role, SAW_PATIENT, identity=shown.identity)
    links = {"previous": previous, "following": following, "wanted": wanted, "mlflow": context.settings.mlflow_uri}
    form = {"conflict": conflict, "comment": comment, "reading_id": readings.new_id(), "person": person}
    status = 409 if conflict else 200
    return context.pages.TemplateResponse(request, "viewer.html", values | links | form, status_code=status)


@router.get("/x/{identity}/xray")
def xray(request: Request, identity: str, context: Context, person: Reader) -> Response:
    """The X-ray."""
    return _image(request, context, person, identity, "xray")


@router.get("/x/{identity}/thumb")
def thumb(request: Request, identity: str, context: Context, person: Reader) -> Response:
    """The X-ray's thumbnail."""
    return _image(request, context, person, identity, "thumb")


@router.get("/x/{identity}/heat")
def heat(request: Request, identity: str, context: Context, person: Reader, record: str = "") -> Response:
    """The heatmap, as an overlay for the X-ray; of the result with the id `record`, by default the latest."""
    return _image(request, context, person, identity, "heat", record)


@router.post("/x/{identity}/readings")
async def read(request: Request, identity: str, context: Context, person: Writer) -> Response:
    """Store a reading, then show the next upload of the list."""
    wanted = await run_in_threadpool(searched, request, context, person)
    submitted = SubmittedReading.of(await request.form())
    try:
        following = await run_in_threadpool(_read, context, person, identity, submitted, wanted)
    except ResultChanged as exc:
        if not wants_page(request):
            raise
        kept = {"conflict": str(exc), "comment": submitted.comment}
        return await run_in_threadpool(_page, request, identity, context, person, **kept)
    context.live.nudge()
    query = wanted.query()
    return next_page(request, f"/x/{following}{query}" if following else f"/{query}")


@router.post("/x/{identity}/acknowledge")
def acknowledge(  # noqa: PLR0917 - a request, and the result that it is about
    request: Request,
    identity: str,
    context: Context,
    person: Writer,
    record: Annotated[str, Form()],
    label: Annotated[str, Form()] = "",
) -> Response:
    """Acknowledge the notices of an upload; nobody else is notified."""
    with context.database.writing() as session:
        entry = _entry(session, identity, lock=True)
        readings.require_shown(entry, record, label)
        notices.acknowledge(session, identity, person.who)
        touch(entry)
        audit.record(session, person.who, person.role, "acknowledged", identity=identity)
    context.live.nudge()
    return next_page(request, f"/x/{identity}{wanted_of(request, context).query()}")


@router.get("/models/{version}/card")
def card(version: str, context: Context, person: Reader) -> Response:  # noqa: ARG001 - requires a session
    """A model's card: its training, thresholds and metrics."""
    if not version.replace("-", "").replace("_", "").replace(".", "").isalnum() or version.startswith("."):
        raise NotFound("Model not found.")
    key = f"{'/'.join(place_of(version, default_model(context.settings)))}/card.json"
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


def _read(context: Worklist, person: Person, identity: str, submitted: SubmittedReading, wanted: Filter) -> str | None:
    """Store a reading, once however often it is submitted; return the identity of the upload to show next."""
    with context.database.writing() as session:
        entry = _entry(session, identity, lock=True)
        if not submitted.is_stored(session, identity, person.who):
            _store(session, entry, submitted, person, context.destinations)
        return identity if submitted.choice == "reopened" else entries.neighbours(session, wanted, entry)[1]


def _store(
    session: Session,
    entry: WorklistEntry,
    submitted: SubmittedReading,
    person: Person,
    destinations: Sequence[Destination],
) -> None:
    readings.require_shown(entry, submitted.record, submitted.label)
    record = record_of(session, entry)
    judgement = submitted.judgement(record)
    free = submitted.id if submitted.id and readings.find(session, submitted.id) is None else None
    reading = readings.read(
        session,
        entry,
        reader=person.who,
        action=judgement.action,
        verdict=judgement.verdict,
        findings=judgement.findings,
        comment=submitted.comment,
        reading_id=free,
    )
    metrics.count_reading(reading, record.task_terms)
    if judgement.action != "reopened":
        notices.cancel(session, entry.identity, person.who)
    deliveries.queue_reading(session, destinations, entry.record, judgement.action)
    detail = _detail(submitted, judgement)
    audit.record(session, person.who, person.role, judgement.action, identity=entry.identity, detail=detail)


def _detail(submitted: SubmittedReading, judgement: Judgement) -> str:
    """The verdict where the reader named one, and the findings that are there where the task has several."""
    verdict = "" if submitted.choice == "confirmed" else judgement.verdict or ""
    there = ", ".join(name for name, presence in judgement.findings.items() if presence == "present")
    return " ".join(filter(None, (verdict, there and f"({there})")))


def _entry(session: Session, identity: str, *, lock: bool = False) -> WorklistEntry:
    entry = entries.find(session, identity, lock=lock)
    if entry is None:
        raise NotFound("Upload not found on the worklist.")
    return entry


def _capture_error(session: Session, entry: WorklistEntry) -> str | None:
    row = session.get(ResultRow, entry.record)
    return row.capture_error if row else None


def _other_versions(session: Session, entry: WorklistEntry) -> list[ResultRecord]:
    statement = select(ResultRow.body).where(ResultRow.identity == entry.identity, ResultRow.id != entry.record)
    return [
        _RECORD.validate_json(body) for body in session.scalars(statement.order_by(ResultRow.done.desc()).limit(20))
    ]


def _image(  # noqa: PLR0917 - a request, who makes it, and what it is for
    request: Request, context: Worklist, person: Person, identity: str, kind: str, name: str = ""
) -> Response:
    with context.database.reading() as session:
        entry = _entry(session, identity)
        row = session.get(ResultRow, name) if name else None
        is_shown = row is not None and row.identity == identity
        record = _RECORD.validate_json(row.body) if row and is_shown else record_of(session, entry)
    context.looks.record(person, _SAW[kind], identity=identity)
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
