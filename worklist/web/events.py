"""Events in: results from the predictor's trigger, and what befell uploads elsewhere."""

import hashlib
import logging
import secrets
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from lungline import tracing
from lungline.errors import EventMalformed
from lungline.events import cloudevents
from lungline.events.uploads import UPLOAD_TYPE, parse
from lungline.results import records as results
from lungline.results.events import results_of
from lungline.results.records import ResultRecord
from worklist import metrics
from worklist.database import counters
from worklist.database.ingest import take_in
from worklist.web.context import Context, Forbidden, Worklist

router = APIRouter()
_log = logging.getLogger(__name__)


@router.post("/")
async def receive(request: Request, here: Context) -> Response:
    """A CloudEvent. 204: taken in, or known already; 400: no retry can help; 503: send it again."""
    _authorise(request, here)
    event = cloudevents.parse(request.headers, await _body(request))
    told = cloudevents.trace_of(request.headers)
    await run_in_threadpool(_take_in, here, results_of(event), told)
    here.live.nudge()
    return Response(status_code=204)


@router.post("/dead-letters")
async def receive_dead_letter(request: Request, here: Context) -> Response:
    """An event that nobody could handle, from Knative's dead letter sink or the laptop's.

    A refused image is one: its upload event is dead-lettered, and the record that says why lies in S3. Of the letter
    itself only a digest is kept. 503 when S3 does not answer.
    """
    _authorise(request, here)
    body = await _body(request)
    if not request.headers.get("ce-type", UPLOAD_TYPE).startswith(("dev.knative", "org.lungline")):
        raise EventMalformed("The dead letter is not one of Lungline's events.")
    code = request.headers.get("ce-knativeerrorcode", "")[:16]
    await run_in_threadpool(_take_letter, here, body, code)
    here.live.nudge()
    return Response(status_code=204)


@router.get("/healthz")
@router.get("/v2/health/ready")
def health(here: Context) -> JSONResponse:
    """Whether the database answers; 503 when it does not."""
    with here.database.reading() as session:
        session.execute(select(1))
    return JSONResponse({"status": "ready", "pages": here.live.pages})


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        cloudevents.require_size(body)
    return body


def _authorise(request: Request, here: Worklist) -> None:
    wanted = here.settings.worklist.event_token
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if wanted and not secrets.compare_digest(given.encode(), wanted.get_secret_value().encode()):
        raise Forbidden("Events must carry the token that the setting worklist.event_token names.")


def _take_in(here: Worklist, records: Sequence[ResultRecord], told: str | None = None) -> None:
    for record in records:
        identity = record.upload.identity
        with tracing.span("show", told or tracing.of_upload(identity), "server") as span:
            changed = take_in(here.database, here.rules, record, here.settings)
            span.add(changed=changed)
        if changed:
            metrics.count_result(record)
            _log.info("on the list", extra={"identity": identity})


def _take_letter(here: Worklist, body: bytes, code: str) -> None:
    try:
        uploads = parse(body)
    except EventMalformed:  # that is why it was dead-lettered: nobody can tell what it was about
        uploads = []
    for upload in uploads:
        _take_in(here, results.find(here.storage, here.settings.results_bucket, upload.identity))
    names = [upload.identity for upload in uploads] or [hashlib.sha256(body).hexdigest()[:32]]
    with here.database.writing() as session:
        for name in names:
            counters.count_dead_letter(session, name, code)
