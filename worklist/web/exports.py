"""Exports for other systems; each is recorded in the audit log."""

from collections.abc import Iterator
from datetime import UTC, datetime

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, StreamingResponse

from lungline.results.records import ResultRecord
from worklist.database import audit
from worklist.database.models import ResultRow
from worklist.exports import csv_fhir
from worklist.web.context import Admin, Context, NotFound, Reader

router = APIRouter()


@router.get("/results/{name}.fhir.json")
def fhir(name: str, context: Context, person: Reader) -> Response:
    """One result as a FHIR R4 DiagnosticReport."""
    with context.database.writing() as session:
        row = session.get(ResultRow, name)
        if row is None:
            raise NotFound("Result not found.")
        record = ResultRecord.model_validate_json(row.body)
        report = csv_fhir.fhir_report(session, record)
        identity = record.upload.identity
        audit.record(session, person.who, person.role, "exported", identity=identity, detail="fhir")
    return JSONResponse(report, media_type="application/fhir+json")


@router.get("/export.csv")
def csv(context: Context, person: Admin) -> Response:
    """All results as CSV."""
    with context.database.writing() as session:
        audit.record(session, person.who, person.role, "exported", detail="csv")

    def lines() -> Iterator[str]:
        with context.database.reading() as session:
            yield from csv_fhir.csv_lines(session)

    name = f"lungline-{datetime.now(UTC):%Y%m%d-%H%M}.csv"
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(lines(), media_type="text/csv; charset=utf-8", headers=headers)
