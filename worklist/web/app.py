"""The worklist's web service, wired in one place."""

import asyncio
import contextlib
import hashlib
import logging
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from lungline.connections import BACKLOG, guarded, most_connections
from lungline.errors import EventMalformed, ImageRefused, LunglineError, Unavailable
from lungline.events.proof import Receiver
from lungline.events.proof_layer import ProvedEvents
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from worklist.database.access import Access, own_host
from worklist.database.ingest import ingested
from worklist.database.losses import Losses
from worklist.database.models import WorklistEntry
from worklist.database.readings import ReadingRefused, ResultChanged
from worklist.database.rebuild import Restoration
from worklist.database.session import BUSY_SECONDS, Database
from worklist.delivery.courier import Courier
from worklist.destinations import load_destinations
from worklist.exports.dicom_studies import SearchTooWide
from worklist.exports.images import ImageRenderer
from worklist.incoming import Incoming, ResultMissing, VersionUnknown
from worklist.intake import Intake
from worklist.jobs import Jobs
from worklist.metrics import CountedRequests
from worklist.notifier import TIMEOUT_SECONDS, Notifier
from worklist.rules import load_rules
from worklist.tasks import task_of
from worklist.unannounced import Unannounced
from worklist.web import (
    dicomweb_retrieve,
    dossiers,
    events,
    exports,
    list_page,
    oidc,
    second_opinions,
    sign_in,
    viewer,
)
from worklist.web.accepted import NotAcceptable
from worklist.web.context import Forbidden, NotFound, SignInNeeded, Worklist, wants_page
from worklist.web.dicomweb import TokenNeeded
from worklist.web.dicomweb_query import QueryRefused
from worklist.web.live import Live
from worklist.web.looks import Looks
from worklist.web.rendering import FILTERS
from worklist.web.security import Forms, KnownHosts, SecurityHeaders, is_event
from worklist.web.task_book import Look, TaskBook
from worklist.web.viewer_origins import ViewerOrigins, origins

FOLDER = Path(__file__).parent
_log = logging.getLogger(__name__)
# HTTP statuses of errors; the first match counts.
STATUS: tuple[tuple[type[LunglineError], int], ...] = (
    (SignInNeeded, 401),
    (TokenNeeded, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (ResultMissing, 404),
    (VersionUnknown, 409),
    (ReadingRefused, 400),
    (QueryRefused, 400),
    (NotAcceptable, 406),
    (SearchTooWide, 413),
    (ResultChanged, 409),
    (EventMalformed, 400),
    (ImageRefused, 422),
    (Unavailable, 503),
)


def build_app(
    settings: Settings,
    storage: Storage | None = None,
    *,
    address: str = "http://127.0.0.1:8900",
    busy_seconds: float = BUSY_SECONDS,
    notice_timeout: float = TIMEOUT_SECONDS,
    restore: bool = True,
) -> FastAPI:
    """Build the service; `address` is its public URL unless `worklist.uri` is set.

    `restore` fills an empty database from the results bucket, and takes in results from there that no event announced.

    Raises SettingsError for invalid notice rules, destinations or origins, DatabaseUnavailable without a database.
    """
    own = task_of(settings)
    rules = load_rules(settings.worklist.notice_rules, own)
    destinations = load_destinations(settings.worklist.destinations, own)
    provider = oidc.client_of(settings.worklist) if settings.worklist.login == "oidc" else None
    database = Database.open(settings, busy_seconds)
    storage = storage or Storage.from_settings(settings)
    pages = Jinja2Templates(env=_environment())
    row = pages.env.get_template("_row.html")
    tasks = TaskBook(database, own)
    pages.env.globals.update(look_of=tasks.look, look_of_record=Look.of_record, task_book=tasks)

    def render(entry: WorklistEntry) -> str:
        return row.render(entry=entry, query="")

    store = partial(
        ingested,
        database,
        rules=rules,
        destinations=destinations,
        notice_max_age=timedelta(minutes=settings.worklist.notice_max_age),
    )
    access = Access(database, settings)
    live = Live(database, render, access.alive, tasks)
    images = ImageRenderer(storage, settings)
    app = FastAPI(lifespan=_lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    notifier = Notifier(database, settings, rules, (settings.worklist.uri or address).rstrip("/"), notice_timeout)
    incoming, losses = Incoming(storage, settings), Losses()
    restoration = Restoration.of(database) if restore else Restoration()
    app.state.worklist = Worklist(
        settings,
        database,
        storage,
        access,
        live,
        pages,
        images,
        rules,
        destinations,
        incoming,
        Intake(store),
        Looks(database),
        restoration,
        losses,
        tasks,
    )
    app.state.stop = lambda: None
    courier = Courier(database, storage, settings, destinations)
    take_in = partial(events.take_in, app.state.worklist)
    unannounced = Unannounced(database, storage, settings.results_bucket, take_in)
    app.state.jobs = Jobs(
        database,
        storage,
        settings,
        notifier=notifier,
        courier=courier,
        restoration=restoration,
        losses=losses,
        unannounced=unannounced if restore else None,
    )
    pages_of = (events, list_page, viewer, dossiers, sign_in, exports, dicomweb_retrieve, second_opinions)
    for routes in pages_of:
        app.include_router(routes.router)
    app.mount("/static", StaticFiles(directory=FOLDER / "static"))
    _add_handlers(app)
    if provider:
        oidc.install(app, settings, provider)
    hosts = [host.strip() for host in settings.worklist.hosts.split(",") if host.strip()]
    app.add_middleware(Forms, is_signed_in=lambda cookie: access.person(cookie) is not None)
    if allowed := origins(settings.worklist.viewer_origins):
        app.add_middleware(ViewerOrigins, allowed=allowed)
    app.add_middleware(events.EventRoutes, context=app.state.worklist, refusal=_refusal)
    app.add_middleware(KnownHosts, allowed_hosts=hosts, own=own_host(settings))
    if key := settings.event_key:
        app.add_middleware(ProvedEvents, receiver=Receiver(key.get_secret_value(), "worklist"), is_event=is_event)
    app.add_middleware(SecurityHeaders, https=app.state.worklist.https)
    app.add_middleware(CountedRequests)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    worklist: Worklist = app.state.worklist
    tasks = [asyncio.create_task(worklist.live.run()), asyncio.create_task(app.state.jobs.run())]
    for task in tasks:
        task.add_done_callback(partial(_watch, app))
    try:
        yield
    finally:
        worklist.live.close()
        app.state.jobs.stop()
        # Jobs end after their round; one that hangs is cancelled.
        await asyncio.wait(tasks, timeout=10)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        worklist.incoming.close()
        worklist.database.close()


def _watch(app: FastAPI, task: asyncio.Task[None]) -> None:
    """End the service when a loop that must live has died: it is started again, and says until then that it is ill."""
    if not task.cancelled() and (fault := task.exception()):
        _log.error("A background loop has ended, and so does the worklist.", exc_info=fault)
        app.state.worklist.ill.set()
        app.state.stop()


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    environment.globals["static"] = _static_names()
    return environment


def _static_names() -> dict[str, str]:
    """URLs of static files that change with their content, so that no browser uses an old copy."""
    files = sorted((FOLDER / "static").iterdir())
    return {file.name: f"/static/{file.name}?{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}" for file in files}


def _add_handlers(app: FastAPI) -> None:
    async def refused(request: Request, exc: Exception) -> Response:
        if isinstance(exc, SignInNeeded) and wants_page(request):
            return RedirectResponse("/login", status_code=303)
        response = _answer(request, _status_of(exc), str(exc))
        if isinstance(exc, TokenNeeded):
            response.headers["www-authenticate"] = "Bearer"
        return response

    async def malformed(request: Request, _exc: Exception) -> Response:
        return _answer(request, 400, "Invalid form data.")

    async def unknown(request: Request, exc: Exception) -> Response:
        status = exc.status_code if isinstance(exc, HTTPException) else 500
        return _answer(request, status, "Page not found." if status == 404 else "This request is not allowed.")

    app.add_exception_handler(LunglineError, refused)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, unknown)


def _status_of(exc: Exception) -> int:
    return next((code for kind, code in STATUS if isinstance(exc, kind)), 500)


def _refusal(exc: LunglineError) -> Response:
    """The answer to a program."""
    return _sentence(_status_of(exc), str(exc))


def _sentence(status: int, sentence: str) -> Response:
    return JSONResponse({"error": sentence}, status_code=status, headers=_headers(status))


def _headers(status: int) -> dict[str, str] | None:
    return {"retry-after": "5"} if status == 503 else None


def _answer(request: Request, status: int, sentence: str) -> Response:
    if not wants_page(request):
        return _sentence(status, sentence)
    headers = _headers(status)
    pages: Any = request.app.state.worklist.pages
    values = {"status": status, "sentence": sentence, "person": getattr(request.state, "person", None)}
    return pages.TemplateResponse(request, "message.html", values, status_code=status, headers=headers)


class WorklistServer(uvicorn.Server):
    """Uvicorn that closes live pages on shutdown; they would never end by themselves."""

    def __init__(self, app: FastAPI, host: str = "127.0.0.1", port: int = 0) -> None:
        # No access log: URLs may hold search terms.
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            access_log=False,
            # Its own would write tracebacks with messages, which may quote what was sent, and none of it as JSON.
            log_config=None,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=3,
            http=guarded(AutoHTTPProtocol, most_connections()),
            backlog=BACKLOG,
        )
        super().__init__(config)
        self._live = app.state.worklist.live
        app.state.stop = self._stop_soon

    def _stop_soon(self) -> None:
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close live pages, then shut down."""
        self._live.close()
        await super().shutdown(sockets)
