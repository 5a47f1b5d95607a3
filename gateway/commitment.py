"""Storage commitment (DICOM PS3.4 annex J): which of the instances that a sender lists are in the uploads bucket.

The ledger answers: what it has noted, the object store has taken. It knows nothing of what was stored before it, so an
instance may be reported as missing that is there; sent again, it is known.

The report goes to the sender's address where the settings name one, else along the association that the request came
on: who closes that at once gets none, and asks again.
"""

import io
import logging
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pynetdicom import evt
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode

from gateway import metrics
from gateway.commitment_reports import INSTANCE, SOP_CLASS, Report, Reports
from gateway.ledger import Ledger
from gateway.reception import BoundedDimse

MOST_INSTANCES = 5000
_UID = re.compile(r"[0-9.]{1,64}")
_REQUEST = 1  # the action type; the event types of reports:
_ALL_STORED, _SOME_MISSING = 1, 2

# Statuses of the response (PS3.7 annex C), and reasons of a failed instance (PS3.3 C.14.1.1).
_ACCEPTED, _NO_SUCH_INSTANCE, _INVALID_ARGUMENT, _NO_SUCH_CLASS = 0x0000, 0x0112, 0x0115, 0x0118
_NO_SUCH_ACTION, _RESOURCE_LIMITATION = 0x0123, 0x0213
_FAILURE, _MISSING, _OTHER_CLASS = 0x0110, 0x0112, 0x0119

log = logging.getLogger("lungline.gateway")


class _Refused(Exception):
    """A request that gets no report; the argument is the status of its response."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True)
class _Request:
    transaction: str = field(repr=False)
    references: Sequence[tuple[str, str]] = field(repr=False)
    """SOP class and instance of each."""


class Commitment:
    """Answers requests for storage commitment; associations may share it."""

    def __init__(self, ledger: Ledger, reports: Reports) -> None:
        self._ledger = ledger
        self._reports = reports

    def request(self, event: evt.Event) -> tuple[int, None]:
        """Take an N-ACTION request, which a report answers later; returns the status of the response."""
        try:
            report = self._report(_read(event))
            self._send(event, report)
        except _Refused as exc:
            metrics.count_commitment("refused")
            log.warning("A request for storage commitment was refused (status %#06x).", exc.status)
            return exc.status, None
        metrics.count_commitment("stored" if report.event_type == _ALL_STORED else "missing")
        return _ACCEPTED, None

    def _send(self, event: evt.Event, report: Report) -> None:
        title = str(event.assoc.requestor.ae_title).strip()
        if not self._reports.knows(title):
            _follow(event, report)
        elif not self._reports.queue(title, report):
            raise _Refused(_RESOURCE_LIMITATION)

    def _report(self, request: _Request) -> Report:
        from pydicom import Dataset

        reasons = self._reasons(request.references)
        stored = [pair for pair, reason in zip(request.references, reasons, strict=True) if not reason]
        missing = [(*pair, reason) for pair, reason in zip(request.references, reasons, strict=True) if reason]
        information = Dataset()
        information.TransactionUID = request.transaction
        if stored:
            information.ReferencedSOPSequence = [_item(*pair) for pair in stored]
        if missing:
            information.FailedSOPSequence = [_item(*each) for each in missing]
            log.warning("Storage commitment: %d of %d instances are missing.", len(missing), len(reasons))
        return Report(_SOME_MISSING if missing else _ALL_STORED, information)

    def _reasons(self, references: Sequence[tuple[str, str]]) -> list[int]:
        """Why each instance cannot be committed to; 0 for those that are stored."""
        try:
            stored = self._ledger.classes([instance for _, instance in references])
        except sqlite3.Error as exc:
            log.warning("The ledger cannot be read (%s).", type(exc).__name__)
            return [_FAILURE] * len(references)
        return [
            0 if sop_class in stored.get(instance, ()) else _OTHER_CLASS if instance in stored else _MISSING
            for sop_class, instance in references
        ]


def _read(event: evt.Event) -> _Request:
    """What is asked. Raises _Refused."""
    request: Any = event.request
    if not request.RequestedSOPClassUID == event.context.abstract_syntax == SOP_CLASS:
        raise _Refused(_NO_SUCH_CLASS)
    if request.RequestedSOPInstanceUID != INSTANCE:
        raise _Refused(_NO_SUCH_INSTANCE)
    if request.ActionTypeID != _REQUEST:
        raise _Refused(_NO_SUCH_ACTION)
    try:
        information = event.action_information
        items = list(information.ReferencedSOPSequence)[: MOST_INSTANCES + 1]
        pairs = [(str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID)) for item in items]
        made = _Request(str(information.TransactionUID), pairs)
    except Exception as exc:  # noqa: BLE001 - a data set from anywhere; the library raises all kinds
        log.warning("A request for storage commitment cannot be read (%s).", type(exc).__name__)
        raise _Refused(_INVALID_ARGUMENT) from None
    if len(pairs) > MOST_INSTANCES:
        raise _Refused(_RESOURCE_LIMITATION)
    uids = [made.transaction, *(uid for pair in made.references for uid in pair)]
    if not made.references or not all(map(_UID.fullmatch, uids)):
        raise _Refused(_INVALID_ARGUMENT)
    return made


def _item(sop_class: str, instance: str, reason: int = 0) -> Any:
    from pydicom import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
    if reason:
        item.FailureReason = reason
    return item


def _follow(event: evt.Event, report: Report) -> None:
    """Send a report after the response, along the same association.

    It does not wait for the answer, as the library would: a sender may go on with its next object before it answers.
    """
    dimse, context = event.assoc.dimse, event.context
    syntax = context.transfer_syntax
    data = encode(report.information, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
    if data is None or not isinstance(dimse, BoundedDimse):
        raise _Refused(_FAILURE)
    message = N_EVENT_REPORT()
    message.MessageID = 1
    message.AffectedSOPClassUID, message.AffectedSOPInstanceUID = SOP_CLASS, INSTANCE
    message.EventTypeID = report.event_type
    message.EventInformation = io.BytesIO(data)
    dimse.follow(lambda: dimse.send_msg(message, context.context_id))
