import io
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import FileDataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from lungline.errors import DataError
from lungline.imaging.decoding import decode
from lungline.imaging.heatmap import EvidenceMap, draw
from lungline.imaging.preparation import Preparation, heatmap_png
from lungline.results.records import ImageFacts, ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.predictor import PATIENTS, RESULTS
from tests.support.worklist_site import home, record, running_site, wait
from worklist.exports.former_captures import FormerCaptures
from worklist.exports.images import ImageRenderer
from worklist.exports.secondary_capture import capture, capture_key
from worklist.exports.study_instances import instances_of


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
        wait(lambda: store.exists(PATIENTS, capture_key(result)))
        with site.client() as client:
            shown = client.get(f"/x/{result.upload.identity}/xray")
            assert (shown.status_code, shown.headers["content-type"]) == (200, "image/png")
    made = dcmread(io.BytesIO(store.get(PATIENTS, capture_key(result)).data))
    source = dcmread(io.BytesIO(data))
    assert (made.StudyInstanceUID, made.PatientID) == (source.StudyInstanceUID, "77")
    assert made.SeriesInstanceUID != source.SeriesInstanceUID
    assert "Not a medical device" in made.DerivationDescription
    assert made.pixel_array.shape[2] == 3
    assert made.pixel_array[:, :, 0].max() > made.pixel_array[:, :, 1].min()


def test_dicom_results_of_earlier_versions_move_to_the_patients_bucket(tmp_path: Path, store: Storage) -> None:
    """At the start of the worklist, a little at a time, also after a move that was interrupted between two calls."""
    names = [f"results/{digit}0/{digit * 32}/1.dcm" for digit in "abc"]
    others = {"results/a0/note.dcm": b"no result", f"results/b0/{'b' * 32}/1.json": b"{}"}
    for key, data in ({name: name.encode() for name in names} | others).items():
        store.put(RESULTS, key, data)
    store.put(PATIENTS, "captures/b0/" + "b" * 32 + "/1.dcm", b"made anew")

    interrupted = FormerCaptures(store, Settings())
    while store.exists(RESULTS, names[0]):
        assert not interrupted.move_some(seconds=0)
    assert store.exists(RESULTS, names[1])

    with running_site(home(tmp_path), store):
        wait(lambda: not any(store.exists(RESULTS, name) for name in names))
    kept = [store.get(PATIENTS, name.replace("results/", "captures/")).data for name in names]
    assert kept == [names[0].encode(), b"made anew", names[2].encode()]
    assert [store.get(RESULTS, key).data for key in others] == list(others.values())


def test_result_page_shows_png_upright_and_dicom_in_true_proportion(tmp_path: Path, store: Storage) -> None:
    """Whatever the browser does about EXIF in PNG, or about pixels that are not square."""
    upright = np.arange(96 * 80, dtype=np.uint16).reshape(96, 80) % 251
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    out = io.BytesIO()
    Image.fromarray(upright.astype(np.uint8)).save(out, "PNG", exif=exif)
    images = {
        "turned.png": (out.getvalue(), (96, 80)),
        "wide.dcm": (radiograph(PixelAspectRatio=["1", "2"]), (160, 96)),
    }
    with running_site(home(tmp_path), store) as site, site.client() as client:
        for key, (data, size) in images.items():
            result = record(key=key, etag=store.put("xray-uploads", key, data))
            site.send(result)
            shown = Image.open(io.BytesIO(client.get(f"/x/{result.upload.identity}/xray").content))
            assert shown.getexif().get(0x0112, 1) == 1
            assert shown.size[0] / shown.size[1] == pytest.approx(size[0] / size[1], rel=0.02), key
            small = Image.open(io.BytesIO(client.get(f"/x/{result.upload.identity}/thumb").content))
            assert small.size[0] / small.size[1] == pytest.approx(size[0] / size[1], rel=0.02), key


def test_dicom_result_is_reproducible(store: Storage) -> None:
    data = radiograph()
    result = predicted(store, data)
    png = store.get("lungline-results", result.heatmap or "").data
    first, second = (dcmread(io.BytesIO(capture(data, png, result))) for _ in range(2))
    assert first.SOPInstanceUID == second.SOPInstanceUID


def test_heatmap_is_drawn_into_the_dicom_result(store: Storage) -> None:
    """An image that the worklist cannot decode, such as one too large for its memory, gets none, with the reason."""
    data = radiograph()
    evidence = EvidenceMap.of(np.full((4, 4), 0.8, np.float32), (0.0, 0.0, 1.0, 1.0))
    result = predicted(store, data).model_copy(update={"heatmap": None, "evidence": evidence})
    with instances_of(result, ImageRenderer(store, Settings())) as made:
        drawn = dcmread(io.BytesIO(made.capture())).pixel_array[:96, :80]
    assert np.array_equal(drawn, np.asarray(Image.open(io.BytesIO(draw(decode(data), evidence)))))
    too_large = ImageRenderer(store, Settings(image_max_pixels=96 * 80 - 1))
    with instances_of(result, too_large) as made, pytest.raises(DataError, match="cannot be drawn here"):
        made.capture()


def test_upload_without_study_gets_no_dicom_result(store: Storage) -> None:
    """The error quotes nothing of the patient's."""
    result = predicted(store, radiograph())
    png = store.get("lungline-results", result.heatmap or "").data
    for data in (radiograph(StudyInstanceUID=None), b"no DICOM at all"):
        with pytest.raises(DataError) as caught:
            capture(data, png, result)
        assert "DOE" not in str(caught.value)


ODD = {
    "names-of-one-component": lambda: radiograph(ReferringPhysicianName="DRWEISS", PatientName="MUSTERMANN"),
    "date": lambda: replaced("StudyDate", b"MUSTERMA"),
    "undeclared-name": lambda: replaced("PatientName", "MÜSTERMANN".encode("latin-1")),
    "broken-escape": lambda: replaced("PatientName", b"\x1b$BMUSTERMAN"),
    "long": lambda: replaced("AccessionNumber", b"MUSTERMANN" * 4),
    "uid": lambda: replaced("StudyInstanceUID", b"MUSTERMANN"),
    "unknown-charset": lambda: radiograph(SpecificCharacterSet="ISO_IR 100").replace(b"ISO_IR 100", b"MUSTERMANN"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_patient_values_are_not_logged(tmp_path: Path, store: Storage, name: str) -> None:
    data = ODD[name]()
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


NAMES = {
    "japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "japanese-katakana": (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    "japanese-supplementary": (["", "ISO 2022 IR 87", "ISO 2022 IR 159"], "A^B=山田^太郎"),
    "japanese-one-byte": ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
    "chinese": ("GB18030", "Wang^XiaoDong=王^小东"),
    "chinese-gbk": ("GBK", "Wang=王"),
    "korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    "greek": ("ISO_IR 126", "Διονυσιος"),
    "cyrillic": ("ISO_IR 144", "Люкceмбypг"),
    "arabic": ("ISO_IR 127", "قباني"),
    "hebrew": ("ISO_IR 138", "שרון"),
    "thai": ("ISO_IR 166", "ไทย"),
    "german": ("ISO_IR 100", "Müller^Jürgen"),
    "utf-8": ("ISO_IR 192", "Müller^李"),
}


def captured(store: Storage, data: bytes) -> FileDataset:
    result = predicted(store, radiograph())
    png = store.get("lungline-results", result.heatmap or "").data
    made = dcmread(io.BytesIO(capture(data, png, result)))
    assert made.pixel_array.shape[2] == 3
    return made


@pytest.mark.parametrize("name", NAMES)
def test_dicom_result_keeps_the_name_in_any_character_set(store: Storage, name: str) -> None:
    charset, text = NAMES[name]
    made = captured(store, radiograph(SpecificCharacterSet=charset, PatientName=text))
    assert (made.SpecificCharacterSet, str(made.PatientName)) == ("ISO_IR 192", text)


def replaced(keyword: str, value: bytes) -> bytes:
    """A radiograph with the bytes of a value as no library would write them."""
    dataset = dcmread(io.BytesIO(radiograph()))
    element = dataset[keyword]
    raw = RawDataElement(element.tag, element.VR, len(value), value, 0, False, True, True)
    dataset._dict[element.tag] = raw  # noqa: SLF001 - there is no other way to write what is malformed
    out = io.BytesIO()
    dataset.save_as(out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("keyword", "value", "kept"),
    [
        ("StudyDate", b"2024.01.05", "20240105"),
        ("StudyDate", b"2024-01-05", "20240105"),
        ("StudyDate", b"00000000", ""),
        ("StudyDate", b"20240230", ""),
        ("StudyDate", b"05.01.2024", ""),
        ("StudyDate", b"UNKNOWN ", ""),
        ("PatientBirthDate", b"1950", ""),
        ("StudyTime", b"08:30:15", "083015"),
        ("StudyTime", b"0830", "0830"),
        ("StudyTime", b"25:00:00", ""),
        ("StudyTime", b"noon", ""),
        ("AccessionNumber", b"A" * 24, ""),
        ("AccessionNumber", b"A\x07", ""),
        ("StudyID", b"S" * 30, ""),
        ("PatientID", b"7" * 80, ""),
        ("PatientID", b"77\\88", "77"),
        ("PatientID", b"7\x007 ", ""),
        ("PatientSex", b"female", ""),
        ("PatientSex", b"m", "M"),
        ("PatientName", "Müller".encode(), "Müller"),
        ("PatientName", "Müller".encode("latin-1"), ""),
        ("PatientName", b"A" * 70, ""),
        ("PatientName", b"DOE=A=B=C", ""),
        ("PatientName", b"DOE^JANE\x00", "DOE^JANE"),
    ],
)
def test_dicom_result_leaves_out_what_is_malformed(store: Storage, keyword: str, value: bytes, kept: str) -> None:
    assert str(getattr(captured(store, replaced(keyword, value)), keyword) or "") == kept


@pytest.mark.parametrize(
    ("uid", "kept"), [(b"1.2.03.4", True), (b"1.2.3.x", False), (b"1." * 40, False), (b"no uid", False)]
)
def test_dicom_result_with_a_malformed_study_is_made_reproducibly(store: Storage, uid: bytes, kept: bool) -> None:
    first, second = (captured(store, replaced("StudyInstanceUID", uid)) for _ in range(2))
    assert first.StudyInstanceUID == second.StudyInstanceUID
    assert (str(first.StudyInstanceUID) == uid.decode()) is kept
    assert kept or first.StudyInstanceUID.is_valid


def test_dicom_result_refers_only_to_valid_instances(store: Storage) -> None:
    assert "SourceImageSequence" in captured(store, radiograph())
    assert "SourceImageSequence" not in captured(store, replaced("SOPInstanceUID", b"1.2.x"))


@pytest.mark.parametrize(
    ("orientation", "claimed"),
    [(None, []), (["L", "F"], ["L", "F"]), (["R", "F"], ["L", "F"]), (["L", "H"], ["L", "F"])],
)
def test_dicom_result_claims_only_the_orientation_of_its_pixels(
    store: Storage, orientation: list[str] | None, claimed: list[str]
) -> None:
    """The decoder turns images upright; without an orientation nothing is claimed."""
    made = captured(store, radiograph(PatientOrientation=orientation))
    assert list(made.PatientOrientation or []) == claimed


def test_missing_dicom_result_is_shown_with_its_reason(tmp_path: Path, store: Storage) -> None:
    result = predicted(store, radiograph(StudyInstanceUID=None))
    with running_site(home(tmp_path), store) as site, site.client() as client:
        site.send(result)
        page = f"/x/{result.upload.identity}"
        wait(lambda: "No DICOM result: The upload does not say which study" in client.get(page).text)
        assert "DOE" not in client.get(page).text
