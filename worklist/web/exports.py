"""Exports for other systems; each is recorded in the audit log."""

from datetime import UTC, datetime
from typing import Literal

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, StreamingResponse

from lungline.errors import DataError, ObjectGone
from lungline.results.records import ResultRecord
from worklist.database import audit
from worklist.database.access import Person
from worklist.database.models import ResultRow
from worklist.exports import csv_fhir
from worklist.exports.study_instances import instances_of
from worklist.web.context import Admin, Context, NotFound, Reader, Worklist, require_sees_patients

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


@router.get("/results/{name}.sr.dcm")
def report(name: str, context: Context, person: Reader) -> Response:
    """One result as a DICOM Structured Report, which names the patient; 404 with the reason when there can be none."""
    return _dicom(context, person, name, "dicom report")


@router.get("/results/{name}.dcm")
def capture(name: str, context: Context, person: Reader) -> Response:
    """One result as a DICOM Secondary Capture of its heatmap; 404 with the reason when there can be none."""
    return _dicom(context, person, name, "dicom capture")


@router.get("/export.csv")
def csv(context: Context, person: Admin) -> Response:
    """All results as CSV."""
    with context.database.writing() as session:
        audit.record(session, person.who, person.role, "exported", detail="csv")

    name = f"lungline-{datetime.now(UTC):%Y%m%d-%H%M}.csv"
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(
        csv_fhir.csv_lines(context.database.reading), media_type="text/csv; charset=utf-8", headers=headers
    )


def _dicom(context: Worklist, person: Person, name: str, form: Literal["dicom report", "dicom capture"]) -> Response:
    require_sees_patients(person)
    with context.database.reading() as session:
        row = session.get(ResultRow, name)
    if row is None:
        raise NotFound("Result not found.")
    record = ResultRecord.model_validate_json(row.body)
    try:
        with instances_of(record, context.images) as made:
            data = made.report() if form == "dicom report" else made.capture()
    except (ObjectGone, DataError) as exc:
        raise NotFound(str(exc)) from exc
    with context.database.writing() as session:
        identity = record.upload.identity
        audit.record(session, person.who, person.role, "exported", identity=identity, detail=form)
    ending = "sr.dcm" if form == "dicom report" else "dcm"
    headers = {"content-disposition": f'attachment; filename="{record.id}.{ending}"', "cache-control": "no-store"}
    return Response(data, media_type="application/dicom", headers=headers)
