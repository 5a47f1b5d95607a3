"""Sign-in: single-use links, sessions, roles.

The database holds only digests, so a copy of it opens nothing. The cookie is signed as well: a forged one is refused
without a query.
"""

import hashlib
import hmac
import logging
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from urllib.parse import urlsplit

from itsdangerous import BadSignature, URLSafeTimedSerializer
from sqlalchemy import delete, select, update

from lungline.settings import Settings
from worklist.database import audit
from worklist.database.cookie_secret import claim_secret, kept_secret
from worklist.database.models import Session, Token
from worklist.database.session import Database

Role = Literal["reader", "admin"]

COOKIE = "lungline_worklist"
TOKEN_HOURS = 24
LINK_FILE = "login_url"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Person:
    """A signed-in user; every change that they post must carry `csrf`."""

    who: str
    role: Role
    csrf: str
    digest: str
    sees_patients: bool = False
    """Whether the user may see whom X-rays are of: a right of its own, beside the role."""

    @property
    def is_admin(self) -> bool:
        """Whether the user may export and see the audit log."""
        return self.role == "admin"


class Access:
    """Tokens and sessions of one worklist."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._hours = settings.worklist.session_hours
        # A cookie counts only on the host that it was made for. A host of its own gets no cookie of 127.0.0.1, which
        # browsers send to every port of this machine.
        host = own_host(settings)
        self._signer = signer(settings, f"session {host}" if host else "session")

    def new_token(self, who: str, role: Role, *, patients: bool = False) -> str:
        """A token that signs `who` in once, within a day; earlier tokens stop working."""
        token = secrets.token_urlsafe(32)
        expires = datetime.now(UTC) + timedelta(hours=TOKEN_HOURS)
        with self._database.writing() as session:
            session.execute(delete(Token))
            session.add(Token(digest=_digest(token), who=who, role=role, expires=expires, patients=int(patients)))
        return token

    def redeem(self, token: str) -> str | None:
        """Use up a valid token and return the cookie of a new session; None when the token is not valid."""
        now = datetime.now(UTC)
        with self._database.writing() as session:
            record = session.get(Token, _digest(token))
            if record is None:
                return None
            valid = (Token.digest == record.digest, Token.used.is_(None), Token.expires > now)
            # The database decides between two simultaneous attempts.
            if not session.scalar(update(Token).where(*valid).values(used=now).returning(Token.digest)):
                return None
            who, role, patients = record.who, record.role, bool(record.patients)
        return self.begin(who, "admin" if role == "admin" else "reader", patients=patients)

    def begin(self, who: str, role: Role, most_hours: float | None = None, *, patients: bool = False) -> str:
        """The cookie of a new session, which ends after `most_hours` at the latest.

        `patients` gives the right to see whom X-rays are of.
        """
        name, now = secrets.token_urlsafe(32), datetime.now(UTC)
        expires = now + timedelta(hours=min(self._hours, most_hours or self._hours))
        with self._database.writing() as session:
            session.execute(delete(Session).where(Session.expires < now))
            csrf = secrets.token_urlsafe(32)
            row = Session(digest=_digest(name), who=who, role=role, csrf=csrf, expires=expires, patients=int(patients))
            session.add(row)
            audit.record(session, who, role, "signed in", detail="may see patients" if patients else "")
        return self._signer.dumps(name)

    def person(self, cookie: str | None) -> Person | None:
        """The user of a cookie; None when it is forged, unknown or expired."""
        if not cookie:
            return None
        try:
            name = self._signer.loads(cookie, max_age=round(self._hours * 3600))
        except BadSignature:
            return None
        with self._database.reading() as session:
            alive = (Session.digest == _digest(str(name)), Session.expires > datetime.now(UTC))
            record = session.scalar(select(Session).where(*alive))
        if record is None:
            return None
        role: Role = "admin" if record.role == "admin" else "reader"
        return Person(record.who, role, record.csrf, record.digest, sees_patients=bool(record.patients))

    def alive(self, digests: Collection[str]) -> set[str]:
        """Those of these sessions that have neither ended nor expired."""
        if not digests:
            return set()
        alive = (Session.digest.in_(digests), Session.expires > datetime.now(UTC))
        with self._database.reading() as session:
            return set(session.scalars(select(Session.digest).where(*alive)))

    def end(self, person: Person) -> None:
        """Sign a user out."""
        with self._database.writing() as session:
            session.execute(delete(Session).where(Session.digest == person.digest))
            audit.record(session, person.who, person.role, "signed out")


def own_host(settings: Settings) -> str | None:
    """The host name that only this worklist has on this machine, such as `3f2a....localhost`; None without one."""
    host = urlsplit(settings.worklist.uri or "").hostname or ""
    return host if host.endswith(".localhost") else None


def signer(settings: Settings, purpose: str) -> URLSafeTimedSerializer:
    """A signer for one purpose; it rejects what was signed for another."""
    return URLSafeTimedSerializer(_secret(settings), salt=f"lungline-worklist-{purpose}")


def secret_for(settings: Settings, purpose: str) -> str:
    """A secret derived for one purpose."""
    return hmac.new(_secret(settings).encode(), purpose.encode(), "sha256").hexdigest()


def _secret(settings: Settings) -> str:
    if settings.worklist.secret:
        return settings.worklist.secret.get_secret_value()
    was_damaged = (settings.home / "worklist" / "secret").exists() and kept_secret(settings.home) is None
    if was_damaged:
        _log.warning("worklist/secret was damaged: it is made again, and everybody signs in once more.")
    return claim_secret(settings.home)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
