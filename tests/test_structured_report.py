"""A result as a DICOM Structured Report, read by software that is not ours."""

import io
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from highdicom.sr import srread
from pydicom import dcmread
from pydicom.uid import generate_uid

from lungline.errors import DataError
from lungline.imaging.decoding import decode
from lungline.imaging.preparation import Preparation, heatmap_png
from lungline.results.records import ImageFacts, ResultRecord
from lungline.storage.s3 import Storage
from tests.support.dicom_files import DEFLATED, deflated_bomb, film, write
from tests.support.dicom_results import PATIENT
from tests.support.worklist_site import home, record, running_site
from tests.test_worklist_dicom import ODD, predicted, radiograph, replaced
from worklist.exports.secondary_capture import capture
from worklist.exports.structured_report import structured_report


def result(probability: float = 0.9, version: str = "1") -> ResultRecord:
    made = record(probability=probability, key="clinic/image.dcm", etag="e" * 32, version=version)
    return made.model_copy(update={"image": ImageFacts(format="dicom", width=80, height=96)})


def validated(path: Path) -> list[str]:
    """The errors that dciodvfy sees in a file."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed (apt-get install dicom3tools)")
    done = subprocess.run([program, path], capture_output=True, text=True, check=False, timeout=60)
    lines = (done.stdout + done.stderr).splitlines()
    assert "ComprehensiveSR" in lines
    return [line for line in lines if line.startswith("Error")]


def as_text(path: Path) -> str:
    """A report as DCMTK's dsr2html shows it."""
    program = shutil.which("dsr2html")
    if program is None:
        pytest.skip("dsr2html is not installed (apt-get install dcmtk)")
    done = subprocess.run([program, path], capture_output=True, text=True, check=True, timeout=60)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", done.stdout)).split())


def groups_of(path: Path) -> list[Any]:
    """The measurement groups of a report, as highdicom reads them."""
    document: Any = srread(path)
    return document.content.get_image_measurement_groups()


@pytest.mark.parametrize(
    ("probability", "label", "presence"),
    [(0.9, "Pneumonia", "Present"), (0.1, "Normal", "Absent"), (0.5, "Unsure", "Indeterminate")],
)
def test_report_is_valid_and_says_what_the_result_says(
    tmp_path: Path, probability: float, label: str, presence: str
) -> None:
    path = tmp_path / "report.dcm"
    path.write_bytes(structured_report(radiograph(), result(probability)))
    assert validated(path) == []
    text = as_text(path)
    for expected in (
        presence,
        f"{label}. Research use only.",
        f"{probability} 1",
        'Algorithm Version = "1"',
        "sha256 " + "a" * 64,
        "JANE DOE",
    ):
        assert expected in text
    (group,) = groups_of(path)
    assert group.finding_type.meaning == "Pneumonia"
    meanings = {item.name.meaning: item.value.meaning for item in group.get_qualitative_evaluations()}
    assert meanings.items() >= {"Pneumonia": presence, "Label of the model": label}.items()
    values = {item.name.meaning: item.value for item in group.get_measurements()}
    assert values["Probability"] == probability
    assert [values[name] for name in values if "label is" in name] == [0.3, 0.7]


def regions_of(report: bytes) -> list[Any]:
    """The content below each number of a report."""
    (group,) = [
        item
        for item in contents(dcmread(io.BytesIO(report)))
        if item.ValueType == "CONTAINER" and item.ConceptNameCodeSequence[0].CodeValue == "125007"
    ]
    return [list(item.get("ContentSequence", ())) for item in group.ContentSequence if item.ValueType == "NUM"]


def contents(item: Any) -> Iterator[Any]:
    """A content item and all below it."""
    yield item
    for below in item.get("ContentSequence", ()):
        yield from contents(below)


def test_each_number_is_about_the_whole_image() -> None:
    """OHIF opens no report with a number that has no coordinates, and reads only those that are its only content."""
    data = radiograph(Rows=48, Columns=160)  # of the same number of pixels
    regions = regions_of(structured_report(data, result()))
    assert [len(below) for below in regions] == [1, 1, 1]
    for (outline,) in regions:
        assert (outline.ValueType, outline.GraphicType, outline.RelationshipType) == (
            "SCOORD",
            "POLYLINE",
            "INFERRED FROM",
        )
        points = np.array(outline.GraphicData).reshape(-1, 2)
        assert (points.min(axis=0).tolist(), points.max(axis=0).tolist()) == ([0, 0], [160, 48])
        assert points[0].tolist() == points[-1].tolist()
        (image,) = outline.ContentSequence[0].ReferencedSOPSequence
        assert image.ReferencedSOPInstanceUID == dcmread(io.BytesIO(data)).SOPInstanceUID
        assert "ReferencedFrameNumber" not in image


def test_report_on_an_image_of_several_frames_is_about_the_first(tmp_path: Path) -> None:
    data = write(film(64), frames=3, storage="1.2.840.10008.5.1.4.1.1.7.3", **PATIENT)
    report = structured_report(data, result())
    for (outline,) in regions_of(report):
        assert outline.ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber == 1
    (tmp_path / "report.dcm").write_bytes(report)
    assert validated(tmp_path / "report.dcm") == []


@pytest.mark.parametrize("damage", [{"Rows": 0}, {"Columns": None}])
def test_report_on_an_image_without_a_size_has_no_coordinates(damage: dict[str, Any]) -> None:
    assert regions_of(structured_report(radiograph(**damage), result())) == [[], [], []]


def test_report_has_other_uids_than_those_of_its_earlier_form() -> None:
    """Archives keep the first content of a UID."""
    made, former = dcmread(io.BytesIO(structured_report(radiograph(), result()))), result().id
    uids = {made.SeriesInstanceUID, made.SOPInstanceUID}
    assert not uids & {generate_uid(entropy_srcs=[former, name]) for name in ("report series", "report")}


def test_report_belongs_to_the_patients_study_and_refers_to_the_image() -> None:
    data = radiograph()
    source, made = dcmread(io.BytesIO(data)), dcmread(io.BytesIO(structured_report(data, result())))
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber", "StudyDate"):
        assert made[keyword].value == source[keyword].value, keyword
    assert made.SeriesInstanceUID != source.SeriesInstanceUID
    (study,) = made.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    (instance,) = series.ReferencedSOPSequence
    assert (series.SeriesInstanceUID, instance.ReferencedSOPInstanceUID) == (
        source.SeriesInstanceUID,
        source.SOPInstanceUID,
    )


def test_report_is_the_same_however_often_it_is_made() -> None:
    data = radiograph()
    first, second = structured_report(data, result()), structured_report(data, result())
    assert first == second
    later = dcmread(io.BytesIO(structured_report(data, result(version="2"))))
    assert later.SOPInstanceUID != dcmread(io.BytesIO(first)).SOPInstanceUID


def test_finding_keeps_its_tracking_id_from_model_to_model(tmp_path: Path) -> None:
    data = radiograph()
    groups: list[Any] = []
    for version in ("1", "2"):
        (tmp_path / version).write_bytes(structured_report(data, result(version=version)))
        groups.extend(groups_of(tmp_path / version))
    assert groups[0].tracking_uid == groups[1].tracking_uid


@pytest.mark.parametrize("name", ODD)
def test_odd_patient_values_make_a_valid_report(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.dcm"
    path.write_bytes(structured_report(ODD[name](), result()))
    assert "MUSTER" not in capfd.readouterr().err
    assert [error for error in validated(path) if "StudyInstanceUID" not in error] == []


@pytest.mark.parametrize(
    "data",
    [
        b"no DICOM at all",
        radiograph(StudyInstanceUID=None),
        radiograph(SeriesInstanceUID=None),
        replaced("SOPInstanceUID", b"MUSTERMANN"),
    ],
    ids=["no-dicom", "no-study", "no-series", "odd-instance"],
)
def test_report_that_could_refer_to_nothing_is_not_made(data: bytes) -> None:
    with pytest.raises(DataError) as caught:
        structured_report(data, result())
    assert not {"DOE", "MUSTER"} & set(re.split(r"\W", str(caught.value)))


def test_result_without_probability_has_no_report() -> None:
    with pytest.raises(DataError, match="no probability"):
        structured_report(radiograph(), record(outcome="refused"))


def test_report_and_capture_are_downloaded_from_the_viewer(tmp_path: Path, store: Storage) -> None:
    data = radiograph()
    made = predicted(store, data)
    with running_site(home(tmp_path), store) as site, site.client(patients=True) as client:
        site.send(made)
        page = client.get(f"/x/{made.upload.identity}").text
        classes = {}
        for name in (f"/results/{made.id}.sr.dcm", f"/results/{made.id}.dcm"):
            assert f'href="{name}"' in page
            response = client.get(name)
            assert response.headers["content-type"] == "application/dicom"
            classes[name] = dcmread(io.BytesIO(response.content))
        report, capture = classes.values()
        assert (report.Modality, capture.Modality) == ("SR", "OT")
        assert report.StudyInstanceUID == capture.StudyInstanceUID == dcmread(io.BytesIO(data)).StudyInstanceUID
        assert report.SeriesInstanceUID != capture.SeriesInstanceUID
        assert "dicom report" in client.get("/audit").text
        with site.client() as other:  # without the right to see patients
            assert other.get(f"/results/{made.id}.sr.dcm").status_code == 403
            assert ".sr.dcm" not in other.get(f"/x/{made.upload.identity}").text


def test_upload_that_is_no_dicom_has_no_report_to_download(tmp_path: Path, store: Storage) -> None:
    etag = store.put("xray-uploads", "plain.jpeg", b"jpeg")
    made = record(key="plain.jpeg", etag=etag)
    with running_site(home(tmp_path), store) as site, site.client(patients=True) as client:
        site.send(made)
        response = client.get(f"/results/{made.id}.sr.dcm")
        assert response.status_code == 404
        assert "not known whose study" in response.text
        assert ".sr.dcm" not in client.get(f"/x/{made.upload.identity}").text


@pytest.mark.attack
def test_bomb_behind_honest_pixels_is_not_inflated() -> None:
    """Predictors judge such a file, so its report and capture are made: of its header, in the memory of a header."""
    data = deflated_bomb(write(film(64), DEFLATED, StudyInstanceUID="1.2.3"), 400, behind=True)
    assert len(data) < 2**20
    image = decode(data)
    overlaid = heatmap_png(image, np.full((4, 4), 0.8, np.float32), Preparation())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert dcmread(io.BytesIO(structured_report(data, result()))).StudyInstanceUID == "1.2.3"
    assert dcmread(io.BytesIO(capture(data, overlaid, result()))).StudyInstanceUID == "1.2.3"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
