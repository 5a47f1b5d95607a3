"""Results reach a PACS that nobody here wrote, by C-STORE and by STOW-RS, once each, whatever happens on the way."""

import io
import logging
import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from pydicom import dcmread
from sqlalchemy import select, update

from eventing.seaweedfs_tls import Certificates
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.dicom_network import dcmtk
from tests.support.dicom_results import (
    OURS,
    await_state,
    deliveries_of,
    delivering,
    judged,
    states,
    store_of_results,
)
from tests.support.object_store import free_ports
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.worklist_site import home, wait
from worklist import metrics
from worklist.database import deliveries
from worklist.database.models import Audit, Delivery
from worklist.database.session import Database
from worklist.delivery.courier import Courier, channel_to
from worklist.destinations import DicomDestination, load_destinations

SR, CAPTURE = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.7"
NOWHERE = '[[destination]]\nname = "nowhere"\nkind = "c-store"\nhost = "127.0.0.1"\nport = 9\ncalled_title = "X"\n'


@pytest.fixture(scope="module")
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with store_of_results(tmp_path_factory.mktemp("store")) as storage:
        yield storage


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("pacs")) as server:
        yield server


def c_store(port: int, title: str = "ORTHANC", more: str = "") -> str:
    head = '[[destination]]\nname = "pacs"\nkind = "c-store"\nhost = "127.0.0.1"\n'
    return f'{head}port = {port}\ncalled_title = "{title}"\n{more}\n'


def stow(pacs: Orthanc, folder: Path) -> str:
    secret = folder / "password"
    secret.write_text(pacs.password)
    address = f'url = "{pacs.dicomweb}/studies"\nuser = "tests"\npassword = {{file = "{secret}"}}\n'
    return f'[[destination]]\nname = "archive"\nkind = "stow"\n{address}'


def classes(pacs: Orthanc, study: str | None = None) -> Counter[str]:
    """How many instances of each class a study of the archive has, or all studies."""
    instances = [each for each in pacs.instances() if study in (None, each["StudyInstanceUID"])]
    return Counter(each["SOPClassUID"] for each in instances)


def study_of(store: Storage, key: str) -> str:
    return str(dcmread(io.BytesIO(store.get(OURS.uploads_bucket, key).data)).StudyInstanceUID)


@pytest.mark.parametrize("kind", ["c-store", "stow"])
def test_report_and_capture_arrive_in_the_patients_study_once(
    tmp_path: Path, own_store: Storage, pacs: Orthanc, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A destination beside it that is down holds up nothing, and a second delivery of the same changes nothing.

    The patient is in the study, and neither in the log, nor in the metrics, nor in the outbox.
    """
    caplog.set_level(logging.DEBUG)
    text = c_store(pacs.dicom_port) if kind == "c-store" else stow(pacs, tmp_path)
    result = judged(own_store, len(kind))
    with delivering(tmp_path, own_store, NOWHERE + text) as site:
        site.send(result)
        name = "pacs" if kind == "c-store" else "archive"
        wait(lambda: states(site, result).get(name) == "sent", 30)
        study = study_of(own_store, result.upload.key)
        first = {each["SOPInstanceUID"] for each in pacs.instances() if each["StudyInstanceUID"] == study}
        assert classes(pacs, study) == {SR: 1, CAPTURE: 1}
        assert states(site, result)["nowhere"] != "sent"
        with site.database.reading() as session:
            logged = session.execute(select(Audit.act, Audit.identity, Audit.detail)).all()
        assert ("delivered", result.upload.identity, name) in [tuple(row) for row in logged]
        with site.database.writing() as session:
            sent = Delivery.destination == name
            session.execute(update(Delivery).where(sent).values(state="waiting", due=datetime.now(UTC)))
        wait(lambda: states(site, result).get(name) == "sent", 30)
        kept = [
            caplog.text,
            generate_latest(metrics.REGISTRY).decode(),
            *(str(vars(each)) for each in deliveries_of(site)),
        ]
    assert [text for text in kept if "Quellenhofer" in text or "P-4711" in text] == []
    assert {each["SOPInstanceUID"] for each in pacs.instances() if each["StudyInstanceUID"] == study} == first
    (report,) = (each for each in pacs.instances() if each["SOPInstanceUID"] in first and each["SOPClassUID"] == SR)
    assert (report["PatientID"], report["AccessionNumber"]) == ("P-4711", "ACC99012")


def test_killed_between_sending_and_noting_delivers_once(tmp_path: Path, own_store: Storage, pacs: Orthanc) -> None:
    """What a process had sent when it died is sent again five minutes later, and the archive has it once."""
    result = judged(own_store, 20)
    text = c_store(pacs.dicom_port)
    with delivering(tmp_path, own_store, NOWHERE) as site:  # it knows no destination of the name yet
        site.send(result)
        wait(lambda: deliveries_of(site, result))
    settings = _renamed(tmp_path, text)
    (destination,) = load_destinations(settings.worklist.destinations)
    assert isinstance(destination, DicomDestination)
    database = Database.open(settings)
    courier = Courier(database, own_store, settings, [destination])
    due = courier.next(destination)
    assert due
    with channel_to(destination) as channel:
        assert courier.attempt(destination, due, channel).outcome == "sent"
    study = study_of(own_store, result.upload.key)
    assert classes(pacs, study) == {SR: 1, CAPTURE: 1}
    # Here it dies; the next process has to wait until the claim is over.
    assert courier.next(destination) is None
    with database.writing() as session:
        session.execute(update(Delivery).values(due=datetime.now(UTC) - timedelta(seconds=1)))
    database.close()
    with delivering(tmp_path, own_store, text) as site:
        await_state(site, "sent", result)
        assert [each.attempts for each in deliveries_of(site, result)] == [2]
    assert classes(pacs, study) == {SR: 1, CAPTURE: 1}


def _renamed(folder: Path, text: str) -> Settings:
    """Settings of a home whose waiting deliveries are for the destination "pacs"."""
    (folder / "destinations.toml").write_text(text)
    settings = home(folder, destinations=folder / "destinations.toml")
    database = Database.open(settings)
    with database.writing() as session:
        fresh = {"destination": "pacs", "state": "waiting", "attempts": 0, "due": datetime.now(UTC)}
        session.execute(update(Delivery).values(**fresh))
    database.close()
    return settings


def test_pacs_that_is_down_and_killed_gets_everything_once(tmp_path: Path, own_store: Storage) -> None:
    port = free_ports(1)[0]
    options = {"DicomPort": port}
    results = [judged(own_store, number) for number in range(30, 36)]
    with delivering(tmp_path, own_store, c_store(port)) as site:
        for result in results[:3]:
            site.send(result)
        wait(lambda: any(each.error for each in deliveries_of(site)))
        with site.client() as client:
            page = client.get(f"/x/{results[0].upload.identity}").text
        assert "Delivery to “pacs”" in page
        with running_orthanc(tmp_path / "pacs", options=options) as pacs:
            wait(lambda: sum(classes(pacs).values()) > 0, 60)
        for result in results[3:]:
            site.send(result)
        with running_orthanc(tmp_path / "pacs", options=options) as pacs:
            await_state(site, "sent", *results, seconds=60)
            assert classes(pacs) == {SR: 6, CAPTURE: 6}


def test_wrong_title_is_retried_and_right_one_delivers(tmp_path: Path, own_store: Storage, pacs: Orthanc) -> None:
    result = judged(own_store, 40)
    with delivering(tmp_path, own_store, c_store(pacs.dicom_port, "WRONG")) as site:
        site.send(result)
        (row,) = wait(lambda: [each for each in deliveries_of(site, result) if each.error])
        assert "rejected the association" in (row.error or "")
        assert row.state == "waiting"
    with delivering(tmp_path, own_store, c_store(pacs.dicom_port)) as site:
        with site.database.writing() as session:
            deliveries.hasten(session, "pacs")
        await_state(site, "sent", result)
    assert classes(pacs, study_of(own_store, result.upload.key)) == {SR: 1, CAPTURE: 1}


def test_archive_with_mutual_tls_that_takes_implicit_vr_only(tmp_path: Path, own_store: Storage) -> None:
    """DCMTK's storescp: another toolkit than ours and Orthanc's."""
    dcmtk("storescp", "--version")
    certificates, port = Certificates.claim(tmp_path), free_ports(1)[0]
    key, certificate, authority = map(str, (certificates.key, certificates.certificate, certificates.authority))
    folder = tmp_path / "received"
    folder.mkdir()
    command = ["storescp", "+tls", key, certificate, "+cf", authority, "+xi", "-od", str(folder), str(port)]
    ours = f'certificate = "{certificate}", key = "{key}"'
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as archive:
        try:
            text = c_store(port, "ANY", f'tls = {{ca = "{authority}", {ours}}}')
            with delivering(tmp_path, own_store, text) as site:
                result = judged(own_store, 50)
                site.send(result)
                await_state(site, "sent", result)
        finally:
            archive.terminate()
    received = [dcmread(path) for path in folder.iterdir()]
    assert Counter(str(each.SOPClassUID) for each in received) == {SR: 1, CAPTURE: 1}
    assert {str(each.file_meta.TransferSyntaxUID) for each in received} == {"1.2.840.10008.1.2"}
