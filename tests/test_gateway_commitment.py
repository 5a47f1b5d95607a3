"""Storage commitment: what is stored is confirmed, what is not is named, on the same association or at an address."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from pynetdicom.dimse_primitives import N_ACTION

from gateway.commitment import MOST_INSTANCES
from gateway.commitment_reports import INSTANCE, SOP_CLASS
from gateway.storage_scp import logged
from laptop.services.gateway import GatewayService
from laptop.services.store import running_store
from lungline.logs import TextFormatter
from lungline.settings import Settings
from tests.support.commitment import Sender, listening
from tests.support.dicom_files import CR, DX, film, write
from tests.support.dicom_network import HOST, echo, send
from tests.support.lone_services import running_gateway
from tests.support.object_store import free_ports
from tests.support.orthanc import Modality, running_orthanc
from tests.support.waiting import eventually

MISSING, OTHER_CLASS = 0x0112, 0x0119
SENDER, ORTHANC = "DX1", "ORTHANC"


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    """Where the two senders that have an address listen."""
    return dict(zip((SENDER, ORTHANC), free_ports(2), strict=True))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, ports: dict[str, int]) -> Iterator[GatewayService]:
    """A store with a gateway, which knows the addresses of two senders."""
    home = tmp_path_factory.mktemp("commitment") / "home"
    listed = ", ".join(f"{title}={HOST}:{port}" for title, port in ports.items())
    settings = Settings.model_validate({"home": home, "gateway": {"commitment": listed}})
    with running_store(home, settings) as settings, running_gateway(home, settings) as service:
        yield service


def outcomes(service: GatewayService, outcome: str) -> int:
    """How many requests ended so."""
    text = httpx.get(f"http://{HOST}:{service.ports.gateway_metrics}/metrics").text
    name = f'lungline_gateway_commitments_total{{outcome="{outcome}"}} '
    return sum(int(float(line.removeprefix(name))) for line in text.splitlines() if line.startswith(name))


def stored(port: int, seed: int) -> tuple[str, str]:
    """SOP class and instance of an X-ray that the gateway has just stored."""
    data = write(film(64, seed=seed))
    assert send(port, data) == [0]
    made = dcmread(io.BytesIO(data))
    return str(made.SOPClassUID), str(made.SOPInstanceUID)


def listed(information: Dataset) -> tuple[set[str], dict[str, int]]:
    """The instances that are committed to, and the reasons of the others."""
    good = {str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence", ())}
    failed = information.get("FailedSOPSequence", ())
    return good, {str(item.ReferencedSOPInstanceUID): int(item.FailureReason) for item in failed}


def test_a_fault_is_answered_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """pynetdicom would answer it, and nobody would learn why."""

    def fail(_: object) -> int:
        raise ZeroDivisionError("Jane Doe")

    event: Any = None
    assert logged(fail, 0x0110)(event) == 0x0110
    (line,) = caplog.records
    assert TextFormatter().format(line).partition("A DICOM request failed. exception=ZeroDivisionError at ")[2]


def test_report_follows_along_the_same_association(gateway: GatewayService) -> None:
    """What is stored is confirmed under the transaction of the request, and the association goes on."""
    pairs = [stored(gateway.ports.gateway, seed) for seed in (1, 2)]
    sender, transaction = Sender(gateway.ports.gateway), generate_uid()
    assert sender.ask(*pairs, transaction=transaction) == 0
    eventually(lambda: len(sender.reports) == 1)
    ((kind, information),) = sender.reports
    assert (kind, information.TransactionUID) == (1, transaction)
    assert listed(information) == ({instance for _, instance in pairs}, {})
    data = dcmread(io.BytesIO(write(film(64, seed=3))))
    assert sender.association.send_c_store(data).Status == 0
    sender.association.release()


def test_missing_instances_have_their_reasons(gateway: GatewayService) -> None:
    """Those that never came, and those that are of another class than the sender says."""
    good, other = stored(gateway.ports.gateway, 4), stored(gateway.ports.gateway, 5)
    absent = (DX, generate_uid())
    sender = Sender(gateway.ports.gateway)
    assert sender.ask(good, (CR if other[0] != CR else DX, other[1]), absent) == 0
    eventually(lambda: len(sender.reports) == 1)
    ((kind, information),) = sender.reports
    assert kind == 2
    assert listed(information) == ({good[1]}, {other[1]: OTHER_CLASS, absent[1]: MISSING})
    sender.association.release()


def test_object_that_arrives_before_the_answer_is_stored(gateway: GatewayService) -> None:
    """A sender that goes on with its next object before it answers the report loses nothing."""
    pair, sender = stored(gateway.ports.gateway, 6), Sender(gateway.ports.gateway)
    data, statuses = dcmread(io.BytesIO(write(film(64, seed=7)))), []
    for _ in range(5):
        assert sender.ask(pair) == 0
        statuses.append(sender.association.send_c_store(data).get("Status"))
    assert statuses == [0] * 5
    eventually(lambda: len(sender.reports) == 5)
    sender.association.release()


def test_report_reaches_an_address_that_was_away(gateway: GatewayService, ports: dict[str, int]) -> None:
    """The sender has closed its association, and listens only later."""
    pair, sender = stored(gateway.ports.gateway, 8), Sender(gateway.ports.gateway, SENDER)
    assert sender.ask(pair) == 0
    sender.association.release()
    eventually(lambda: "commitment could not be sent" in gateway.home.log("gateway").read_text())
    with listening(SENDER, ports[SENDER]) as reports:
        eventually(lambda: len(reports) == 1, 30)
    assert sender.reports == []
    assert listed(reports[0][1]) == ({pair[1]}, {})


def test_orthanc_asks_and_is_answered(gateway: GatewayService, ports: dict[str, int], tmp_path: Path) -> None:
    """A PACS that nobody here wrote, about what it has sent and what it has not."""
    modalities = {"lungline": Modality("LUNGLINE", gateway.ports.gateway)}
    with running_orthanc(tmp_path, modalities, title=ORTHANC, options={"DicomPort": ports[ORTHANC]}) as pacs:
        sent, kept = (pacs.add(write(film(64, seed=seed))) for seed in (9, 10))
        assert pacs.send(sent, "lungline")["FailedInstancesCount"] == 0
        instances = {each["ID"]: each["SOPInstanceUID"] for each in pacs.instances()}
        with pacs.http as http:
            for resources, status in (([sent], "Success"), ([sent, kept], "Failure")):
                request = http.post("/modalities/lungline/storage-commitment", json={"Resources": resources})
                place = request.json()["Path"]
                eventually(lambda place=place: http.get(place).json()["Status"] != "Pending", 20)
                report = http.get(place).json()
                assert report["Status"] == status
            assert [each["SOPInstanceUID"] for each in report["Success"]] == [instances[sent]]
            (failure,) = report["Failures"]
            assert (failure["SOPInstanceUID"], failure["FailureReason"]) == (instances[kept], MISSING)


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"instance": generate_uid()}, 0x0112),
        ({"action": 2}, 0x0123),
        ({"transaction": ""}, 0x0115),
        ({"action": 0x7FFF}, 0x0123),
    ],
)
def test_what_is_no_request_is_refused(gateway: GatewayService, options: dict[str, Any], status: int) -> None:
    sender = Sender(gateway.ports.gateway)
    assert sender.ask((DX, generate_uid()), **options) == status
    assert sender.association.is_established
    sender.association.release()


@pytest.mark.parametrize("number", [0, MOST_INSTANCES + 1])
def test_list_of_no_or_too_many_instances_is_refused(gateway: GatewayService, number: int) -> None:
    sender = Sender(gateway.ports.gateway)
    pairs = [(DX, f"1.2.{each}") for each in range(number)]
    assert sender.ask(*pairs) == (0x0213 if number else 0x0115)
    sender.association.release()


def garbage() -> Sequence[bytes]:
    """Data sets that are none: bytes, a list without end, lists in lists."""
    nested = b"\x08\x00\x99\x11\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 20_000
    endless = b"\x08\x00\x95\x11\x04\x00\x00\x001.2 \x08\x00\x99\x11\xff\xff\xff\xff"
    return b"", b"\xff" * 5000, bytes(range(256)) * 40, endless, nested


@pytest.mark.parametrize("number", range(len(garbage())))
def test_garbage_is_refused_and_the_gateway_goes_on(gateway: GatewayService, number: int) -> None:
    before = outcomes(gateway, "refused")
    sender = Sender(gateway.ports.gateway)
    association: Any = sender.association
    message = N_ACTION()
    message.MessageID, message.ActionTypeID = 7, 1
    message.RequestedSOPClassUID, message.RequestedSOPInstanceUID = SOP_CLASS, INSTANCE
    message.ActionInformation = io.BytesIO(garbage()[number]) if garbage()[number] else None
    association._reactor_checkpoint.clear()  # noqa: SLF001 - it has no public way to send such a thing
    context = next(each for each in association.accepted_contexts if each.abstract_syntax == SOP_CLASS)
    association.dimse.send_msg(message, context.context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()  # noqa: SLF001 - as above
    assert answer is not None
    assert answer.Status == 0x0115
    association.abort()
    assert echo(gateway.ports.gateway) == 0
    assert outcomes(gateway, "refused") == before + 1
    assert sender.reports == []
