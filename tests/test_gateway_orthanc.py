"""A PACS that nobody here wrote sends to the gateway."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from laptop.services.gateway import GatewayService
from laptop.services.store import running_store
from lungline.imaging.decoding import decode
from lungline.imaging.dicom_header import read_file
from lungline.imaging.dicom_origin import NEEDED, is_own
from lungline.imaging.preparation import Preparation, heatmap_png
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support import dicom_files
from tests.support.lone_services import running_gateway
from tests.support.orthanc import Modality, Orthanc, running_orthanc
from tests.support.waiting import eventually
from tests.support.worklist_site import record
from worklist.delivery.dicom import DicomChannel
from worklist.delivery.parcel import Instances
from worklist.destinations import DicomDestination
from worklist.exports.secondary_capture import capture
from worklist.exports.structured_report import structured_report


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, GatewayService]]:
    """A store with a gateway before it."""
    home = tmp_path_factory.mktemp("orthanc") / "home"
    with running_store(home, Settings(home=home)) as settings, running_gateway(home, settings) as gateway:
        yield settings, gateway


@pytest.fixture(scope="module")
def orthanc(site: tuple[Settings, GatewayService], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An Orthanc that routes everything that it gets to the gateway."""
    modality = Modality("LUNGLINE", site[1].ports.gateway)
    with running_orthanc(tmp_path_factory.mktemp("pacs"), {"lungline": modality}, route_to="lungline") as server:
        yield server


def own_results(gateway: GatewayService) -> int:
    """How many of our own results have come back to the gateway."""
    text = httpx.get(f"http://127.0.0.1:{gateway.ports.gateway_metrics}/metrics").text
    lines = [line for line in text.splitlines() if 'outcome="own"' in line and "instances_total" in line]
    return sum(int(float(line.split()[-1])) for line in lines)


def test_orthanc_routes_to_the_gateway(site: tuple[Settings, GatewayService], orthanc: Orthanc) -> None:
    """What a person adds to the PACS is an upload soon after."""
    settings, _ = site
    storage = Storage.from_settings(settings)
    before = {info.key for info in storage.list(settings.uploads_bucket)}
    orthanc.add(dicom_files.write(dicom_files.film(128, seed=11), PatientName="Doe^Jane", PatientID="P-4711"))
    eventually(lambda: len({info.key for info in storage.list(settings.uploads_bucket)} - before) == 1)


def test_orthanc_sends_the_same_instance_again(site: tuple[Settings, GatewayService], orthanc: Orthanc) -> None:
    """An instance that is sent again is accepted, and remains one upload."""
    settings, _ = site
    storage = Storage.from_settings(settings)
    before = {info.key for info in storage.list(settings.uploads_bucket)}
    identifier = orthanc.add(dicom_files.write(dicom_files.film(128, seed=12)))
    for _ in range(3):
        assert orthanc.send(identifier, "lungline")["FailedInstancesCount"] == 0
    assert len({info.key for info in storage.list(settings.uploads_bucket)} - before) == 1


def test_gateway_log_names_no_patient(site: tuple[Settings, GatewayService], orthanc: Orthanc, tmp_path: Path) -> None:
    """Neither log nor keys hold name or ID of the patient."""
    settings, gateway = site
    storage = Storage.from_settings(settings)
    data = dicom_files.write(dicom_files.film(96, seed=13), PatientName="Roe^Richard", PatientID="ID-90210")
    assert orthanc.send(orthanc.add(data), "lungline")["FailedInstancesCount"] == 0
    text = gateway.home.log("gateway").read_text() + " ".join(
        info.key for info in storage.list(settings.uploads_bucket)
    )
    assert "Roe" not in text
    assert "90210" not in text


def test_own_results_are_recognised_when_the_pacs_sends_them_back(
    site: tuple[Settings, GatewayService], orthanc: Orthanc
) -> None:
    """Report and capture are delivered to the PACS, which routes them to the gateway: success, and no upload."""
    settings, gateway = site
    storage = Storage.from_settings(settings)
    source = dicom_files.write(dicom_files.film(96, seed=14), PatientName="Roe^Richard", PatientID="ID-90210")
    orthanc.add(source)
    pixels = decode(source)
    heatmap = heatmap_png(pixels, np.full((4, 4), 0.8, np.float32), Preparation())
    result = record(1, 0.9, key="clinic/image.dcm")
    instances: Instances = [
        ("report", structured_report(source, result)),
        ("capture", capture(source, heatmap, result)),
    ]
    pacs = DicomDestination(name="pacs", host="127.0.0.1", port=orthanc.dicom_port, called_title="ORTHANC")
    before = own_results(gateway)
    eventually(lambda: len(list(storage.list(settings.uploads_bucket))) > 0)
    with DicomChannel(pacs.model_copy(update={"calling_title": "ANOTHER"})) as channel:
        channel.send(instances)
    eventually(lambda: own_results(gateway) == before + 2)
    keys = [info.key for info in storage.list(settings.uploads_bucket)]
    kept = [read_file(storage.get(settings.uploads_bucket, key).data, NEEDED) for key in keys]
    assert not any(map(is_own, kept))
