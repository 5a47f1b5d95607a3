"""Incoming events: results from the trigger, and dead letters."""

import hashlib
import logging
import secrets
from collections.abc import Sequence
from contextlib import ExitStack

from fastapi import APIRouter, Request, Response
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from lungline import tracing
from lungline.errors import EventMalformed
from lungline.events import cloudevents
from lungline.events.uploads import UPLOAD_TYPE, parse
from lungline.results.events import results_of
from lungline.results.records import ResultRecord
from worklist import metrics
from worklist.database import counters
from worklist.web.context import Context, Forbidden, Worklist

router = APIRouter()
_log = logging.getLogger(__name__)


@router.post("/")
async def receive(request: Request, context: Context) -> Response:
    """Accept a CloudEvent, and show the record in the results bucket that it points at.

    204: shown, now or before; 400: invalid, do not retry; 404: no such record, 409: its version was never promoted:
    retry, it may come; 503: retry.
    """
    _authorise(request, context)
    event = cloudevents.parse(request.headers, await _body(request))
    trace = cloudevents.trace_of(request.headers)
    await run_in_threadpool(_show, context, _hints(event), trace)
    context.live.nudge()
    return Response(status_code=204)


@router.post("/dead-letters")
async def receive_dead_letter(request: Request, context: Context) -> Response:
    """Accept a dead-lettered event, from Knative's dead letter sink or the laptop's.

    Events of refused images are dead-lettered; their records with the reason are read from S3. Only a digest of the
    letter itself is kept. 503 when S3 does not answer.
    """
    _authorise(request, context)
    body = await _body(request)
    if not request.headers.get("ce-type", UPLOAD_TYPE).startswith(("dev.knative", "org.lungline")):
        raise EventMalformed("The dead letter is not a Lungline event.")
    code = request.headers.get("ce-knativeerrorcode", "")[:16]
    await run_in_threadpool(_store_letter, context, body, code)
    context.live.nudge()
    return Response(status_code=204)


@router.get("/healthz")
@router.get("/v2/health/ready")
def health(context: Context) -> JSONResponse:
    """Whether the database answers and the background loops live; 503 when they do not."""
    if context.ill.is_set():
        return JSONResponse({"status": "a background loop has ended"}, 503)
    with context.database.reading() as session:
        session.execute(select(1))
    state = {"status": "ready", "pages": context.live.pages, "restoring": context.restoration.running}
    return JSONResponse(state)


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        cloudevents.require_size(body)
    return body


def _authorise(request: Request, context: Worklist) -> None:
    """Where events are proved, no token is needed: none that is not comes so far."""
    if context.settings.event_key:
        return
    token = context.settings.worklist.event_token
    presented = request.headers.get("authorization", "").removeprefix("Bearer ")
    if token and not secrets.compare_digest(presented.encode(), token.get_secret_value().encode()):
        raise Forbidden("Events must carry the bearer token of the setting worklist.event_token.")


def _hints(event: cloudevents.CloudEvent) -> list[ResultRecord]:
    try:
        return results_of(event)
    except EventMalformed:
        metrics.count_refused("malformed")
        raise


def _show(context: Worklist, hints: Sequence[ResultRecord], trace: str | None) -> None:
    _store(context, context.incoming.recorded(hints), trace)


def _store(context: Worklist, records: Sequence[ResultRecord], trace: str | None = None) -> None:
    with ExitStack() as spans:
        by_record = {
            record.id: spans.enter_context(
                tracing.span("show", trace or tracing.of_upload(record.upload.identity), "server")
            )
            for record in records
        }
        changed = context.intake.add(records, context.incoming.patients(records)) if records else []
        for name, span in by_record.items():
            span.add(changed=any(record.id == name for record in changed))
    for record in changed:
        metrics.count_result(record)
        _log.info("on the list", extra={"identity": record.upload.identity})


def _store_letter(context: Worklist, body: bytes, code: str) -> None:
    try:
        uploads = parse(body)
    except EventMalformed:  # it may have been dead-lettered for that
        uploads = []
    for upload in uploads:
        _store(context, context.incoming.of_upload(upload.identity))
    names = [upload.identity for upload in uploads] or [hashlib.sha256(body).hexdigest()[:32]]
    with context.database.writing() as session:
        for name in names:
            counters.count_dead_letter(session, name, code)
