"""Results as files: CSV for a table, FHIR for clinical systems."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from sqlalchemy import select
from sqlalchemy.orm import Session

from lungline.results.readings import ReadingRecord
from lungline.results.records import ResultRecord
from worklist.database.models import ResultRow, WorklistEntry
from worklist.database.readings import latest_verdict, record_of
from worklist.exports import fhir

COLUMNS = (
    "identity", "bucket", "key", "arrived", "done", "outcome", "label", "probability", "low", "high", "reason",
    "model_version", "read", "action", "verdict", "reader", "read_at", "task", "also",
)  # fmt: skip
BATCH = 500

Reading = Callable[[], AbstractContextManager[Session]]
"""Opens a session that reads."""


def csv_lines(reading: Reading) -> Iterator[str]:
    """All uploads as CSV lines, a header first, then the oldest first."""
    yield _line(COLUMNS)
    yield from _lines(reading, _csv_line)


def fhir_lines(reading: Reading) -> Iterator[str]:
    """All uploads with a label as FHIR DiagnosticReports, one per line, as in FHIR bulk data."""
    yield from _lines(reading, _fhir_line)


def fhir_report(session: Session, record: ResultRecord) -> dict[str, object]:
    """The DiagnosticReport of one result, with the last verdict."""
    return fhir.report(record, last_verdict(session, record.upload.identity))


def last_verdict(session: Session, identity: str) -> ReadingRecord | None:
    """The last reading of an upload that has a verdict."""
    reading = latest_verdict(session, identity)
    return record_of(reading) if reading else None


def _lines(reading: Reading, line_of: Callable[[Session, WorklistEntry], str]) -> Iterator[str]:
    """The lines of all uploads; each batch has a session of its own, so that a client that reads slowly holds none."""
    last, lines = 0, [""]
    while lines:
        with reading() as session:
            entries = session.scalars(
                select(WorklistEntry).where(WorklistEntry.number > last).order_by(WorklistEntry.number).limit(BATCH)
            ).all()
            lines = [line_of(session, entry) for entry in entries]
        last = entries[-1].number if entries else last
        yield from filter(None, lines)


def _csv_line(_session: Session, entry: WorklistEntry) -> str:
    return _line(
        (
            *(entry.identity, entry.bucket, entry.key, entry.arrived.isoformat(), entry.done.isoformat()),
            *(entry.outcome, entry.label, entry.probability, entry.low, entry.high, entry.reason, entry.version),
            *(entry.read, entry.action, entry.verdict, entry.reader),
            entry.read_at.isoformat() if entry.read_at else None,
            entry.task,
            "; ".join(entry.others),
        )
    )


def _fhir_line(session: Session, entry: WorklistEntry) -> str:
    record = session.get(ResultRow, entry.record)
    if record is None or entry.label is None:
        return ""
    result = ResultRecord.model_validate_json(record.body)
    return json.dumps(fhir_report(session, result)) + "\n"


def _line(values: tuple[object, ...]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow([_escaped(value) for value in values])
    return out.getvalue()


def _escaped(value: object) -> object:
    """Spreadsheets run text that begins like a formula; a leading apostrophe prevents that."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return f"'{value}"
    return value
