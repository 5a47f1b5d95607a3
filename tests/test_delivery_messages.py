"""Results as FHIR resources and HL7 messages: valid, once each, by rule, with the reader's verdict."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from eventing.seaweedfs_tls import Certificates
from lungline.storage.s3 import Storage
from tests.support.dicom_files import film, write
from tests.support.dicom_results import (
    await_state,
    deliveries_of,
    delivering,
    judged,
    states,
    store_of_results,
)
from tests.support.fhir_server import running_fhir_server
from tests.support.hl7_receiver import running_receiver
from tests.support.worklist_site import record, wait
from worklist.commands import deliver, outgoing
from worklist.database import deliveries, readings
from worklist.database.models import Delivery
from worklist.destinations import AnyDestination, load_destinations


@pytest.fixture(scope="module")
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with store_of_results(tmp_path_factory.mktemp("store")) as storage:
        yield storage


def hl7(port: int, more: str = "", name: str = "engine") -> str:
    head = f'[[destination]]\nname = "{name}"\nkind = "hl7"\nhost = "127.0.0.1"\nport = {port}\n'
    return f'{head}application = "RIS"\nfacility = "North|South"\n{more}\n'


def fhir(url: str, more: str = "", name: str = "fhir") -> str:
    head = f'[[destination]]\nname = "{name}"\nkind = "fhir"\nurl = "{url}"\ntoken = {{env = "FHIR_TOKEN"}}\n'
    return f'{head}patient_system = "urn:oid:1.2.3"\n{more}\n'


def load(path: Path, text: str) -> tuple[AnyDestination, ...]:
    path.write_text(text)
    return load_destinations(path)


def observed(message: object) -> dict[str, tuple[str, str]]:
    """Value and status of each observation by the meaning of its code."""
    rows: dict[str, tuple[str, str]] = {}
    for line in message.to_er7().split("\r"):  # type: ignore[attr-defined]
        fields = line.split("|") + [""] * 12
        if fields[0] == "OBX":
            rows[fields[3].split("^")[1]] = (fields[5], fields[11])
    return rows


def test_message_is_valid_and_says_whom_and_what(tmp_path: Path, own_store: Storage) -> None:
    with running_receiver() as receiver, delivering(tmp_path, own_store, hl7(receiver.port)) as site:
        result = judged(own_store, 1, 0.91)
        site.send(result)
        await_state(site, "sent", result)
        (message,) = receiver.messages
    patient = message.ORU_R01_PATIENT_RESULT.ORU_R01_PATIENT.PID
    assert patient.pid_3.to_er7() == "P-4711"
    assert patient.pid_5.to_er7() == "Quellenhofer^Wendelin"
    assert message.msh.msh_6.to_er7() == "North\\F\\South"
    rows = observed(message)
    assert rows["Pneumonia"] == ("52101004^Present^SCT", "P")
    assert rows["Probability"] == ("0.91", "P")
    assert rows["Label of the model"] == ("Pneumonia", "P")


def test_message_on_a_patient_without_a_name_is_valid(tmp_path: Path, own_store: Storage) -> None:
    with running_receiver() as receiver, delivering(tmp_path, own_store, hl7(receiver.port)) as site:
        result = judged(own_store, 25, data=write(film(64, seed=25), PatientName="", PatientID="P-4711"))
        site.send(result)
        await_state(site, "sent", result)
        assert "|P-4711||^^^^^^U\r" in receiver.messages[0].to_er7()


def test_readers_verdict_is_final_and_the_models_label_stays(tmp_path: Path, own_store: Storage) -> None:
    """A destination waits for a reading; what the reader takes back before it is sent, is not sent."""
    with running_receiver() as receiver:
        text = hl7(receiver.port, 'after = "reading"') + hl7(receiver.port, 'after = "confirmation"', "confirmed")
        with delivering(tmp_path, own_store, text) as site, site.client() as client:
            result = judged(own_store, 2)
            site.send(result)
            assert states(site, result) == {}
            site.submit_reading(client, result.upload.identity, "Normal")
            wait(lambda: states(site, result) == {"engine": "sent"})
            (message,) = receiver.messages
            rows = observed(message)
            assert rows["Pneumonia"] == ("272519000^Absent^SCT", "F")
            assert rows["Label of the model"] == ("Pneumonia", "P")
            site.submit_reading(client, result.upload.identity, "Pneumonia")
            wait(lambda: states(site, result) == {"engine": "sent", "confirmed": "sent"})


def test_verdict_that_was_taken_back_is_not_sent(tmp_path: Path, own_store: Storage) -> None:
    with running_receiver("AR") as receiver:
        text = hl7(receiver.port, 'after = "reading"')
        with delivering(tmp_path, own_store, text) as site, site.client() as client:
            result = judged(own_store, 3)
            site.send(result)
            site.submit_reading(client, result.upload.identity, "Normal")
            wait(lambda: any(each.error for each in deliveries_of(site, result)))
            site.submit_reading(client, result.upload.identity, "reopened")
            with site.database.writing() as session:
                deliveries.hasten(session)
            wait(lambda: states(site, result) == {"engine": "not sent"})
            assert len(receiver.messages) == 1
            site.submit_reading(client, result.upload.identity, "Normal")
            await_state(site, "sent", result)


def test_results_that_follow_each_other_share_a_connection(tmp_path: Path, own_store: Storage) -> None:
    with running_receiver(messages=100) as receiver, delivering(tmp_path, own_store, hl7(receiver.port)) as site:
        for number in range(30, 34):
            result = judged(own_store, number)
            site.send(result)
            await_state(site, "sent", result)
        assert len(receiver.messages) == 4
        assert receiver.connections < 4


def test_unanswered_message_is_the_same_when_sent_again(tmp_path: Path, own_store: Storage) -> None:
    with running_receiver(None) as receiver, delivering(tmp_path, own_store, hl7(receiver.port)) as site:
        result = judged(own_store, 4)
        site.send(result)
        wait(lambda: any(each.error for each in deliveries_of(site, result)))
        with site.database.writing() as session:
            deliveries.hasten(session)
        await_state(site, "sent", result)
        first, second = receiver.messages
        assert first.to_er7() == second.to_er7()


def test_refused_message_is_a_dead_letter_until_sent_again(tmp_path: Path, own_store: Storage) -> None:
    with running_receiver("AE") as receiver, delivering(tmp_path, own_store, hl7(receiver.port)) as site:
        result, other = judged(own_store, 5), judged(own_store, 6)
        site.send(result)
        await_state(site, "failed", result)
        site.send(other)
        await_state(site, "sent", other)
        done = outgoing(site.settings)
        assert [(each["state"], each["error"]) for each in done.troubled] == [
            ("failed", "The destination refused the message (AE).")
        ]
        with site.client() as client:
            assert "refused the message (AE)" in client.get(f"/x/{result.upload.identity}").text
        assert deliver(site.settings, None, again=False) == 0
        assert deliver(site.settings, "engine", again=True) == 1
        await_state(site, "sent", result)


def test_message_over_mutual_tls(tmp_path: Path, own_store: Storage) -> None:
    certificates = Certificates.claim(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    context.load_verify_locations(certificates.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    ours = f'certificate = "{certificates.certificate}", key = "{certificates.key}"'
    with running_receiver(tls=context) as receiver:
        text = hl7(receiver.port, f'tls = {{ca = "{certificates.authority}", {ours}}}')
        with delivering(tmp_path, own_store, text) as site:
            result = judged(own_store, 7)
            site.send(result)
            await_state(site, "sent", result)


def test_resources_are_created_once(tmp_path: Path, own_store: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after an answer that was lost, and of two destinations on the same server."""
    monkeypatch.setenv("FHIR_TOKEN", "secret-of-the-tests")
    with running_fhir_server("secret-of-the-tests", 503) as server:
        final = fhir(server.url, 'after = "reading"', "final")
        with delivering(tmp_path, own_store, fhir(server.url) + final) as site, site.client() as client:
            result = judged(own_store, 8)
            site.send(result)
            wait(lambda: any(each.error for each in deliveries_of(site, result)))
            assert deliver(site.settings, None, again=False) == 1
            await_state(site, "sent", result)
            assert server.requests == 2
            assert {kind: len(held) for kind, held in server.resources.items()} == {
                "ImagingStudy": 1, "Observation": 1, "DiagnosticReport": 1,
            }  # fmt: skip
            with site.database.writing() as session:  # as if the answer had been lost
                session.execute(update(Delivery).values(state="failed", sent=None))
            assert deliver(site.settings, "fhir", again=True) == 1
            wait(lambda: server.requests == 3)
            await_state(site, "sent", result)
            assert sum(map(len, server.resources.values())) == 3
            site.submit_reading(client, result.upload.identity, "Pneumonia")
            wait(lambda: states(site, result).get("final") == "sent")
    preliminary, final_report = server.resources["DiagnosticReport"]
    assert (preliminary["status"], final_report["status"]) == ("preliminary", "final")
    assert preliminary["subject"]["identifier"] == {"system": "urn:oid:1.2.3", "value": "P-4711"}
    (study,) = server.resources["ImagingStudy"]
    assert preliminary["imagingStudy"] == [{"reference": f"ImagingStudy/{study['id']}"}]
    assert len(server.resources["Observation"]) == 2


def test_later_verdicts_follow_as_final_and_corrected(tmp_path: Path, own_store: Storage) -> None:
    """Each once; a verdict that changes nothing is not sent, and none to who wants no updates."""
    with running_receiver() as receiver, running_receiver() as silent:
        text = hl7(receiver.port) + hl7(silent.port, "updates = false", "silent")
        with delivering(tmp_path, own_store, text) as site, site.client() as client:
            result = judged(own_store, 20)
            site.send(result)
            await_state(site, "sent", result)
            for number, verdict in enumerate(("Normal", "reopened", "Normal", "Pneumonia", "Not usable"), 1):
                site.submit_reading(client, result.upload.identity, verdict)
                expected = 1 + number - 2 * (number > 2) - (number == 2)
                wait(lambda expected=expected: len(receiver.messages) == expected)
                await_state(site, "sent", result)
        rows = [observed(message)["Pneumonia"] for message in receiver.messages]
        assert rows == [
            ("52101004^Present^SCT", "P"), ("272519000^Absent^SCT", "F"), ("52101004^Present^SCT", "C"), ("", "X"),
        ]  # fmt: skip
        assert len(set(receiver.control_ids)) == 4
        assert len(silent.messages) == 1


def test_corrected_report_names_the_one_before(
    tmp_path: Path, own_store: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHIR_TOKEN", "secret-of-the-tests")
    with (
        running_fhir_server("secret-of-the-tests") as server,
        delivering(tmp_path, own_store, fhir(server.url)) as site,
        site.client() as client,
    ):
        result = judged(own_store, 21)
        site.send(result)
        for number, verdict in enumerate(("", "Normal", "Pneumonia"), 1):
            if verdict:
                site.submit_reading(client, result.upload.identity, verdict)
            wait(lambda number=number: len(server.resources.get("DiagnosticReport", ())) == number)
            await_state(site, "sent", result)
    reports = server.resources["DiagnosticReport"]
    assert [report["status"] for report in reports] == ["preliminary", "final", "corrected"]
    identifiers = [report["identifier"][0] for report in reports]
    replaced = [each["valueReference"]["identifier"] for report in reports for each in report.get("extension", ())]
    assert replaced == identifiers[:2]
    verdicts = [each for each in server.resources["Observation"] if "valueBoolean" in each]
    assert [(each["status"], each["valueBoolean"]) for each in verdicts] == [("final", False), ("corrected", True)]


def test_verdict_that_comes_during_a_transfer_is_sent_after_it(tmp_path: Path, own_store: Storage) -> None:
    (destination,) = load(tmp_path / "list.toml", hl7(9))
    with delivering(tmp_path, own_store, hl7(9)) as site, site.client() as client:
        result = judged(own_store, 22)
        site.send(result)
        site.submit_reading(client, result.upload.identity, "Normal")
        with site.database.writing() as session:
            (row,) = session.scalars(select(Delivery))
            verdict = readings.latest_verdict(session, result.upload.identity)
            assert verdict
            deliveries.mark_sent(session, destination, row.number, None)
            assert (row.state, row.reading) == ("waiting", None)
            deliveries.mark_sent(session, destination, row.number, verdict.id)
            assert (row.state, row.reading) == ("sent", verdict.id)


def test_priority_is_stated_until_the_image_is_read(
    tmp_path: Path, own_store: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In HL7 where version 2.5.1 has it and where older ones had it; in FHIR as a tag; and only where it is wanted."""
    monkeypatch.setenv("FHIR_TOKEN", "secret-of-the-tests")
    with running_receiver() as receiver, running_fhir_server("secret-of-the-tests") as server:
        text = hl7(receiver.port, "priority = true") + fhir(server.url, "priority = true")
        with delivering(tmp_path, own_store, text) as site, site.client() as client:
            results = [judged(own_store, number, risk) for number, risk in ((23, 0.1), (24, 0.9))]
            for result in results:
                site.send(result)
            await_state(site, "sent", *results)
            site.submit_reading(client, results[1].upload.identity, "Normal")
            wait(lambda: len(receiver.messages) == 3)
            wait(lambda: len(server.resources["DiagnosticReport"]) == 3)
    stated = [_priorities(message.to_er7()) for message in receiver.messages]
    assert sorted(stated[:2]) == [("R", "R^routine^HL70485"), ("S", "S^stat^HL70485")]
    assert stated[2] == ("", "")
    tags = [report.get("meta", {}).get("tag", [{}])[0].get("code") for report in server.resources["DiagnosticReport"]]
    assert sorted(tags[:2]) == ["R", "S"]
    assert tags[2] is None


def _priorities(text: str) -> tuple[str, str]:
    """OBR-27.6 and TQ1-9 of a message."""
    rows = {line.split("|")[0]: line.split("|") + [""] * 40 for line in text.split("\r")}
    return (rows["OBR"][27].split("^") + [""] * 6)[5], rows.get("TQ1", [""] * 10)[9]


def test_result_that_names_no_patient_is_not_sent(tmp_path: Path, own_store: Storage) -> None:
    """One of a file that is no DICOM says so at once; one without a patient in its header is a dead letter."""
    with running_receiver() as receiver, delivering(tmp_path, own_store, hl7(receiver.port)) as site:
        plain = record(9, 0.9, key="ward/plain.jpeg")
        site.send(plain)
        assert states(site, plain) == {"engine": "not sent"}
        nameless = judged(own_store, 10).model_copy(update={"patient": None})
        site.send(nameless)
        await_state(site, "failed", nameless)
        assert receiver.messages == []


def test_rules_choose_by_label_and_risk(tmp_path: Path, own_store: Storage) -> None:
    with running_receiver() as receiver:
        text = hl7(receiver.port, 'label = ["Normal"]', "normal") + hl7(receiver.port, "risk = 0.8", "high")
        with delivering(tmp_path, own_store, text) as site:
            results = [judged(own_store, number, risk) for number, risk in ((11, 0.1), (12, 0.75), (13, 0.9))]
            for result in results:
                site.send(result)
            await_state(site, "sent", results[0], results[2])
            assert [states(site, each) for each in results] == [{"normal": "sent"}, {}, {"high": "sent"}]
            assert len(receiver.messages) == 2
