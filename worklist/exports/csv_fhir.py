"""Results as files: CSV for a table, FHIR for clinical systems."""

import csv
import io
import json
from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from lungline.results.readings import ReadingRecord
from lungline.results.records import ResultRecord
from worklist.database.models import ReadingRow, ResultRow, WorklistEntry
from worklist.database.readings import record_of
from worklist.exports import fhir

COLUMNS = (
    "identity", "bucket", "key", "arrived", "done", "outcome", "label", "probability", "low", "high", "reason",
    "model_version", "read", "action", "verdict", "reader", "read_at",
)  # fmt: skip
BATCH = 500


def csv_lines(session: Session) -> Iterator[str]:
    """All uploads as CSV lines, a header first, then the oldest first."""
    yield _line(COLUMNS)
    for entry in _entries(session):
        yield _line(
            (
                *(entry.identity, entry.bucket, entry.key, entry.arrived.isoformat(), entry.done.isoformat()),
                *(entry.outcome, entry.label, entry.probability, entry.low, entry.high, entry.reason, entry.version),
                *(entry.read, entry.action, entry.verdict, entry.reader),
                entry.read_at.isoformat() if entry.read_at else None,
            )
        )


def fhir_lines(session: Session) -> Iterator[str]:
    """All uploads with a label as FHIR DiagnosticReports, one per line, as in FHIR bulk data."""
    for entry in _entries(session):
        record = session.get(ResultRow, entry.record)
        if record and entry.label is not None:
            yield json.dumps(fhir_report(session, ResultRecord.model_validate_json(record.body))) + "\n"


def fhir_report(session: Session, record: ResultRecord) -> dict[str, object]:
    """The DiagnosticReport of one result, with the last verdict."""
    return fhir.report(record, last_verdict(session, record.upload.identity))


def last_verdict(session: Session, identity: str) -> ReadingRecord | None:
    """The last reading of an upload that has a verdict."""
    statement = select(ReadingRow).where(ReadingRow.identity == identity, ReadingRow.verdict.is_not(None))
    reading = session.scalar(statement.order_by(ReadingRow.at.desc(), ReadingRow.number.desc()).limit(1))
    return record_of(reading) if reading else None


def _entries(session: Session) -> Iterator[WorklistEntry]:
    last = 0
    while entries := session.scalars(
        select(WorklistEntry).where(WorklistEntry.number > last).order_by(WorklistEntry.number).limit(BATCH)
    ).all():
        yield from entries
        last = entries[-1].number
        session.expunge_all()


def _line(values: tuple[object, ...]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow([_escaped(value) for value in values])
    return out.getvalue()


def _escaped(value: object) -> object:
    """Spreadsheets run text that begins like a formula; a leading apostrophe prevents that."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return f"'{value}"
    return value
