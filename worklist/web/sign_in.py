"""Sign-in and sign-out, the audit log, notices, and acknowledgement by link."""

import time
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from itsdangerous import BadSignature
from sqlalchemy.orm import Session

from worklist.database import audit, entries, notices
from worklist.database.access import COOKIE, LINK_FILE, signer
from worklist.web.context import Admin, Context, NotFound, Reader, Worklist, Writer

router = APIRouter()

ACKNOWLEDGE_DAYS = 7


@router.get("/login", response_class=HTMLResponse)
def sign_in(request: Request, context: Context, token: str = "") -> Response:
    """Sign in with a single-use link, or show how to get one."""
    if context.access.person(request.cookies.get(COOKIE)):
        return RedirectResponse("/", status_code=303)
    invalid = False
    if token and context.settings.worklist.login == "token":
        cookie = context.access.redeem(token)
        if cookie:
            (context.settings.home / "worklist" / LINK_FILE).unlink(missing_ok=True)
            return welcome(context, cookie)
        invalid = True
    values = {"invalid": invalid, "login": context.settings.worklist.login, "person": None}
    return context.pages.TemplateResponse(request, "login.html", values, status_code=403 if invalid else 200)


@router.post("/logout")
def sign_out(context: Context, person: Writer) -> Response:
    """Sign out."""
    context.access.end(person)
    context.live.nudge()  # open pages of this session end now
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(COOKIE)
    response.headers["clear-site-data"] = '"cache", "storage"'
    return response


@router.get("/session")
def show_session(person: Reader) -> JSONResponse:
    """Who is signed in, the token that their changes must carry, and the server's time in milliseconds."""
    return JSONResponse({"who": person.who, "csrf": person.csrf, "at": round(time.time() * 1000)})


@router.get("/audit", response_class=HTMLResponse)
def show_audit(request: Request, context: Context, person: Admin, before: int | None = None) -> Response:
    """The audit log."""
    context.looks.record(person, "listed", detail="audit log")
    with context.database.reading() as session:
        lines = audit.lines(session, before)
    return context.pages.TemplateResponse(request, "audit.html", {"lines": lines, "person": person})


@router.get("/notices", response_class=HTMLResponse)
def show_notices(request: Request, context: Context, person: Reader) -> Response:
    """The latest notices."""
    context.looks.record(person, "listed", detail="notices")
    with context.database.reading() as session:
        rows = notices.latest(session)
    return context.pages.TemplateResponse(request, "notices.html", {"notices": rows, "person": person})


@router.get("/acknowledge/{signed}", response_class=HTMLResponse)
def confirm_acknowledgement(request: Request, signed: str, context: Context) -> Response:
    """Show a button: mail scanners that follow links must not acknowledge a notice."""
    identity, digest = _notice(context, signed)
    with context.database.reading() as session:
        return _acknowledgement(request, context, session, identity, digest)


@router.post("/acknowledge/{signed}", response_class=HTMLResponse)
def acknowledge(request: Request, signed: str, context: Context, result: Annotated[str, Form()] = "") -> Response:
    """Acknowledge a notice by its link, which shows nothing about the patient.

    `result` is the digest of the result that the button was shown for; when it has changed, the button is shown again.
    """
    identity, _ = _notice(context, signed)
    with context.database.writing() as session:
        if result != _digest(session, identity):
            return _acknowledgement(request, context, session, identity, result or None)
        notices.acknowledge(session, identity, "by link")
        audit.record(session, "by link", "none", "acknowledged", identity=identity)
    return context.pages.TemplateResponse(request, "acknowledge.html", {"person": None, "done": True})


def welcome(context: Worklist, cookie: str) -> Response:
    """Redirect to the list with the cookie of a new session."""
    response = RedirectResponse("/", status_code=303)
    seconds = round(context.settings.worklist.session_hours * 3600)
    response.set_cookie(COOKIE, cookie, max_age=seconds, httponly=True, samesite="lax", secure=context.https)
    return response


def _acknowledgement(
    request: Request, context: Worklist, session: Session, identity: str, sent: str | None
) -> Response:
    """The button, and whether the result has changed since the notice was sent."""
    result = _digest(session, identity)
    values = {"person": None, "done": False, "result": result, "changed": sent is not None and sent != result}
    return context.pages.TemplateResponse(request, "acknowledge.html", values)


def _digest(session: Session, identity: str) -> str:
    entry = entries.find(session, identity)
    if entry is None:
        raise NotFound("The X-ray of this notice is no longer on the worklist.")
    return entries.result_digest(entry)


def _notice(context: Worklist, signed: str) -> tuple[str, str | None]:
    """The identity of an upload and the digest of its result when the notice was sent; links of 0.1 have no digest."""
    try:
        value = signer(context.settings, "acknowledge").loads(signed, max_age=ACKNOWLEDGE_DAYS * 86400)
    except BadSignature:
        raise NotFound("This link is invalid or has expired.") from None
    return (value, None) if isinstance(value, str) else (value[0], value[1])
