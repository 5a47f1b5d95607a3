"""The decoder against DCMTK, GDCM and pydicom, over the DICOM files that pydicom and pydicom-data carry.

The files are of all modalities. Each is rewritten as a radiograph, with its pixels as they are.
"""

import importlib.util
import io
import os
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from lungline.errors import ImageRefused
from lungline.imaging import dicom, dicom_geometry
from lungline.imaging.decoding import decode
from tests.support.dicom_files import DX
from tests.support.image_files import ANY_SIZE

FOLDERS = [Path(pydicom.__file__).parent / "data/test_files"]
if spec := importlib.util.find_spec("data_store"):
    FOLDERS += [Path(folder) / "data" for folder in spec.submodule_search_locations or ()]
FILES = {path.name: path for folder in FOLDERS for path in sorted(folder.glob("*.dcm"))}

pytestmark = pytest.mark.filterwarnings("ignore")


def needs(*commands: str) -> None:
    """Skip without a Debian package; in CI, which installs it, fail."""
    if missing := [command for command in commands if shutil.which(command) is None]:
        message = f"{', '.join(missing)} not found: install the Debian packages dcmtk and libgdcm-tools"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


class Case(NamedTuple):
    header: Dataset
    data: bytes
    raw: dicom.Raw
    path: Path

    @property
    def is_grey(self) -> bool:
        return self.raw.patterns.ndim == 2


def as_radiograph(path: Path) -> tuple[Dataset, bytes]:
    """The file with another storage class and modality."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = pydicom.dcmread(path, force=True)
        if "TransferSyntaxUID" not in getattr(header, "file_meta", ()):
            header.file_meta = FileMetaDataset()
            header.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2")
        header.SOPClassUID, header.Modality = UID(DX), "DX"
        header.file_meta.MediaStorageSOPClassUID = UID(DX)
        header.SOPInstanceUID = header.get("SOPInstanceUID") or UID("1.2.3")
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
        buffer = io.BytesIO()
        header.save_as(buffer, enforce_file_format=True)
    return header, buffer.getvalue()


def case_of(name: str, tmp_path: Path) -> Case:
    try:
        header, data = as_radiograph(FILES[name])
    except Exception as exc:  # noqa: BLE001 - some files are broken on purpose
        pytest.skip(f"pydicom cannot rewrite it: {type(exc).__name__}")
    try:
        raw = dicom.read_raw(data, ANY_SIZE.check_size)
    except ImageRefused as refused:
        pytest.skip(f"refused: {refused.reason}: {refused}")
    path = tmp_path / "file.dcm"
    path.write_bytes(data)
    return Case(header, data, raw, path)


def run(*command: str | Path) -> str:
    """The command's messages, empty if it succeeded."""
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return f"exit {process.returncode}: {process.stderr}" if process.returncode else ""


def compare(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any], tolerance: float) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(float) - theirs.astype(float)).max() <= tolerance


@pytest.mark.parametrize("name", FILES)
def test_grey_levels_equal_dcmtks(name: str, tmp_path: Path) -> None:
    needs("dcm2pnm", "dcmj2pnm", "dcml2pnm")
    case = case_of(name, tmp_path)
    has_table = "VOILUTSequence" in case.header
    has_window = bool(case.header.get("WindowCenter")) and bool(case.header.get("WindowWidth"))
    window = ["+Wl", "1"] if has_table else ["+Wi", "1"] if has_window else ["+Wm"]
    output = tmp_path / "image.pnm"
    options = ("+op", "-O", *(window if case.is_grey else []), case.path, output)
    messages = [run(command, *options) for command in ("dcm2pnm", "dcmj2pnm", "dcml2pnm") if not output.exists()]
    if not output.exists():
        pytest.skip(f"DCMTK cannot decode it: {messages[-1]}")
    theirs = case.raw.turn.apply(np.asarray(Image.open(output)))
    frame = dicom.read(case.data, ANY_SIZE.check_size)
    ratio = dicom_geometry.aspect(case.raw.file)
    theirs = dicom_geometry.in_proportion(theirs, 1 / ratio if case.raw.turn.transpose else ratio, np.inf)
    if has_table or has_window or not case.is_grey:
        compare(frame.pixels, theirs, 2)
    else:  # without a window, each spreads grey levels in its own way, but in the same order
        assert frame.pixels.shape == theirs.shape
        assert np.ptp(theirs) == 0 or np.corrcoef(frame.pixels.ravel(), theirs.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("name", FILES)
def test_stored_values_equal_gdcms(name: str, tmp_path: Path) -> None:
    needs("gdcmconv")
    case = case_of(name, tmp_path)
    output = tmp_path / "raw.dcm"
    if message := run("gdcmconv", "--raw", "--force", case.path, output):
        pytest.skip(f"GDCM cannot decode it: {message}")
    if pydicom.dcmread(output).file_meta.TransferSyntaxUID.is_compressed:
        pytest.skip("GDCM cannot decompress it")
    theirs = case.raw.turn.apply(pixel_array(output, index=0))
    compare(stored(case.raw), theirs, 2 if not case.is_grey else 0)


@pytest.mark.parametrize("name", FILES)
def test_stored_values_equal_pydicoms(name: str, tmp_path: Path) -> None:
    case = case_of(name, tmp_path)
    try:
        theirs = pixel_array(case.path, index=0)
    except Exception as exc:  # noqa: BLE001 - each of pydicom's plugins has errors of its own
        pytest.skip(f"pydicom cannot decode it: {type(exc).__name__}")
    compare(stored(case.raw), case.raw.turn.apply(theirs), 2 if not case.is_grey else 0)


def stored(raw: dicom.Raw) -> np.ndarray[Any, Any]:
    return raw.patterns if raw.patterns.ndim == 3 else raw.stored.domain()[raw.patterns]


def test_a_real_chest_x_ray_gets_no_warning() -> None:
    if "RG1_UNCR.dcm" not in FILES:
        pytest.skip("pydicom-data is not installed")
    for name in ("RG1_UNCR.dcm", "RG1_UNCI.dcm", "RG1_J2KR.dcm", "RG1_J2KI.dcm"):
        image = decode(FILES[name].read_bytes())
        assert (image.not_frontal, image.warnings) == (None, ())


def test_a_real_leg_is_not_a_chest() -> None:
    if "RG3_UNCR.dcm" not in FILES:
        pytest.skip("pydicom-data is not installed")
    assert decode(FILES["RG3_UNCR.dcm"].read_bytes()).not_frontal is not None


def test_most_files_with_pixels_are_compared() -> None:
    """So that a decoder which refuses everything cannot pass."""
    accepted = 0
    for path in FILES.values():
        try:
            accepted += dicom.read_raw(as_radiograph(path)[1], ANY_SIZE.check_size).patterns.size > 0
        except Exception:  # noqa: BLE001 - some files are broken on purpose
            continue
    assert accepted >= (80 if len(FOLDERS) > 1 else 40)
