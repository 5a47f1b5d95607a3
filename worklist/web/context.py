"""Dependencies of all routes: the services of the worklist, and the signed-in user."""

import secrets
import threading
from dataclasses import dataclass, field, replace
from typing import Annotated

from fastapi import Depends, Form, Header, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.templating import Jinja2Templates

from lungline.errors import LunglineError
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from worklist.database import patients
from worklist.database.access import COOKIE, Access, Person
from worklist.database.entries import Filter
from worklist.database.losses import Losses
from worklist.database.rebuild import Restoration
from worklist.database.session import Database
from worklist.destinations import AnyDestination
from worklist.exports.images import ImageRenderer
from worklist.incoming import Incoming
from worklist.intake import Intake
from worklist.rules import NoticeRule
from worklist.web.live import Live
from worklist.web.looks import Looks
from worklist.web.task_book import TaskBook


class SignInNeeded(LunglineError):
    """The request has no valid session."""


class Forbidden(LunglineError):
    """The user may not do this."""


class NotFound(LunglineError):
    """The requested object does not exist."""


@dataclass(frozen=True, slots=True)
class Worklist:
    """The services of a running worklist."""

    settings: Settings
    database: Database
    storage: Storage
    access: Access
    live: Live
    pages: Jinja2Templates
    images: ImageRenderer
    rules: tuple[NoticeRule, ...]
    destinations: tuple[AnyDestination, ...]
    incoming: Incoming
    intake: Intake
    looks: Looks
    restoration: Restoration
    losses: Losses
    tasks: TaskBook
    ill: threading.Event = field(default_factory=threading.Event)
    """Set when a background loop has died."""

    @property
    def https(self) -> bool:
        """Whether the public URL is HTTPS, so that cookies are never sent over plain HTTP."""
        return (self.settings.worklist.uri or "").startswith("https://")


def wants_page(request: Request) -> bool:
    """Whether a request comes from a browser's navigation rather than from a script."""
    return "text/html" in request.headers.get("accept", "")


def next_page(request: Request, url: str) -> Response:
    """Send a browser on to a page; a script gets its URL as JSON."""
    return RedirectResponse(url, status_code=303) if wants_page(request) else JSONResponse({"next": url})


def _worklist(request: Request) -> Worklist:
    return request.app.state.worklist


def _reader(request: Request) -> Person:
    person = _worklist(request).access.person(request.cookies.get(COOKIE))
    if person is None:
        raise SignInNeeded("Sign in to continue.")
    request.state.person = person
    return person


def wanted_of(request: Request, context: Worklist) -> Filter:
    """The filter of a request, without its search by patient."""
    return Filter.of(request.query_params, context.tasks.tasks)


def searched(request: Request, context: Worklist, person: Person) -> Filter:
    """The filter of a request, with what its search finds by patient for those who may see patients."""
    wanted = wanted_of(request, context)
    if not (wanted.q and person.sees_patients):
        return wanted
    with context.database.reading() as session:
        return replace(wanted, patients=patients.matches(session, wanted.q))


def require_sees_patients(person: Person) -> None:
    """Raises Forbidden for users without the right to see whom X-rays are of."""
    if not person.sees_patients:
        raise Forbidden("Only people with the right to see patients may do this.")


def _admin(person: Annotated[Person, Depends(_reader)]) -> Person:
    if not person.is_admin:
        raise Forbidden("Only administrators may do this.")
    return person


def _writer(
    person: Annotated[Person, Depends(_reader)],
    csrf: Annotated[str, Form()] = "",
    x_csrf_token: Annotated[str, Header()] = "",
) -> Person:
    """A user whose own page sent this request, not another site."""
    if not secrets.compare_digest((csrf or x_csrf_token).encode(), person.csrf.encode()):
        raise Forbidden("This page belongs to an earlier session. Reload it and try again.")
    return person


Context = Annotated[Worklist, Depends(_worklist)]
Reader = Annotated[Person, Depends(_reader)]
Admin = Annotated[Person, Depends(_admin)]
Writer = Annotated[Person, Depends(_writer)]
