"""A connection to a destination serves one delivery after the other, also when the other side closes it in between."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pytest
from pynetdicom import AE, evt

from lungline.imaging.decoding import decode
from lungline.imaging.preparation import Preparation, heatmap_png
from lungline.results.patients import PatientRecord
from tests.support.dicom_files import film, write
from tests.support.fhir_server import running_fhir_server
from tests.support.hl7_receiver import running_receiver
from tests.support.object_store import free_ports
from tests.support.worklist_site import record
from worklist.delivery.channel import Lost
from worklist.delivery.dicom import DicomChannel
from worklist.delivery.fhir import FhirChannel
from worklist.delivery.hl7 import Hl7Channel
from worklist.delivery.parcel import Finding, Instances
from worklist.delivery.refusals import NotTaken
from worklist.destinations import DicomDestination, FhirDestination, Hl7Destination
from worklist.exports.secondary_capture import capture
from worklist.exports.structured_report import structured_report

SR, CAPTURE = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.7"


def finding(number: int) -> Finding:
    """A result that nobody has read, of a patient."""
    result = record(number, 0.9)
    patient = PatientRecord(
        identity=result.upload.identity, name="Quellenhofer^Wendelin", patient_id="P-4711", accession="ACC99012",
        study_date="2026-03-01", study_uid=f"1.2.{number}",
    )  # fmt: skip
    return Finding(result, None, patient)


def instances(number: int) -> Instances:
    """A report and a capture."""
    source = write(film(64, seed=number), PatientID="P-4711")
    result = record(number, 0.9, key=f"{number}.dcm")
    heatmap = heatmap_png(decode(source), np.full((4, 4), 0.8, np.float32), Preparation())
    return [("report", structured_report(source, result)), ("capture", capture(source, heatmap, result))]


class Archive:
    """A PACS that notes what it is sent."""

    def __init__(self, port: int) -> None:
        self.associations = 0
        self.stored: list[str] = []
        self.entity = AE(ae_title="ARCHIVE")
        for sop_class in (SR, CAPTURE):
            self.entity.add_supported_context(sop_class)
        self.destination = DicomDestination(name="pacs", host="127.0.0.1", port=port, called_title="ARCHIVE")

    def accept(self, _: evt.Event) -> None:
        """Count an association."""
        self.associations += 1

    def store(self, event: evt.Event) -> int:
        """Note an instance."""
        self.stored.append(str(event.request.AffectedSOPInstanceUID))  # type: ignore[union-attr]
        return 0

    def hang_up(self) -> None:
        """Abort every association."""
        for association in self.entity.active_associations:
            association.abort()


@pytest.fixture
def archive() -> Iterator[Archive]:
    (port,) = free_ports(1)
    made = Archive(port)
    with archive_running(made, port):
        yield made


@contextmanager
def archive_running(made: Archive, port: int) -> Iterator[None]:
    """Its server, until the context ends."""
    handlers = [(evt.EVT_ACCEPTED, made.accept), (evt.EVT_C_STORE, made.store)]
    server = made.entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)  # type: ignore[arg-type]
    try:
        yield
    finally:
        server.shutdown()  # type: ignore[union-attr]


def test_association_serves_several_results(archive: Archive) -> None:
    with DicomChannel(archive.destination) as channel:
        for number in range(3):
            channel.send(instances(number))
    assert (archive.associations, len(set(archive.stored))) == (1, 6)


def test_small_writes_are_not_held_back(archive: Archive) -> None:
    """A data set after its command would wait some 40 ms for an acknowledgement, in each delivery but the first."""
    with DicomChannel(archive.destination) as channel:
        channel.send(instances(1))
        association = cast("Any", channel._connection)  # noqa: SLF001 - nothing outside tells but the clock
        connection = association.dul.socket.socket
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_result_is_sent_over_a_new_association_after_an_abort(archive: Archive) -> None:
    with DicomChannel(archive.destination) as channel:
        for number in range(3):
            channel.send(instances(number))
            archive.hang_up()
    assert (archive.associations, len(set(archive.stored))) == (3, 6)


def test_first_association_that_is_lost_is_not_made_again(archive: Archive) -> None:
    """Only what an earlier delivery had left open is tried once more."""

    def abort(event: evt.Event) -> int:
        event.assoc.abort()
        return 0

    archive.store = abort  # type: ignore[method-assign]
    (port,) = free_ports(1)
    with archive_running(archive, port):
        destination = archive.destination.model_copy(update={"port": port})
        with DicomChannel(destination) as channel, pytest.raises(Lost):
            channel.send(instances(4))
    assert archive.associations == 1


@pytest.mark.parametrize(("messages", "connections"), [(100, 1), (2, 3)])
def test_connection_serves_several_messages(messages: int, connections: int) -> None:
    """An engine that closes it after every second message gets each of them once."""
    with running_receiver(messages=messages) as receiver:
        destination = Hl7Destination(name="engine", host="127.0.0.1", port=receiver.port)
        with Hl7Channel(destination) as channel:
            for number in range(5):
                channel.send(finding(number))
        assert len(set(receiver.control_ids)) == len(receiver.messages) == 5
        assert receiver.connections == connections


def test_message_that_is_not_taken_closes_the_connection() -> None:
    with running_receiver("AA", "AR", messages=100) as receiver:
        destination = Hl7Destination(name="engine", host="127.0.0.1", port=receiver.port)
        with Hl7Channel(destination) as channel:
            channel.send(finding(1))
            with pytest.raises(NotTaken):
                channel.send(finding(2))
            channel.send(finding(2))
        assert (len(receiver.messages), receiver.connections) == (3, 2)


@pytest.mark.parametrize("closes", [False, True])
def test_http_connection_serves_several_results(closes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_TOKEN", "secret-of-the-tests")
    with running_fhir_server("secret-of-the-tests") as server:
        server.closes = closes
        destination = FhirDestination.model_validate(
            {"name": "fhir", "kind": "fhir", "url": server.url, "token": {"env": "FHIR_TOKEN"}}
        )
        with FhirChannel(destination) as channel:
            for number in range(4):
                channel.send(finding(number))
    assert server.connections == (4 if closes else 1)
    assert len(server.resources["DiagnosticReport"]) == 4
