"""Signing in and out, the audit log, and acknowledging a notice by its link."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from itsdangerous import BadSignature

from worklist.database import audit, notices
from worklist.database.access import COOKIE, LINK_FILE, signer
from worklist.web.context import Admin, Context, NotHere, Reader, Worklist, Writer

router = APIRouter()

ACKNOWLEDGE_DAYS = 7


@router.get("/login", response_class=HTMLResponse)
def sign_in(request: Request, here: Context, token: str = "") -> Response:
    """Sign in with a link that works once, or be told how to get one."""
    if here.access.person(request.cookies.get(COOKIE)):
        return RedirectResponse("/", status_code=303)
    wrong = False
    if token and here.settings.worklist.login == "token":
        cookie = here.access.redeem(token)
        if cookie:
            (here.settings.home / "worklist" / LINK_FILE).unlink(missing_ok=True)
            return welcome(here, cookie)
        wrong = True
    values = {"wrong": wrong, "login": here.settings.worklist.login, "person": None}
    return here.pages.TemplateResponse(request, "login.html", values, status_code=403 if wrong else 200)


@router.post("/logout")
def sign_out(here: Context, person: Writer) -> Response:
    """Sign out."""
    here.access.end(person)
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(COOKIE)
    answer.headers["clear-site-data"] = '"cache"'
    return answer


@router.get("/audit", response_class=HTMLResponse)
def show_audit(request: Request, here: Context, person: Admin, before: int | None = None) -> Response:
    """Who did what."""
    with here.database.reading() as session:
        lines = audit.lines(session, before)
    return here.pages.TemplateResponse(request, "audit.html", {"lines": lines, "person": person})


@router.get("/notices", response_class=HTMLResponse)
def show_notices(request: Request, here: Context, person: Reader) -> Response:
    """Who was told of what."""
    with here.database.reading() as session:
        told = notices.latest(session)
    return here.pages.TemplateResponse(request, "notices.html", {"told": told, "person": person})


@router.get("/acknowledge/{signed}", response_class=HTMLResponse)
def ask_acknowledgement(request: Request, signed: str, here: Context) -> Response:
    """A button: programs that look at the links of a mail must not acknowledge it."""
    _identity(here, signed)
    return here.pages.TemplateResponse(request, "acknowledge.html", {"signed": signed, "person": None, "done": False})


@router.post("/acknowledge/{signed}", response_class=HTMLResponse)
def acknowledge(request: Request, signed: str, here: Context) -> Response:
    """Whoever holds the link of a notice takes care of it; they see nothing of the patient."""
    identity = _identity(here, signed)
    with here.database.writing() as session:
        notices.acknowledge(session, identity, "by link")
        audit.record(session, "by link", "none", "acknowledged", identity=identity)
    return here.pages.TemplateResponse(request, "acknowledge.html", {"signed": signed, "person": None, "done": True})


def welcome(here: Worklist, cookie: str) -> Response:
    """To the list, with the cookie of a new session."""
    answer = RedirectResponse("/", status_code=303)
    seconds = round(here.settings.worklist.session_hours * 3600)
    answer.set_cookie(COOKIE, cookie, max_age=seconds, httponly=True, samesite="lax", secure=here.https)
    return answer


def _identity(here: Worklist, signed: str) -> str:
    try:
        return str(signer(here.settings, "acknowledge").loads(signed, max_age=ACKNOWLEDGE_DAYS * 86400))
    except BadSignature:
        raise NotHere("This link is not good, or not any more.") from None
