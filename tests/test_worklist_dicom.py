import io
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import FileDataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from lungline.errors import DataError
from lungline.imaging.decoding import decode
from lungline.imaging.preparation import Preparation, heatmap_png
from lungline.results.records import ImageFacts, ResultRecord
from lungline.storage.s3 import Storage
from tests.support.object_store import running_store
from tests.support.worklist_site import home, record, running_site, wait
from worklist.exports.secondary_capture import capture, capture_key


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with running_store(tmp_path_factory.mktemp("store"), "xray-uploads", "lungline-results") as storage:
        yield storage


def radiograph(**changes: object) -> bytes:
    """A small computed radiograph of a patient."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    values: dict[str, object] = {
        "SOPClassUID": ComputedRadiographyImageStorage, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "PatientName": "DOE^JANE", "PatientID": "77", "PatientBirthDate": "20200101", "PatientSex": "F",
        "StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "StudyDate": "20260301",
        "StudyTime": "080000", "AccessionNumber": "A1", "ReferringPhysicianName": "", "StudyID": "1", "Modality": "CR",
        "SeriesNumber": 1, "InstanceNumber": 1, "BodyPartExamined": "CHEST", "ViewPosition": "AP", "Rows": 96,
        "Columns": 80, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16,
        "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0,
        "PixelData": (np.arange(96 * 80, dtype=np.uint16) % 4096).tobytes(),
    } | changes  # fmt: skip
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def predicted(store: Storage, data: bytes) -> ResultRecord:
    now = datetime.now(UTC)
    etag = store.put("xray-uploads", "clinic/image.dcm", data)
    result = record(key="clinic/image.dcm", etag=etag, heatmap=True, arrived=now)
    image = decode(data)
    cam = np.full((4, 4), 0.8, np.float32)
    store.put("lungline-results", result.heatmap or "", heatmap_png(image, cam, Preparation()))
    return result.model_copy(update={"image": ImageFacts(format="dicom", width=80, height=96)})


def test_dicom_upload_gets_a_dicom_result_in_its_study(tmp_path: Path, store: Storage) -> None:
    data = radiograph()
    result = predicted(store, data)
    with running_site(home(tmp_path), store) as site:
        site.send(result)
        wait(lambda: store.exists("lungline-results", capture_key(result)))
        with site.client() as client:
            shown = client.get(f"/x/{result.upload.identity}/xray")
            assert (shown.status_code, shown.headers["content-type"]) == (200, "image/png")
    made = dcmread(io.BytesIO(store.get("lungline-results", capture_key(result)).data))
    source = dcmread(io.BytesIO(data))
    assert (made.StudyInstanceUID, made.PatientID) == (source.StudyInstanceUID, "77")
    assert made.SeriesInstanceUID != source.SeriesInstanceUID
    assert "Not a medical device" in made.DerivationDescription
    assert made.pixel_array.shape[2] == 3
    assert made.pixel_array[:, :, 0].max() > made.pixel_array[:, :, 1].min()


def test_dicom_result_is_reproducible(store: Storage) -> None:
    data = radiograph()
    result = predicted(store, data)
    png = store.get("lungline-results", result.heatmap or "").data
    first, second = (dcmread(io.BytesIO(capture(data, png, result))) for _ in range(2))
    assert first.SOPInstanceUID == second.SOPInstanceUID


def test_upload_without_study_gets_no_dicom_result(store: Storage) -> None:
    """The error quotes nothing of the patient's."""
    result = predicted(store, radiograph())
    png = store.get("lungline-results", result.heatmap or "").data
    for data in (radiograph(StudyInstanceUID=None), b"no DICOM at all"):
        with pytest.raises(DataError) as caught:
            capture(data, png, result)
        assert "DOE" not in str(caught.value)


def test_odd_patient_values_are_not_logged(tmp_path: Path, store: Storage) -> None:
    data = radiograph(ReferringPhysicianName="DRWEISS", PatientName="MUSTERMANN")  # names of one component
    result = predicted(store, data)
    (tmp_path / "original").write_bytes(data)
    (tmp_path / "overlaid").write_bytes(store.get("lungline-results", result.heatmap or "").data)
    (tmp_path / "record").write_text(result.model_dump_json())
    script = (
        "from pathlib import Path\n"
        "from lungline.results.records import ResultRecord\n"
        "from worklist.exports.secondary_capture import capture\n"
        "record = ResultRecord.model_validate_json(Path('record').read_text())\n"
        "print(len(capture(Path('original').read_bytes(), Path('overlaid').read_bytes(), record)))"
    )
    # In a process of its own: this one has filters of the tests.
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) > 1000
    assert done.stderr == ""
