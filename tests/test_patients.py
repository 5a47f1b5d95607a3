"""Whom DICOM uploads are of: read from the header, saved apart from the result, and nowhere else."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lungline.diagnosis.diagnoser import Diagnoser
from lungline.diagnosis.upload import diagnose_upload
from lungline.errors import LunglineError
from lungline.events.uploads import Upload
from lungline.imaging import dicom as dicom_decoder
from lungline.imaging.dicom_elements import Walk
from lungline.imaging.dicom_header import find_header
from lungline.package.package import Package
from lungline.results import patients
from lungline.results.events import result_event
from lungline.results.patients import PatientRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support import dicom_files
from tests.support.object_store import running_store
from tests.support.tiny_package import write_tiny_package

SETTINGS = Settings()
PATIENTS = SETTINGS.patients_bucket
WHOSE: dict[str, Any] = {
    "PatientID": "P-4711",
    "IssuerOfPatientID": "WARD7",
    "PatientName": "Quellenhofer^Wendelin^Maria",
    "AccessionNumber": "ACC99012",
    "StudyDate": "20260131",
    "ViewPosition": "PA",
}
SECRETS = ("P-4711", "Quellenhofer", "Wendelin", "ACC99012")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    buckets = (SETTINGS.uploads_bucket, SETTINGS.results_bucket, SETTINGS.research_bucket, PATIENTS)
    with running_store(tmp_path_factory.mktemp("store"), *buckets) as storage:
        yield storage


@pytest.fixture(scope="module")
def diagnoser(tmp_path_factory: pytest.TempPathFactory) -> Diagnoser:
    folder = tmp_path_factory.mktemp("packages") / "1"
    write_tiny_package(folder, mlflow_run_id="run")
    return Diagnoser(Package.load(folder))


def dicom(**elements: Any) -> bytes:
    return dicom_files.write(dicom_files.film(bits=12), bits=12, **(WHOSE | elements))


def read(data: bytes) -> PatientRecord | None:
    """Whom a file is of."""
    header = find_header(data, patients.NEEDED)
    return header and patients.read("i", header)


def put(store: Storage, key: str, data: bytes) -> Upload:
    etag = store.put(SETTINGS.uploads_bucket, key, data)
    return Upload(SETTINGS.uploads_bucket, key, etag=etag, sequencer="1", uploaded_at=datetime.now(UTC))


def test_header_says_whom_an_image_is_of() -> None:
    record = read(dicom())
    assert record
    assert (record.patient_id, record.issuer, record.accession) == ("P-4711", "WARD7", "ACC99012")
    assert (record.name, record.study_date, record.view) == ("Quellenhofer^Wendelin^Maria", "2026-01-31", "PA")
    assert all(uid.startswith(("1.", "2.")) for uid in (record.study_uid, record.instance_uid))


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ({"PatientName": "Müller^Jürgen", "SpecificCharacterSet": "ISO_IR 100"}, "Müller, Jürgen"),
        ({"PatientName": "Yamada^Tarou=山田^太郎", "SpecificCharacterSet": "ISO_IR 192"}, "Yamada, Tarou"),
        ({"PatientName": "Doe"}, "Doe"),
        ({"PatientName": "^Jane"}, "Jane"),
        ({"PatientName": "A\u202eB^C"}, "A B, C"),
    ],
)
def test_names_are_as_people_write_them(written: dict[str, str], shown: str) -> None:
    record = read(dicom(**({"SpecificCharacterSet": "ISO_IR 192"} | written)))
    assert record
    assert patients.readable(record.name) == shown


@pytest.mark.parametrize("day", ["", "2026", "20261399", "yesterday"])
def test_impossible_study_date_is_left_out(day: str) -> None:
    data = dicom().replace(b"20260131", day.encode().ljust(8)[:8])
    record = read(data)
    assert record
    assert not record.study_date


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG", dicom()[:150], dicom()[:40]], ids=["empty", "png", "cut", "preamble"]
)
def test_other_and_unreadable_files_name_nobody(data: bytes) -> None:
    assert read(data) is None


def test_printed_record_names_nobody() -> None:
    record = read(dicom())
    assert not any(secret in f"{record} {record!r} {[record]}" for secret in SECRETS)


def test_result_names_the_key_and_nothing_of_the_patient(
    store: Storage, diagnoser: Diagnoser, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    upload = put(store, "named.dcm", dicom())
    record = diagnose_upload(upload, diagnoser, store, SETTINGS)
    assert record.patient == patients.key_of(upload.identity)
    kept = patients.load(store, PATIENTS, upload.identity)
    assert kept
    assert kept.patient_id == "P-4711"
    event = result_event([record], "t").data
    stored = store.get(SETTINGS.results_bucket, record.key).data.decode()
    names = " ".join(info.key for bucket in (SETTINGS.results_bucket, PATIENTS) for info in store.list(bucket))
    for secret in SECRETS:
        assert all(secret not in text for text in (event, stored, names, caplog.text))


def test_header_is_read_once_and_the_decoder_sees_no_patient(
    store: Storage, diagnoser: Diagnoser, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks: list[int] = []
    collect = Walk.collect

    def counted(walk: Any, start: int, needed: Any) -> Any:
        walks.append(start)
        return collect(walk, start, needed)

    upload = put(store, "once.dcm", dicom())
    monkeypatch.setattr(Walk, "collect", counted)
    assert diagnose_upload(upload, diagnoser, store, SETTINGS, keep_unsure=lambda *_: None).patient
    assert len(walks) == 1
    whole = find_header(dicom(), frozenset({*dicom_decoder.NEEDED, *patients.NEEDED}))
    assert whole
    assert any(secret.encode() in value for value in whole.values.values() for secret in SECRETS)
    seen = whole.only(dicom_decoder.NEEDED)
    assert not any(secret.encode() in value for value in seen.values.values() for secret in SECRETS)


def test_refused_dicom_is_somebodys_as_well(store: Storage, diagnoser: Diagnoser) -> None:
    upload = put(store, "empty.dcm", dicom(Rows=0))
    record = diagnose_upload(upload, diagnoser, store, SETTINGS)
    assert (record.outcome, record.patient) == ("refused", patients.key_of(upload.identity))


def test_image_is_predicted_where_patients_cannot_be_saved(
    store: Storage, diagnoser: Diagnoser, caplog: pytest.LogCaptureFixture
) -> None:
    upload = put(store, "no-bucket.dcm", dicom())
    record = diagnose_upload(upload, diagnoser, store, SETTINGS.model_copy(update={"patients_bucket": "x"}))
    assert (record.outcome, record.patient) == ("judged", None)
    assert "its patient was not saved: The object store" in caplog.text


def test_foreign_object_is_an_error_without_its_content(store: Storage) -> None:
    store.put(PATIENTS, patients.key_of("ff00"), b'{"identity": "ff00", "name": "Quellenhofer", "more": 1}')
    with pytest.raises(LunglineError, match="cannot be read") as caught:
        patients.load(store, PATIENTS, "ff00")
    assert "Quellenhofer" not in repr(caught.value.__cause__)
    patients.save(store, PATIENTS, PatientRecord(identity="aa00"))
    store.put(PATIENTS, patients.key_of("ab00"), store.get(PATIENTS, patients.key_of("aa00")).data)
    with pytest.raises(LunglineError, match="another upload's"):
        patients.load(store, PATIENTS, "ab00")
    assert patients.load(store, PATIENTS, "ac00") is None


def test_old_records_have_no_patient(store: Storage, diagnoser: Diagnoser, tmp_path: Path) -> None:
    record = diagnose_upload(put(store, "old.dcm", dicom()), diagnoser, store, SETTINGS)
    old = json.loads(record.model_dump_json())
    del old["patient"]
    assert type(record).model_validate(old).patient is None
