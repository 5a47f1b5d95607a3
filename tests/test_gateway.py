"""What modalities send over DICOM becomes uploads, each once, with the right status."""

import hashlib
import io
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import generate_uid

from gateway.part10 import data_set_start
from laptop.services.gateway import GatewayService
from laptop.services.process import running
from laptop.services.store import running_store
from lungline.imaging.dicom_header import read_file
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support import dicom_files
from tests.support.dicom_files import CAPTURE, CR, CT, DX, film, write
from tests.support.dicom_network import HOST, dcmtk, send, storescu
from tests.support.lone_services import running_gateway
from tests.support.waiting import eventually

OTHER_RADIOGRAPHS = (CR, DX, "1.2.840.10008.5.1.4.1.1.1.1.1", CAPTURE)
REPORT = "1.2.840.10008.5.1.4.1.1.88.33"
# DCMTK converts these when the other side takes explicit little endian too.
CONVERTED = {dicom_files.IMPLICIT, dicom_files.BIG, dicom_files.DEFLATED}


class Site:
    """A store and the gateway before it."""

    def __init__(self, settings: Settings, gateway: GatewayService) -> None:
        self.settings = settings
        self.gateway = gateway
        self.port = gateway.ports.gateway
        self.storage = Storage.from_settings(settings)

    def keys(self) -> list[str]:
        """The key of every upload."""
        return [info.key for info in self.storage.list(self.settings.uploads_bucket)]

    def uploads(self) -> dict[str, bytes]:
        """Every upload by key."""
        bucket = self.settings.uploads_bucket
        return {info.key: self.storage.get(bucket, info.key).data for info in self.storage.list(bucket)}

    def added(self, before: dict[str, bytes]) -> list[bytes]:
        """The uploads that were not there before."""
        return [data for key, data in self.uploads().items() if key not in before]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A store alone."""
    home = tmp_path_factory.mktemp("gateway") / "home"
    limits = {"image_max_bytes": 2 * 2**20, "gateway": {"senders": "PYNETDICOM, STORESCU, ECHOSCU, DCMSEND, MODALITY"}}
    with running_store(home, Settings.model_validate({"home": home} | limits)) as settings:
        yield settings


@pytest.fixture(scope="module")
def site(store: Settings) -> Iterator[Site]:
    """A store with a gateway."""
    with running_gateway(store.home, store) as gateway:
        yield Site(store, gateway)


def test_echo_is_answered(site: Site) -> None:
    assert dcmtk("echoscu", "-aec", "LUNGLINE", HOST, str(site.port)).returncode == 0


@pytest.mark.parametrize("syntax", [*dicom_files.EXACT, *dicom_files.LOSSY, dicom_files.BASELINE])
def test_every_transfer_syntax_is_stored_as_it_comes(site: Site, tmp_path: Path, syntax: str) -> None:
    """The data set in the bucket has the bytes that were sent, and a header that states its syntax."""
    before = site.uploads()
    bits = 8 if syntax == dicom_files.BASELINE else 12
    data = write(film(96, bits=bits), syntax, bits=bits)
    (tmp_path / "x.dcm").write_bytes(data)
    if syntax in CONVERTED:
        assert send(site.port, data) == [0]
    else:
        sent = dcmtk("dcmsend", "-dn", "-aec", "LUNGLINE", HOST, str(site.port), str(tmp_path / "x.dcm"))
        assert sent.returncode == 0, sent.stderr
    (stored,) = site.added(before)
    assert read_file(stored, frozenset()).syntax == syntax
    # A toolkit may write lengths of sequences and items in another way; these files have none but the pixels.
    original, kept = (pydicom.dcmread(io.BytesIO(each)) for each in (data, stored))
    assert kept.PixelData == original.PixelData
    if syntax == dicom_files.EXPLICIT:
        assert stored[data_set_start(stored) :] == data[data_set_start(data) :]


@pytest.mark.parametrize("sop_class", OTHER_RADIOGRAPHS)
def test_every_kind_of_radiograph_is_stored(site: Site, sop_class: str) -> None:
    before = site.uploads()
    assert send(site.port, write(film(64), storage=sop_class)) == [0]
    assert len(site.added(before)) == 1


def test_same_instance_is_one_upload(site: Site) -> None:
    """However often and by whomever it is sent."""
    before, data = site.uploads(), write(film(64, seed=5))
    assert send(site.port, data, data) == [0, 0]
    assert send(site.port, data, calling="MODALITY") == [0]
    assert len(site.added(before)) == 1


def test_changed_content_is_kept_apart(site: Site) -> None:
    """Another content under the same UID replaces nothing, and the log says so."""
    before, uid = site.uploads(), generate_uid()
    elements: dict[str, Any] = {
        "SOPInstanceUID": uid,
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
    }
    assert send(site.port, *(write(film(64, seed=seed), **elements) for seed in (1, 2))) == [0, 0]
    assert len(site.added(before)) == 2
    eventually(lambda: "both are kept" in site.gateway.home.log("gateway").read_text())


def test_keys_are_digests(site: Site) -> None:
    """No part of a key is a UID, or anything else from the header."""
    data = write(film(64, seed=6), PatientID="4711", StudyInstanceUID="1.2.3.4711")
    before = set(site.uploads())
    send(site.port, data)
    (key,) = set(site.uploads()) - before
    folder, study, series, name = key.split("/")
    assert folder == "dicom"
    assert study == hashlib.sha256(b"1.2.3.4711").hexdigest()[:24]
    assert {len(series), len(name)} == {24, 24 + 1 + 16 + 4}


def test_wrong_called_title_is_rejected(site: Site, tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(write(film(64)))
    assert "Called AE Title Not Recognized" in storescu(site.port, tmp_path / "x.dcm", title="NOBODY")


def test_unlisted_sender_is_rejected(site: Site, tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(write(film(64)))
    before = site.uploads()
    said = storescu(site.port, tmp_path / "x.dcm", options=["-aet", "STRANGER"])
    assert "Calling AE Title Not Recognized" in said
    assert not site.added(before)


def test_other_modalities_are_not_accepted(site: Site, tmp_path: Path) -> None:
    """A CT is refused in the negotiation, by its SOP class."""
    (tmp_path / "x.dcm").write_bytes(write(film(64), storage=CT, Modality="CT"))
    assert "No presentation context" in storescu(site.port, tmp_path / "x.dcm")


def test_large_object_is_refused_and_the_next_is_stored(site: Site) -> None:
    """Out of resources (A700) is said of the one object; the association goes on."""
    before = site.uploads()
    assert send(site.port, write(film(1600)), write(film(64, seed=7))) == [0xA700, 0]
    assert len(site.added(before)) == 1


def test_object_without_study_is_not_understood(site: Site) -> None:
    assert send(site.port, write(film(64), StudyInstanceUID=None)) == [0xC000]


def test_object_without_pixels_is_not_understood(site: Site) -> None:
    data = pydicom.dcmread(io.BytesIO(write(film(64))))
    del data.PixelData
    out = io.BytesIO()
    data.save_as(out)
    assert send(site.port, out.getvalue()) == [0xC000]


@pytest.mark.parametrize("sop_class", [CAPTURE, REPORT])
def test_own_results_are_accepted_and_not_uploaded(site: Site, sop_class: str) -> None:
    """A PACS that routes our results back gets success, and nothing is judged."""
    before = site.uploads()
    origin: dict[str, Any] = {"Manufacturer": "Lungline", "ManufacturerModelName": "Lungline"}
    assert send(site.port, write(film(64), storage=sop_class, Modality="OT", **origin)) == [0]
    assert not site.added(before)


def test_report_of_others_is_refused(site: Site) -> None:
    """SOP class not supported (0122)."""
    assert send(site.port, write(film(64), storage=REPORT, Modality="SR", Manufacturer="Other")) == [0x0122]


def test_store_that_is_down_is_out_of_resources(tmp_path: Path) -> None:
    """A700, so that the sender tries again; and then the object is stored."""
    home, data = tmp_path / "home", write(film(64))
    with running_store(home, Settings(home=home)) as settings:
        service = GatewayService.of(home, settings)
    with running(service, service.home.log("gateway")):
        assert send(service.ports.gateway, data) == [0xA700]
    assert not list(service.home.file("gateway", "spool").iterdir())


def test_200_instances_over_8_associations_and_a_kill(store: Settings, tmp_path: Path) -> None:
    """None is lost and none is twice, also when the gateway is killed while they come."""
    files = [write(film(64, seed=seed)) for seed in range(200)]
    paths = [tmp_path / f"{number}.dcm" for number in range(200)]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    service = GatewayService.of(tmp_path / "home", store)
    site = Site(store, service)
    before = site.uploads()
    with running(service, service.home.log("gateway")) as process, ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(_send_until_stored, site.port, paths[first::8]) for first in range(8)]
        eventually(lambda: len(site.keys()) > len(before) + 20)
        os.kill(process.pid, signal.SIGKILL)
        eventually(lambda: process.exit_code is not None)
        with running(service, service.home.log("gateway")):
            attempts = [job.result(120) for job in jobs]
    assert max(attempts) > 1  # else nothing was interrupted
    stored = site.added(before)
    assert len(stored) == 200
    assert {pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID for data in stored} == {
        pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID for data in files
    }


def _send_until_stored(port: int, paths: list[Path]) -> int:
    """Send until every object is confirmed; returns how many associations it took."""
    end, attempts = time.monotonic() + 100, 1
    while storescu(port, *paths):
        assert time.monotonic() < end
        attempts += 1
        time.sleep(0.2)
    return attempts
