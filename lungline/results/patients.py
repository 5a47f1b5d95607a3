"""Who an upload is of: patient, study and image, as the DICOM header names them. The protected part of a result record.

    patients/ab/abcdef....json        of upload abcdef..., in the patients bucket; the result record names this key

It has a bucket of its own with rights of its own: predictors may only write it, the worklist may only read it, the job
`retention` may read and delete it, and pipeline, drift monitoring and MLflow, which read results, cannot. Secondary
Captures, which name the patient too, lie beside it, as `captures/...`. A key in the same bucket would have to be in
every predictor that writes, would need rotation and a backup, and would protect nothing more than the original X-ray
has, whose header says the same in the uploads bucket. The store encrypts both at rest.

Nothing in here enters topics, logs, metrics, traces, or names of objects.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from itertools import islice
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from lungline.errors import LunglineError, ObjectGone, Unavailable
from lungline.imaging.dicom_header import DicomFile
from lungline.results.records import ResultRecord
from lungline.storage.s3 import Storage

PREFIX = "patients/"
READERS = 16
"""Patient records that are read at once."""
_PAGE = 200

_log = logging.getLogger(__name__)

# What a text element can hold is at most 64 characters, a name three times as much (DICOM PS3.5, table 6.2-1).
LONGEST = 200
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")

_PATIENT_ID, _ISSUER, _NAME = 0x00100020, 0x00100021, 0x00100010
_MODALITY, _CLASS = 0x00080060, 0x00080016
_ACCESSION, _STUDY_DATE, _VIEW = 0x00080050, 0x00080020, 0x00185101
_STUDY, _SERIES, _INSTANCE = 0x0020000D, 0x0020000E, 0x00080018
_CHARACTER_SET = 0x00080005
NEEDED = frozenset(
    (
        *(_PATIENT_ID, _ISSUER, _NAME, _ACCESSION, _STUDY_DATE, _VIEW),
        *(_STUDY, _SERIES, _INSTANCE, _CHARACTER_SET, _MODALITY, _CLASS),
    )
)


def _clean(value: object) -> object:
    return _CONTROL.sub(" ", value).strip()[:LONGEST] if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_clean)]


class PatientRecord(BaseModel):
    """The patient, the study and the image of one upload; a field that the header lacks is an empty text.

    `name` is as DICOM writes it, "Doe^Jane" (`readable` makes "Doe, Jane" of it), of its representations the first;
    `issuer` is who assigned the patient ID; `study_date` is YYYY-MM-DD; `sop_class` says of what kind the object is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    identity: str
    patient_id: Text = ""
    issuer: Text = ""
    name: Text = ""
    accession: Text = ""
    study_date: Text = ""
    study_uid: Text = ""
    series_uid: Text = ""
    instance_uid: Text = ""
    sop_class: Text = ""
    modality: Text = ""
    view: Text = ""

    def __repr__(self) -> str:
        """The upload alone: what is printed ends in logs."""
        return f"PatientRecord(identity={self.identity!r})"

    __str__ = __repr__


def read(identity: str, header: DicomFile) -> PatientRecord | None:
    """Whom a DICOM file is of, by a header with the elements in NEEDED; None for one that names nobody."""
    file = header.only(NEEDED)
    record = PatientRecord(
        identity=identity,
        patient_id=file.words(_PATIENT_ID),
        issuer=file.words(_ISSUER),
        name=file.words(_NAME).partition("=")[0].rstrip("^ "),
        accession=file.words(_ACCESSION),
        study_date=_day(file.text(_STUDY_DATE)),
        study_uid=file.text(_STUDY),
        series_uid=file.text(_SERIES),
        instance_uid=file.text(_INSTANCE),
        sop_class=file.text(_CLASS),
        modality=file.text(_MODALITY),
        view=file.text(_VIEW),
    )
    return record if record != PatientRecord(identity=identity) else None


def key_of(identity: str) -> str:
    """The key of an upload's patient record in the patients bucket."""
    return f"{PREFIX}{identity[:2]}/{identity}.json"


def save(storage: Storage, bucket: str, record: PatientRecord) -> str:
    """Store a patient record and return its key; the same upload always writes the same. Raises StorageUnavailable."""
    key = key_of(record.identity)
    storage.put(bucket, key, record.model_dump_json().encode(), "application/json")
    return key


def load(storage: Storage, bucket: str, identity: str) -> PatientRecord | None:
    """Whom an upload is of; None when nothing is stored, or it was erased.

    Raises StorageUnavailable, and LunglineError for an object that is not this upload's patient record.
    """
    try:
        record = PatientRecord.model_validate_json(storage.get(bucket, key_of(identity)).data)
    except ObjectGone:
        return None
    except ValidationError:
        # Without its cause: pydantic's message quotes the value.
        raise LunglineError(f"The patient record of upload {identity} cannot be read.") from None
    if record.identity != identity:
        raise LunglineError(f"The patient record of upload {identity} is another upload's.")
    return record


def load_or_none(storage: Storage, bucket: str, identity: str) -> PatientRecord | None:
    """Whom an upload is of, None also where its record cannot be read. Raises StorageUnavailable."""
    try:
        return load(storage, bucket, identity)
    except Unavailable:
        raise
    except LunglineError as exc:
        _log.warning("Upload %s: whom it is of is not known: %s", identity, exc)
        return None


def every(storage: Storage, bucket: str) -> Iterator[PatientRecord]:
    """All patient records, in no order; those that cannot be read are reported. Raises StorageUnavailable."""
    names = (info.key.rpartition("/")[2].removesuffix(".json") for info in storage.list(bucket, PREFIX))
    with ThreadPoolExecutor(READERS) as pool:
        while page := list(islice(names, _PAGE)):
            yield from filter(None, pool.map(partial(load_or_none, storage, bucket), page))


def patients_of(records: Sequence[ResultRecord], storage: Storage, bucket: str) -> list[PatientRecord]:
    """Whom the uploads of these results are of, as far as their records point there.

    A patient record that cannot be read is reported and left out, so that the result is shown all the same. Raises
    StorageUnavailable.
    """
    identities = sorted({record.upload.identity for record in records if record.patient})
    if not identities:
        return []

    def read_one(identity: str) -> PatientRecord | None:
        try:
            return load(storage, bucket, identity)
        except Unavailable:
            raise
        except LunglineError as exc:
            _log.warning("Upload %s: its patient is not shown: %s", identity, exc)
            return None

    if len(identities) == 1:  # every upload, while it is live
        return [record for record in map(read_one, identities) if record]
    with ThreadPoolExecutor(min(READERS, len(identities))) as pool:
        return [record for record in pool.map(read_one, identities) if record]


def readable(name: str) -> str:
    """A person's name as people write it: family name, given names."""
    family, _, others = name.partition("^")
    given = " ".join(part for part in others.split("^")[:2] if part.strip())
    return ", ".join(part.strip() for part in (family, given) if part.strip())


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text.replace(".", "")).isoformat()
    except ValueError:
        return ""
