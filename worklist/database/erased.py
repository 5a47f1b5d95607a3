"""Uploads that were erased, so that a result that was read before its erasure is not stored after it.

An erasure marks an upload, then deletes its rows, then its objects. Who stores something of an upload looks for the
mark afterwards, rows in the same transaction: what is not marked by then, the erasure sees.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from lungline.errors import LunglineError
from lungline.events.uploads import Upload
from lungline.results.records import ResultRecord
from lungline.retention.tombstones import is_stored
from lungline.storage.s3 import Storage
from worklist.database.models import ErasedRow
from worklist.database.session import Database

_IN_ONE_QUESTION = 500


class UploadsErased(LunglineError):
    """Of some uploads nothing was stored, because they were erased."""

    def __init__(self, identities: Collection[str]) -> None:
        super().__init__(f"Uploads that were erased: {len(identities)}.")
        self.identities = frozenset(identities)


def mark(session: Session, identities: Iterable[str]) -> None:
    """Mark uploads as erased."""
    now = datetime.now(UTC)
    for identity in identities:
        session.merge(ErasedRow(identity=identity, at=now))


def among(session: Session, identities: Iterable[str]) -> set[str]:
    """Those of some uploads that are marked."""
    wanted, marked = sorted(set(identities)), set[str]()
    for start in range(0, len(wanted), _IN_ONE_QUESTION):
        part = wanted[start : start + _IN_ONE_QUESTION]
        marked.update(session.scalars(select(ErasedRow.identity).where(ErasedRow.identity.in_(part))))
    return marked


def require_none(session: Session, identities: Iterable[str]) -> None:
    """Raise UploadsErased where one of these is marked; asked at the end of a transaction, which then ends."""
    if marked := among(session, identities):
        raise UploadsErased(marked)


def sent_again(
    database: Database, storage: Storage, records: Sequence[ResultRecord], erased: Collection[str]
) -> list[ResultRecord]:
    """The results without those of erased uploads, except where the same image was sent again: its mark goes.

    Raises StorageUnavailable and DatabaseUnavailable.
    """
    there = {record.upload.identity for record in records if record.upload.identity in erased}
    there = {identity for identity in there if _is_there(identity, records, storage)}
    if there:
        with database.writing() as session:
            session.execute(delete(ErasedRow).where(ErasedRow.identity.in_(there)))
    return [record for record in records if record.upload.identity not in erased or record.upload.identity in there]


def _is_there(identity: str, records: Sequence[ResultRecord], storage: Storage) -> bool:
    facts = next(record.upload for record in records if record.upload.identity == identity)
    return is_stored(Upload(facts.bucket, facts.key, facts.version_id, facts.etag), storage)
