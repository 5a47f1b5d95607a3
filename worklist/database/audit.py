"""The audit log: who looked at, searched, read, corrected and exported what; uploads by identity, never by key.

Each entry holds a hash of itself and of the entry before it, as the history of promotions does, so that none can be
changed, removed or put in between. Whoever may write to the database could make a chain of their own: so the hash of
the last entry is also kept in the results bucket, one object a day, and `verify` compares them.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from lungline.errors import ObjectGone
from lungline.storage.s3 import Storage
from worklist.database.models import Audit, microseconds
from worklist.database.session import Database

GENESIS = "0" * 64
PREFIX = "audit/"
MAX_ANCHOR_BYTES = 1000

_BATCH = 1000
# Of transactions of several processes only one may continue the chain at a time; an arbitrary number.
_CHAIN_LOCK = 7_205_392


class Anchor(BaseModel):
    """The last entry of the log at some moment, as it lies in the results bucket."""

    model_config = ConfigDict(frozen=True)

    number: int
    hash: str
    at: datetime

    @property
    def key(self) -> str:
        """One object a day, the last of the day."""
        return f"{PREFIX}{self.at:%Y-%m-%d}.json"


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check of the log gave; `problems` are sentences, none for an unbroken log."""

    entries: int
    anchors: int
    problems: tuple[str, ...]


def record(session: Session, who: str, role: str, act: str, *, identity: str | None = None, detail: str = "") -> None:
    """Add an entry; the last thing that a transaction does, because others wait for its end to add theirs."""
    if session.get_bind().dialect.name == "postgresql":  # SQLite has one writer at a time anyway
        session.execute(text(f"SELECT pg_advisory_xact_lock({_CHAIN_LOCK})"))
    last = session.scalar(select(Audit.hash).order_by(Audit.number.desc()).limit(1))
    entry = Audit(at=datetime.now(UTC), who=who, role=role, act=act, identity=identity, detail=detail)
    entry.hash = hash_of(entry, last or GENESIS)
    session.add(entry)
    session.flush()


def hash_of(entry: Audit, previous: str) -> str:
    """The sha256 of an entry and the hash of the one before it."""
    values = (microseconds(entry.at), entry.who, entry.role, entry.act, entry.identity, entry.detail, previous)
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def lines(session: Session, before: int | None = None, limit: int = 200) -> list[Audit]:
    """Entries, the latest first; with `before`, those with a lower number."""
    statement = select(Audit).order_by(Audit.number.desc()).limit(limit)
    return list(session.scalars(statement.where(Audit.number < before) if before else statement))


def head(session: Session) -> Anchor | None:
    """The last entry; None in an empty log."""
    entry = session.scalar(select(Audit).order_by(Audit.number.desc()).limit(1))
    return Anchor(number=entry.number, hash=entry.hash or "", at=datetime.now(UTC)) if entry else None


def save_anchor(storage: Storage, bucket: str, anchor: Anchor) -> None:
    """Keep the hash of the last entry in the store. Raises StorageUnavailable."""
    storage.put(bucket, anchor.key, anchor.model_dump_json().encode(), "application/json")


def verify(database: Database, storage: Storage, bucket: str) -> Verification:
    """Check every entry against the one before it, and the log against what the store holds of it.

    Raises DatabaseUnavailable and StorageUnavailable.
    """
    anchors = {anchor.number: anchor for anchor in _anchors(storage, bucket)}
    problems: list[str] = []
    count, previous = 0, GENESIS
    hashes: dict[int, str] = {}
    with database.reading() as session:
        for entry in _entries(session):
            count += 1
            if entry.hash != hash_of(entry, previous):
                problems.append(f"Entry {entry.number} does not follow from the one before it: either was changed.")
            previous = entry.hash or GENESIS
            if entry.number in anchors:
                hashes[entry.number] = previous
    for number, anchor in sorted(anchors.items()):
        if number not in hashes:
            problems.append(f"Entry {number}, which the store knows of {anchor.at:%Y-%m-%d}, is missing.")
        elif hashes[number] != anchor.hash:
            problems.append(f"Entry {number} is not the one that the store knows of {anchor.at:%Y-%m-%d}.")
    return Verification(count, len(anchors), tuple(problems))


def _entries(session: Session) -> Iterator[Audit]:
    last = 0
    while batch := session.scalars(select(Audit).where(Audit.number > last).order_by(Audit.number).limit(_BATCH)).all():
        yield from batch
        last = batch[-1].number
        session.expunge_all()


def _anchors(storage: Storage, bucket: str) -> Iterator[Anchor]:
    for info in storage.list(bucket, PREFIX):
        try:
            yield Anchor.model_validate_json(storage.get(bucket, info.key, max_bytes=MAX_ANCHOR_BYTES).data)
        except (ObjectGone, ValidationError):  # a foreign object proves nothing
            continue
