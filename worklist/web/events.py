"""Incoming events: results from the trigger, and dead letters.

They come a hundred times a second and from programs alone, so they have a way of their own past sessions, forms and
pages: what those guard, cookies and what browsers send, no event has. Its sender's proof or token, its size and its
host are checked all the same.
"""

import hashlib
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import SimpleNamespace

from fastapi import APIRouter, Request, Response
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from lungline import tracing
from lungline.errors import EventMalformed, LunglineError
from lungline.events import cloudevents
from lungline.events.uploads import UPLOAD_TYPE, parse
from lungline.results.events import OPINION_TYPE, opinions_of, results_of
from lungline.results.opinions import Opinion
from lungline.results.records import ResultRecord
from worklist import metrics
from worklist.database import counters, erased, opinions
from worklist.web.context import Context, Forbidden, Worklist
from worklist.web.security import DEAD_LETTERS, RESULTS, is_event

router = APIRouter()
_log = logging.getLogger(__name__)


class EventRoutes:
    """Handles events, and passes all other requests on to `app`; `refusal` answers an error."""

    def __init__(self, app: ASGIApp, context: Worklist, refusal: Callable[[LunglineError], Response]) -> None:
        self._app = app
        self._context = context
        self._refusal = refusal
        self._routes = {RESULTS: receive_results, DEAD_LETTERS: receive_dead_letter}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http" or not is_event(scope):
            await self._app(scope, receive, send)
            return
        scope["route"] = SimpleNamespace(path=scope["path"])  # for the metrics, as a router would
        try:
            response = await self._routes[scope["path"]](Request(scope, receive), self._context)
        except LunglineError as exc:
            response = self._refusal(exc)
        await response(scope, receive, send)


async def receive_results(request: Request, context: Worklist) -> Response:
    """Accept a CloudEvent or a batch, and show the records in the results bucket that they point at.

    204: shown, now or before; 400: invalid, do not retry; 404: no such record, 409: its version was never promoted:
    retry, it may come; 503: retry. All of a batch is shown, or nothing.
    """
    _authorise(request, context)
    events = cloudevents.parse_all(request.headers, await _body(request))
    if events:
        await run_in_threadpool(_show, context, events)
        context.live.nudge()
    return Response(status_code=204)


async def receive_dead_letter(request: Request, context: Worklist) -> Response:
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


def _show(context: Worklist, events: Sequence[cloudevents.CloudEvent]) -> None:
    hints = [hint for event in events if event.type == OPINION_TYPE for hint in opinions_of(event)]
    if hints:
        _store_opinions(context, context.incoming.opinions(hints))
    _show_results(context, [event for event in events if event.type != OPINION_TYPE])


def _store_opinions(context: Worklist, given: Sequence[Opinion]) -> None:
    try:
        opinions.store(context.database, given)
    except erased.UploadsErased as exc:
        records = [each.record for each in given]
        left = {each.id for each in erased.sent_again(context.database, context.storage, records, exc.identities)}
        opinions.store(context.database, [each for each in given if each.record.id in left])


def _show_results(context: Worklist, events: Sequence[cloudevents.CloudEvent]) -> None:
    pointed = [(hint, event.trace) for event in events for hint in _hints(event)]
    records = context.incoming.recorded([hint for hint, _ in pointed])
    _store(context, records, {hint.id: trace for hint, trace in pointed if trace})


def _hints(event: cloudevents.CloudEvent) -> list[ResultRecord]:
    try:
        return results_of(event)
    except EventMalformed:
        metrics.count_refused("malformed")
        raise


def _store(context: Worklist, records: Sequence[ResultRecord], traces: Mapping[str, str] | None = None) -> None:
    given = traces or {}
    with ExitStack() as spans:
        by_record = {
            record.id: spans.enter_context(
                tracing.span("show", given.get(record.id, tracing.of_upload(record.upload.identity)), "server")
            )
            for record in records
        }
        changed = _add(context, records) if records else []
        changed_ids = {record.id for record in changed}
        for name, span in by_record.items():
            span.add(changed=name in changed_ids)
    for record in changed:
        metrics.count_result(record)
        _log.info("on the list", extra={"identity": record.upload.identity})


def _add(context: Worklist, records: Sequence[ResultRecord]) -> Sequence[ResultRecord]:
    """Store results; of uploads that were erased since their records were read, nothing."""
    try:
        return context.intake.add(records, context.incoming.patients(records))
    except erased.UploadsErased as exc:
        left = erased.sent_again(context.database, context.storage, records, exc.identities)
        return context.intake.add(left, context.incoming.patients(left)) if left else []


def take_in(context: Worklist, identities: Sequence[str]) -> None:
    """Show all stored results of uploads that no event has pointed at. Raises what a result event raises."""
    for identity in identities:
        _store(context, context.incoming.of_upload(identity))


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
