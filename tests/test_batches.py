"""Batches from folders, zips, DICOM media and buckets: each image is one upload, and each file has its row."""

import hashlib
import io
import os
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.fileset import FileSet
from typer.testing import CliRunner

from cli.main import app
from gateway.part10 import read_instance
from laptop.batches.importing import Import, Pace, Row, Target
from laptop.batches.journal import Journal
from laptop.batches.sources import opened
from lungline.datasets.phantom import jpeg
from lungline.errors import LunglineError
from lungline.imaging.image import Limits
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.dicom_files import CT, film, write
from tests.support.image_files import drawing, encoded
from tests.support.object_store import running_store

PNG = encoded(drawing(), "PNG")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """A store with two buckets."""
    with running_store(tmp_path_factory.mktemp("store"), "uploads", "archive") as store:
        yield store


class Site:
    """A place that batches are uploaded to, empty at first."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        self.storage = storage
        self.folder = folder
        self.settings = Settings(home=folder / "home", s3_endpoint=storage.endpoint, uploads_bucket="uploads")
        for key in self.uploads():
            storage.delete("uploads", key)

    def uploads(self) -> list[str]:
        """The key of every upload."""
        return [info.key for info in self.storage.list("uploads")]

    def run(self, source: object, *, dry_run: bool = False, again: bool = False) -> dict[str, Row]:
        """Import a batch; returns the row of each file by its name."""
        target = Target(self.storage, "uploads", Limits())
        journal = Journal(self.folder / "home/imports/journal.db", "tests")
        try:
            with opened(str(source), self.settings) as entries:
                rows = Import(target, journal, Pace(1000), dry_run, again).run(entries, lambda row, done: None)
        finally:
            journal.close()
        return {row.name: row for row in rows}


@pytest.fixture
def site(storage: Storage, tmp_path: Path) -> Site:
    """An empty bucket and a new journal."""
    return Site(storage, tmp_path)


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def outcomes(rows: dict[str, Row]) -> dict[str, str]:
    return {name: row.outcome for name, row in rows.items()}


def test_every_file_of_a_folder_has_its_row(site: Site, tmp_path: Path) -> None:
    """Images of any format are uploaded; what is none, cannot be read or leads out is named with its reason."""
    top = tmp_path / "ward"
    put(top / "MEIER^ANNA.png", PNG)
    put(top / "a/b/c.jpg", jpeg(1, opacities=True))
    put(top / "a/x.dcm", write(film(64)))
    put(top / "a/same.png", PNG)
    put(top / "letter.txt", b"Dear colleague")
    put(top / "empty.png", b"")
    put(top / "cut.png", PNG[:200])
    put(top / "ct.dcm", write(film(64), storage=CT, Modality="CT")[:300])
    put(top / ".DS_Store", b"x")
    put(top / "own.dcm", write(film(64), Manufacturer="Lungline", ManufacturerModelName="Lungline"))
    (top / "out.png").symlink_to(put(tmp_path / "elsewhere/secret.png", PNG))
    (top / "folder").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(top / "pipe")
    rows = site.run(top)
    assert outcomes(rows) == {
        "MEIER^ANNA.png": "uploaded",
        "a/b/c.jpg": "uploaded",
        "a/x.dcm": "uploaded",
        "a/same.png": "already there",
        "letter.txt": "not an image",
        "empty.png": "not an image",
        "cut.png": "not an image",
        "ct.dcm": "not an image",
        "own.dcm": "not an image",
        "out.png": "failed",
        "folder": "failed",
        "pipe": "failed",
    }
    assert all(row.reason.endswith(".") for row in rows.values() if not row.key)
    assert sorted(site.uploads()) == sorted({row.key for row in rows.values() if row.key})


def test_keys_hold_no_name_and_are_the_gateways_for_dicom(site: Site, tmp_path: Path) -> None:
    data = write(film(64, seed=3), PatientName="MEIER^ANNA")
    put(tmp_path / "ward/MEIER^ANNA.png", PNG)
    put(tmp_path / "ward/MEIER^ANNA.dcm", data)
    rows = site.run(tmp_path / "ward")
    assert rows["MEIER^ANNA.dcm"].key == read_instance(data).key
    assert rows["MEIER^ANNA.png"].key == f"import/{hashlib.sha256(PNG).hexdigest()[:40]}.png"
    assert b"MEIER" not in (site.folder / "home/imports/journal.db").read_bytes()


def test_second_call_reads_nothing_again(site: Site, tmp_path: Path) -> None:
    """What the journal has is not even read; a changed file is another image."""
    put(tmp_path / "ward/1.png", PNG)
    changed = put(tmp_path / "ward/2.png", jpeg(1, opacities=True))
    site.run(tmp_path / "ward")
    for key in site.uploads():
        site.storage.delete("uploads", key)
    changed.write_bytes(jpeg(2, opacities=False))
    assert outcomes(site.run(tmp_path / "ward")) == {"1.png": "already there", "2.png": "uploaded"}
    assert outcomes(site.run(tmp_path / "ward", again=True)) == {"1.png": "uploaded", "2.png": "already there"}


def test_dry_run_uploads_nothing(site: Site, tmp_path: Path) -> None:
    put(tmp_path / "ward/1.png", PNG)
    assert outcomes(site.run(tmp_path / "ward", dry_run=True)) == {"1.png": "would be uploaded"}
    assert site.uploads() == []
    assert outcomes(site.run(tmp_path / "ward")) == {"1.png": "uploaded"}


def test_file_that_goes_while_others_are_read_fails_alone(site: Site, tmp_path: Path) -> None:
    gone = put(tmp_path / "ward/1.png", PNG)
    put(tmp_path / "ward/2.png", jpeg(1, opacities=True))
    with opened(str(tmp_path / "ward"), site.settings) as entries:
        gone.unlink()
        journal = Journal(tmp_path / "journal.db", "tests")
        target = Target(site.storage, "uploads", Limits())
        rows = Import(target, journal, Pace(1000)).run(entries, lambda row, done: None)
        journal.close()
    assert [row.outcome for row in rows] == ["failed", "uploaded"]
    assert rows[0].reason == "It cannot be read: No such file or directory."


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_file_without_the_right_to_read_it_fails_alone(site: Site, tmp_path: Path) -> None:
    put(tmp_path / "ward/1.png", PNG).chmod(0)
    put(tmp_path / "ward/2.png", jpeg(1, opacities=True))
    assert outcomes(site.run(tmp_path / "ward")) == {"1.png": "failed", "2.png": "uploaded"}


def test_a_zip_is_never_extracted(site: Site, tmp_path: Path) -> None:
    """Names that lead out do no harm; bombs and protected members fail alone, and nothing is written."""
    zeros = b"\x89PNG\r\n\x1a\n" + b"\0" * 30_000_000
    with zipfile.ZipFile(tmp_path / "batch.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../out.png", PNG)
        archive.writestr("/absolute.jpg", jpeg(1, opacities=True))
        archive.writestr("ward/bomb.png", zeros)
        archive.writestr("ward/protected.png", PNG)
        archive.writestr("ward/letter.txt", b"x" * 5000)
        archive.writestr("__MACOSX/._x.png", b"x")
    _protect(tmp_path / "batch.zip", b"ward/protected.png")
    before = {path for path in tmp_path.rglob("*") if "home" not in path.parts}
    assert outcomes(site.run(tmp_path / "batch.zip")) == {
        "../../out.png": "uploaded",
        "/absolute.jpg": "uploaded",
        "ward/bomb.png": "not an image",
        "ward/protected.png": "failed",
        "ward/letter.txt": "not an image",
    }
    assert {path for path in tmp_path.rglob("*") if "home" not in path.parts} == before


def _protect(path: Path, name: bytes) -> None:
    """Set the flag of encryption of a member, in the directory at the end."""
    data = bytearray(path.read_bytes())
    at = data.rindex(name) - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    data[at + 8] |= 1
    path.write_bytes(data)


def test_members_that_share_their_bytes_are_refused(site: Site, tmp_path: Path) -> None:
    """A small file cannot stand for a thousand large ones."""
    zeros = zlib.compress(b"\0" * 10_000_000, 9)
    with zipfile.ZipFile(tmp_path / "batch.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("kernel.png", zeros)
        first = archive.infolist()[0]
        for number in range(50):
            twin = zipfile.ZipInfo(f"{number}.png")
            twin.header_offset, twin.CRC = first.header_offset, first.CRC
            twin.compress_size = twin.file_size = first.compress_size
            archive.filelist.append(twin)
    with pytest.raises(LunglineError, match="claims to hold more than it has"):
        site.run(tmp_path / "batch.zip")


def test_damaged_zip_is_said_in_a_sentence(site: Site, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.png", PNG)
    data = buffer.getvalue()
    put(tmp_path / "batch.zip", data[:60] + b"\xff" * 40 + data[100:])
    rows = site.run(tmp_path / "batch.zip")
    assert rows["x.png"].outcome == "failed"
    assert rows["x.png"].reason.startswith("It cannot be unpacked:")


def disc(folder: Path, count: int) -> Path:
    """A medium with a DICOMDIR, as pydicom writes one."""
    media = FileSet()
    header: dict[str, Any] = {"PatientID": "1", "PatientName": "A^B", "StudyID": "1", "AccessionNumber": "1"}
    header |= {"StudyDate": "20260101", "StudyTime": "120000", "SeriesNumber": 1}
    for seed in range(count):
        media.add(put(folder / f"{seed}.dcm", write(film(64, seed=seed), **header, InstanceNumber=seed)))
    media.write(folder / "disc")
    media._stage["t"].cleanup()  # noqa: SLF001 - it would warn that nobody did
    return folder / "disc/DICOMDIR"


def test_the_files_that_a_dicomdir_names_are_imported(site: Site, tmp_path: Path) -> None:
    """Those that are missing are named; names may be written small; other files of the disc are left alone."""
    directory = disc(tmp_path, 3)
    put(directory.with_name("viewer.png"), PNG)
    first, second, _ = sorted(path for path in directory.parent.rglob("IM*") if path.is_file())
    first.unlink()
    second.rename(second.with_name(second.name.lower()))
    rows = site.run(directory)
    assert sorted(outcomes(rows).values()) == ["failed", "uploaded", "uploaded"]
    assert "The DICOMDIR names it, and it is not there." in {row.reason for row in rows.values()}
    assert len(site.uploads()) == 2


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_a_dicomdir_cannot_lead_out_of_its_disc(site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And a damaged one is said in a sentence."""
    directory = disc(tmp_path, 1)
    put(tmp_path / "secret.dcm", write(film(64, seed=9)))
    records = pydicom.dcmread(directory)
    for record in records.DirectoryRecordSequence:
        if "ReferencedFileID" in record:
            record.ReferencedFileID = ["..", "secret.dcm"]
    records.save_as(directory)
    caplog.clear()
    (row,) = site.run(directory).values()
    assert row.reason == "It leads out of the folder of the DICOMDIR."
    assert caplog.records == []
    directory.write_bytes(directory.read_bytes()[:500])
    with pytest.raises(LunglineError, match=r"is damaged|cannot be read"):
        site.run(directory)


def test_a_prefix_of_a_bucket_is_imported(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the address and keys of boto3's environment."""
    ours = site.storage
    for key, data in {
        "old/1.png": PNG,
        "old/2/2.jpg": jpeg(1, opacities=True),
        "old/x.txt": b"x",
        "new/3.png": b"x",
    }.items():
        ours.put("archive", key, data)
    monkeypatch.setenv("AWS_ENDPOINT_URL", str(ours.endpoint))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test-access")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
    expected = {"old/1.png": "uploaded", "old/2/2.jpg": "uploaded", "old/x.txt": "not an image"}
    assert outcomes(site.run("s3://archive/old/")) == expected
    with pytest.raises(LunglineError, match="uploads already"):
        site.run("s3://uploads/import/")


def test_a_damaged_journal_is_made_again(site: Site, tmp_path: Path) -> None:
    put(tmp_path / "ward/1.png", PNG)
    site.run(tmp_path / "ward")
    put(site.folder / "home/imports/journal.db", b"no database at all" * 100)
    assert outcomes(site.run(tmp_path / "ward")) == {"1.png": "already there"}


def test_a_store_that_goes_away_ends_the_import_with_one_sentence(tmp_path: Path) -> None:
    """And the next call goes on from there."""
    put(tmp_path / "ward/1.png", PNG)
    put(tmp_path / "ward/2.png", jpeg(1, opacities=True))
    away = Site.__new__(Site)
    away.storage, away.folder = Storage("http://127.0.0.1:9"), tmp_path
    away.settings = Settings(home=tmp_path / "home")
    with pytest.raises(LunglineError, match=r"0 of 2 files are done; the same command goes on from there\.$"):
        away.run(tmp_path / "ward")


@pytest.mark.parametrize("source", ["nowhere", "ward", ""])
def test_nothing_to_import_is_one_sentence(tmp_path: Path, source: str) -> None:
    """Also where no stack runs."""
    (tmp_path / "ward").mkdir()
    done = CliRunner().invoke(
        app, ["import", str(tmp_path / source) if source else "", "--home", str(tmp_path / "home")]
    )
    assert done.exit_code == 1
    assert isinstance(done.exception, LunglineError)
    assert str(done.exception).startswith("No stack runs in")


def test_no_more_than_the_rate_pass_in_a_second() -> None:
    pace, started = Pace(50), time.monotonic()
    for _ in range(11):
        pace.wait()
    assert time.monotonic() - started >= 0.19
