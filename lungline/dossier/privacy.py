"""A dossier without its patient: what may name one is left out, and the page says so."""

from lungline.dossier.parts import Dossier, Missing
from lungline.dossier.pictures import Picture, evidence_of
from lungline.results.readings import ReadingRecord
from lungline.results.records import ResultRecord

WHY = "it may name the patient"


def without_patient(dossier: Dossier) -> tuple[Dossier, tuple[Picture, ...]]:
    """The dossier without patient record, object key, words of persons and the X-ray, and the pictures that stay.

    An X-ray may have a name burned in, a key or a comment may hold it; the heatmap alone shows none.
    """
    pictures = evidence_of(dossier.latest) if dossier.latest else ()
    left_out = [Missing(part="object key, comments and X-ray", reason=WHY, left_out=True)]
    if dossier.patient:
        left_out.append(Missing(part="patient", reason=WHY, left_out=True))
    worklist = dossier.worklist
    if worklist:
        readings = tuple(map(_uncommented, worklist.readings))
        worklist = worklist.model_copy(update={"readings": readings})
    changes = {
        "names_patient": False,
        "patient": None,
        "object": dossier.object and dossier.object.model_copy(update={"key": ""}),
        "results": tuple(map(_keyless, dossier.results)),
        "opinions": tuple(each.model_copy(update={"record": _keyless(each.record)}) for each in dossier.opinions),
        "holds": tuple(each.model_copy(update={"reason": ""}) for each in dossier.holds),
        "readings": tuple(map(_uncommented, dossier.readings)),
        "worklist": worklist,
        "pictures": tuple(picture.facts for picture in pictures),
        "missing": (*left_out, *dossier.missing),
    }
    return dossier.model_copy(update=changes), pictures


def _keyless(record: ResultRecord) -> ResultRecord:
    return record.model_copy(update={"upload": record.upload.model_copy(update={"key": ""})})


def _uncommented(reading: ReadingRecord) -> ReadingRecord:
    return reading.model_copy(update={"comment": ""})
