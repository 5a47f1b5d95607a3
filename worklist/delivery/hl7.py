"""Delivery as an HL7 v2.5.1 ORU^R01 message over MLLP.

The message control id follows from result, verdict and destination, so a message that comes twice is recognised. The
finding is the reader's once there is a verdict, and final, or corrected where the destination has had a final one; the
model's is preliminary whoever has read the X-ray.
"""

import hashlib
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from lungline.errors import DataError
from lungline.results.patients import PatientRecord
from lungline.task.terms import FindingTerms
from worklist.delivery.channel import Channel, Lost
from worklist.delivery.parcel import Finding, Priority
from worklist.delivery.refusals import NotTaken, Rejected
from worklist.destinations import Hl7Destination
from worklist.exports import codes
from worklist.exports.secondary_capture import DISCLAIMER

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0
MAX_ANSWER = 64 * 2**10
_BEGIN, _END = b"\x0b", b"\x1c\r"
_ESCAPES = str.maketrans({"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "~": "\\R\\", "&": "\\T\\", "\r": " ", "\n": " "})
_PRESENCE = {
    "present": ("52101004", "Present", "A"),
    "absent": ("272519000", "Absent", "N"),
    "unsure": ("82334004", "Indeterminate", ""),
}


class Hl7Channel(Channel[Finding, socket.socket]):
    """Sends results over one connection, each once the one before is acknowledged."""

    def __init__(self, destination: Hl7Destination) -> None:
        super().__init__()
        self._destination = destination

    def _open(self) -> socket.socket:
        ours = self._destination
        context = ours.tls.context() if ours.tls else None
        try:
            plain = socket.create_connection((ours.host, ours.port), CONNECT_SECONDS)
            return _secured(plain, context, ours)
        except OSError as exc:
            raise NotTaken(f"The destination did not answer ({type(exc).__name__}).") from None

    def _exchange(self, connection: socket.socket, content: Finding) -> None:
        names = f"{content.record.id} {content.name} {self._destination.name}"
        control_id = hashlib.sha256(names.encode()).hexdigest()[:20]
        text = message(self._destination, content, control_id)
        try:
            answer = _answer(connection, _BEGIN + text.encode() + _END)
        except OSError as exc:
            kind = NotTaken if isinstance(exc, TimeoutError) else Lost
            raise kind(f"The destination did not answer ({type(exc).__name__}).") from None
        _require_accepted(answer, control_id)

    def _close(self, connection: socket.socket) -> None:
        connection.close()


def message(destination: Hl7Destination, finding: Finding, control_id: str) -> str:
    """The message, checked against the tables of the standard. Raises DataError."""
    from hl7apy.core import Message
    from hl7apy.exceptions import HL7apyException

    try:
        made: Any = Message("ORU_R01", version="2.5.1")
        _head(made, destination, control_id, finding.record.times.done)
        result = made.add_group("ORU_R01_PATIENT_RESULT")
        _patient(result.add_group("ORU_R01_PATIENT").add_segment("PID"), finding.patient)
        order = result.add_group("ORU_R01_ORDER_OBSERVATION")
        _request(order.add_segment("OBR"), finding)
        if destination.priority and finding.priority:
            _prioritise(order, finding.priority)
        for number, values in enumerate(_observations(finding), 1):
            observation = order.add_group("ORU_R01_OBSERVATION").add_segment("OBX")
            for field, value in {"obx_1": str(number), "obx_11": "P", **values}.items():
                setattr(observation, field, value)
        return f"{made.to_er7()}\r"
    except HL7apyException as exc:
        raise DataError(f"The message does not follow the standard ({type(exc).__name__}).") from None


def _head(made: Any, destination: Hl7Destination, control_id: str, done: datetime) -> None:
    values = {
        "msh_3": "LUNGLINE", "msh_5": _escaped(destination.application), "msh_6": _escaped(destination.facility),
        "msh_7": _moment(done), "msh_9": "ORU^R01^ORU_R01", "msh_10": control_id, "msh_11": "P",
        "msh_18": "UNICODE UTF-8",
    }  # fmt: skip
    for field, value in values.items():
        setattr(made.msh, field, value)


def _patient(segment: Any, patient: PatientRecord) -> None:
    parts = [*patient.name.split("^"), "", "", "", "", ""][:5]
    family, given, middle, prefix, suffix = map(_escaped, parts)  # DICOM has the prefix before the suffix
    segment.pid_1 = "1"
    segment.pid_3 = f"{_escaped(patient.patient_id)}^^^{_escaped(patient.issuer)}".rstrip("^")
    # The field is required: of a patient without a name it says that there is none (table 0200).
    segment.pid_5 = f"{family}^{given}^{middle}^{suffix}^{prefix}".rstrip("^") or "^^^^^^U"


def _request(segment: Any, finding: Finding) -> None:
    record, patient, reading = finding.record, finding.patient, finding.reading
    fields = {
        "obr_1": "1", "obr_3": f"{record.upload.identity[:32]}^LUNGLINE", "obr_4": "30745-4^XR Chest Views^LN",
        "obr_7": patient.study_date.replace("-", ""), "obr_18": _escaped(patient.accession),
        "obr_22": _moment(reading.at if reading else record.times.done), "obr_24": "RAD", "obr_25": _status(finding),
    }  # fmt: skip
    for field, value in fields.items():
        if value:
            setattr(segment, field, value)


def _prioritise(order: Any, priority: Priority) -> None:
    """State the priority where version 2.5.1 has it, and where the versions before it had it, which many still read."""
    order.obr.obr_27 = f"^^^^^{priority.code}"
    timing = order.add_group("ORU_R01_TIMING_QTY").add_segment("TQ1")
    timing.tq1_1, timing.tq1_9 = "1", f"{priority.code}^{priority.meaning}^HL70485"


def _status(finding: Finding) -> str:
    """Of the report (HL7 tables 0123 and 0085): preliminary, final, corrected, or that there can be none."""
    if finding.reading is None:
        return "P"
    if finding.reading.verdict == "Not usable":
        return "X"
    return "C" if finding.corrects else "F"


def _observations(finding: Finding) -> list[dict[str, str]]:
    record = finding.record
    model, points = record.model, record.thresholds
    name = f"{model.name} {model.version}, sha256 {model.sha256}"
    return [
        *_presences(finding),
        {
            "obx_2": "NM", "obx_3": "122157^Probability^DCM", "obx_5": f"{record.probability or 0.0:.4g}",
            "obx_6": "1^no units^UCUM", "obx_7": f"<{points.low:.4g}",
        },
        {"obx_2": "ST", "obx_3": "label^Label of the model^99LUNGLINE", "obx_5": record.label or ""},
        {"obx_2": "ST", "obx_3": "111001^Algorithm Name^DCM", "obx_5": _escaped(name)},
        {"obx_2": "ST", "obx_3": "110180^Study Instance UID^DCM", "obx_5": finding.patient.study_uid},
        {"obx_2": "TX", "obx_3": "121106^Comment^DCM", "obx_5": DISCLAIMER},
    ]  # fmt: skip


def _presences(content: Finding) -> Iterator[dict[str, str]]:
    """Each finding by the reader, else by the model; of several with its probability, joined by a sub-identifier."""
    judged = list(codes.presences(content.record, content.reading))
    for number, (finding, presence, chance) in enumerate(judged, 1):
        part = {"obx_4": str(number)} if len(judged) > 1 else {}
        values = {"obx_2": "CE", "obx_3": _code(finding), "obx_11": _status(content)} | part
        if presence is not None:
            code, meaning, flag = _PRESENCE[presence]
            values |= {"obx_5": f"{code}^{meaning}^SCT"} | ({"obx_8": flag} if flag else {})
        yield values
        if part and chance is not None:
            number_of = {"obx_2": "NM", "obx_3": "122157^Probability^DCM", "obx_5": f"{chance:.4g}"}
            yield number_of | {"obx_6": "1^no units^UCUM"} | part


def _code(finding: FindingTerms) -> str:
    if finding.code is None:
        return f"{finding.name}^{_escaped(finding.label)}^99LUNGLINE"
    return f"{_escaped(finding.code.value)}^{_escaped(finding.code.meaning)}^{finding.code.scheme}"


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone():%Y%m%d%H%M%S%z}"


def _answer(connection: socket.socket, frame: bytes) -> bytes:
    """Send a frame; the frame that comes back, without its marks. Raises OSError, Lost, NotTaken."""
    deadline = time.monotonic() + ANSWER_SECONDS
    connection.settimeout(ANSWER_SECONDS)
    connection.sendall(frame)
    received = b""
    while _END not in received:
        connection.settimeout(max(0.1, deadline - time.monotonic()))
        chunk = connection.recv(4096)
        received += chunk
        if not chunk or len(received) > MAX_ANSWER or time.monotonic() > deadline:
            raise (NotTaken if chunk else Lost)("The destination did not acknowledge the message.")
    return received.partition(_END)[0].removeprefix(_BEGIN)


def _secured(plain: socket.socket, context: ssl.SSLContext | None, destination: Hl7Destination) -> socket.socket:
    if context is None or destination.tls is None:
        return plain
    try:
        return context.wrap_socket(plain, server_hostname=destination.tls.server_name or destination.host)
    except OSError:
        plain.close()
        raise


def _require_accepted(answer: bytes, control_id: str) -> None:
    """Raise unless the acknowledgement accepts this message; its text is not shown."""
    segments = [line.split("|") for line in answer.decode("utf-8", "replace").split("\r")]
    acknowledged = next((fields for fields in segments if fields[0] == "MSA"), [])
    code, identifier = [*acknowledged[1:3], "", ""][:2]
    if identifier != control_id:
        raise NotTaken("The destination acknowledged another message.")
    if code in ("AA", "CA"):
        return
    if code in ("AE", "CE"):
        raise Rejected(f"The destination refused the message ({code}).")
    raise NotTaken("The destination rejected the message for now.")
