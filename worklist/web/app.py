"""The worklist's web service, wired in one place."""

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator
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

from lungline.errors import EventMalformed, ImageRefused, LunglineError, Unavailable
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from worklist.database.access import Access
from worklist.database.models import WorklistEntry
from worklist.database.readings import ReadingRefused
from worklist.database.session import Database
from worklist.exports.images import ImageRenderer
from worklist.jobs import Jobs
from worklist.metrics import CountedRequests
from worklist.rules import load_rules
from worklist.web import events, exports, list_page, oidc, sign_in, viewer
from worklist.web.context import Forbidden, NotHere, SignInNeeded, Worklist
from worklist.web.live import Live
from worklist.web.rendering import FILTERS
from worklist.web.security import KnownHosts, SecurityHeaders

HERE = Path(__file__).parent
# What an error means to whoever asked; the first that fits.
STATUS: tuple[tuple[type[LunglineError], int], ...] = (
    (SignInNeeded, 401),
    (Forbidden, 403),
    (NotHere, 404),
    (ReadingRefused, 400),
    (EventMalformed, 400),
    (ImageRefused, 422),
    (Unavailable, 503),
)


def build_app(settings: Settings, storage: Storage | None = None, *, address: str = "http://127.0.0.1:8900") -> FastAPI:
    """The service; `address` is where people reach it unless the settings say otherwise.

    Raises SettingsError for rules that cannot be used, DatabaseUnavailable when the database does not answer.
    """
    rules = load_rules(settings.worklist.notice_rules)
    database = Database.open(settings)
    storage = storage or Storage.from_settings(settings)
    pages = Jinja2Templates(env=_environment())
    row = pages.env.get_template("_row.html")

    def render(entry: WorklistEntry) -> str:
        return row.render(entry=entry, query="")

    live = Live(database, render)
    access = Access(database, settings)
    pictures = ImageRenderer(storage, settings)
    app = FastAPI(lifespan=_lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.worklist = Worklist(settings, database, storage, access, live, pages, pictures, rules)
    app.state.chores = Jobs(database, storage, settings, rules, address)
    for routes in (events, list_page, viewer, sign_in, exports):
        app.include_router(routes.router)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    _add_handlers(app)
    if settings.worklist.login == "oidc":
        oidc.install(app, settings)
    hosts = [host.strip() for host in settings.worklist.hosts.split(",") if host.strip()]
    app.add_middleware(KnownHosts, allowed_hosts=hosts, www_redirect=False)
    app.add_middleware(SecurityHeaders, https=app.state.worklist.https)
    app.add_middleware(CountedRequests)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    here: Worklist = app.state.worklist
    tasks = [asyncio.create_task(here.live.run()), asyncio.create_task(app.state.chores.run())]
    try:
        yield
    finally:
        here.live.close()
        app.state.chores.stop()
        # What is under way ends by itself; a service that takes a notice for ever is not waited for.
        await asyncio.wait(tasks, timeout=10)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        here.database.close()


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    environment.globals["static"] = _static_names()
    return environment


def _static_names() -> dict[str, str]:
    """Addresses of our files that change with their content, so that no browser shows an old one."""
    files = sorted((HERE / "static").iterdir())
    return {file.name: f"/static/{file.name}?{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}" for file in files}


def _add_handlers(app: FastAPI) -> None:
    async def ours(request: Request, exc: Exception) -> Response:
        status = next((code for kind, code in STATUS if isinstance(exc, kind)), 500)
        if isinstance(exc, SignInNeeded) and _wants_page(request):
            return RedirectResponse("/login", status_code=303)
        return _say(request, status, str(exc))

    async def malformed(request: Request, _exc: Exception) -> Response:
        return _say(request, 400, "The request lacks something, or has too much.")

    async def unknown(request: Request, exc: Exception) -> Response:
        status = exc.status_code if isinstance(exc, HTTPException) else 500
        return _say(request, status, "There is nothing here." if status == 404 else "That cannot be done here.")

    app.add_exception_handler(LunglineError, ours)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, unknown)


def _say(request: Request, status: int, sentence: str) -> Response:
    headers = {"retry-after": "5"} if status == 503 else None
    if not _wants_page(request):
        return JSONResponse({"error": sentence}, status_code=status, headers=headers)
    pages: Any = request.app.state.worklist.pages
    values = {"status": status, "sentence": sentence, "person": getattr(request.state, "person", None)}
    return pages.TemplateResponse(request, "message.html", values, status_code=status, headers=headers)


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


class WorklistServer(uvicorn.Server):
    """Uvicorn, which would wait for live pages that never end by themselves."""

    def __init__(self, app: FastAPI, host: str = "127.0.0.1", port: int = 0) -> None:
        # No access log: an address may hold what somebody searched for.
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=3,
        )
        super().__init__(config)
        self._live = app.state.worklist.live

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End in order."""
        self._live.close()
        await super().shutdown(sockets)
