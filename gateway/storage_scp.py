"""The DICOM server: verification, storage of radiographs and storage commitment, as SCP.

Sources: DICOM PS3.4 annexes A, B and J, PS3.7 9.3 and annex C (statuses), PS3.8 (associations).
"""

import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # pyright: ignore[reportAttributeAccessIssue] - made at run time

from gateway import metrics
from gateway.bound_titles import BoundTitles
from gateway.commitment import Commitment
from gateway.commitment_reports import SOP_CLASS as COMMITMENT
from gateway.connections import MAX_PDU, BoundedServer
from gateway.intake import REPORTS, Intake, Outcome, Receipt
from gateway.part10 import IMPLEMENTATION_NAME, IMPLEMENTATION_UID, data_set_start, with_header
from gateway.reception import BoundedDimse, receive_into
from gateway.spool import Spool
from gateway.tls import TlsFiles
from lungline.errors import Busy, ImageRefused, SettingsError
from lungline.imaging.dicom import CAPTURES, RADIOGRAPHS, SYNTAXES
from lungline.imaging.dicom_header import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from lungline.settings_blocks import GatewaySettings

T = TypeVar("T")
STATUS: dict[Outcome, int] = {
    "stored": 0x0000,
    "repeated": 0x0000,
    "changed": 0x0000,
    "own": 0x0000,
    "failed": 0x0110,
    "class-not-supported": 0x0122,
    "out-of-resources": 0xA700,
    "mismatch": 0xA900,
    "not-understood": 0xC000,
}
_IDLE_SECONDS, _REQUEST_SECONDS = 60.0, 10.0
_STOP_SECONDS = 3.0
# The first that a sender offers too is taken: the values of elements are safest where their types are stated.
_UNCOMPRESSED = [EXPLICIT_LITTLE, IMPLICIT_LITTLE]
_ALL = [*_UNCOMPRESSED, *sorted(SYNTAXES - {*_UNCOMPRESSED})]
_TITLE = re.compile(r"[ -\[\]-~]{1,16}")

log = logging.getLogger("lungline.gateway")


class StorageScp:
    """Listens from `start` to `stop`."""

    def __init__(
        self, settings: GatewaySettings, intake: Intake, spool: Spool, tls: TlsFiles, commitment: Commitment
    ) -> None:
        self._settings = settings
        self._commitment = commitment
        self._intake = intake
        self._spool = spool
        self._tls = tls
        self._titles = BoundTitles.of(settings)
        self._server: BoundedServer | None = None
        receive_into(spool.folder)

    def start(self, host: str, port: int) -> None:
        """Listen on a thread. Raises StackError when the port is taken."""
        entity = _entity(self._settings)
        server = entity.make_server(
            (host, port),
            evt_handlers=[
                (evt.EVT_C_STORE, logged(self._store, STATUS["failed"])),
                (evt.EVT_N_ACTION, logged(self._commitment.request, (STATUS["failed"], None))),
                (evt.EVT_ACCEPTED, _count("accepted")),
                (evt.EVT_REJECTED, _count("rejected")),
                (evt.EVT_ABORTED, _count("aborted")),
            ],
            server_class=BoundedServer,
            spool=self._spool,
            tls=self._tls,
            titles=self._titles,
            max_bytes=self._intake.max_bytes,
            max_connections=2 * self._settings.associations,
        )
        self._server = cast("BoundedServer", server)
        entity._servers.append(server)  # noqa: SLF001 - as start_server does for its own class
        threading.Thread(target=server.serve_forever, args=(0.1,), name="dicom", daemon=True).start()

    @property
    def accepts(self) -> bool:
        """Whether it accepts connections now."""
        return self._server is not None and self._server.accepts

    def stop(self) -> None:
        """Listen no more; objects in transfer have a few seconds to be stored."""
        if self._server is None:
            return
        self._server.shutdown()
        end = time.monotonic() + _STOP_SECONDS
        while self._server.active_associations and time.monotonic() < end:
            time.sleep(0.05)
        for association in self._server.active_associations:
            association.abort()

    def _store(self, event: evt.Event) -> int:
        """Store the object of a C-STORE request; returns the status of the response."""
        dimse, path = event.assoc.dimse, Path(event.dataset_path)
        try:
            refusal = dimse.refusal(path) if isinstance(dimse, BoundedDimse) else None
            if refusal:
                metrics.count("dimse", refusal.outcome, 0)
                log.warning("%s: %s", refusal.outcome, refusal.reason, extra={"way": "dimse"})
            receipt = refusal or self._receive(event, path)
        finally:
            if isinstance(dimse, BoundedDimse):
                dimse.forget(path)
        return STATUS[receipt.outcome]

    def _receive(self, event: evt.Event, path: Path) -> Receipt:
        request: Any = event.request
        announced = str(request.AffectedSOPClassUID or ""), str(request.AffectedSOPInstanceUID or "")
        budget = self._intake.budget
        try:
            with budget.work():
                budget.take(3 * path.stat().st_size)
                received = path.read_bytes()
                data_set = received[data_set_start(received) :]
                del received
                data = with_header(data_set, *announced, str(event.context.transfer_syntax))
                return self._intake.take(data, "dimse", announced)
        except (Busy, OSError, ImageRefused) as exc:
            metrics.count("dimse", "out-of-resources", 0)
            log.warning("An object could not be received.", exc_info=exc)
            return Receipt("out-of-resources", "The object could not be received; send it again later.")


def logged(handler: Callable[[evt.Event], T], failure: T) -> Callable[[evt.Event], T]:
    """A handler that answers a fault of its own with `failure`, and logs it.

    pynetdicom answers such a fault too, and its log, which quotes what was received, is off.
    """

    def handle(event: evt.Event) -> T:
        try:
            return handler(event)
        except Exception:
            log.exception("A DICOM request failed.")
            return failure

    return handle


def titles(settings: GatewaySettings) -> list[str]:
    """The AE titles that may send. Raises SettingsError for one that is none."""
    listed = [title.strip() for title in settings.senders.split(",") if title.strip()]
    for title in (settings.ae_title, *listed):
        if not _TITLE.fullmatch(title):
            raise SettingsError(f"{title!r} is not an AE title: expected 1 to 16 printable ASCII letters.")
    return listed


class _Entity(AE):
    @property
    def active_associations(self) -> list[Association]:
        """Those that count against the limit: silent connections and garbage must not use it up."""
        return [each for each in super().active_associations if each.is_established]


def _entity(settings: GatewaySettings) -> AE:
    entity = _Entity(ae_title=settings.ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_UID
    entity.implementation_version_name = IMPLEMENTATION_NAME
    entity.require_called_aet = True
    entity.require_calling_aet = titles(settings)
    entity.maximum_associations = max(1, settings.associations - 1)  # it counts without the one that asks
    entity.maximum_pdu_size = MAX_PDU
    entity.acse_timeout = _REQUEST_SECONDS
    entity.dimse_timeout = entity.network_timeout = _IDLE_SECONDS
    entity.add_supported_context(Verification)
    entity.add_supported_context(COMMITMENT, _UNCOMPRESSED)
    for sop_class in sorted(RADIOGRAPHS | CAPTURES):
        entity.add_supported_context(sop_class, _ALL)
    for sop_class in sorted(REPORTS):
        entity.add_supported_context(sop_class, _UNCOMPRESSED)
    return entity


def _count(outcome: Any) -> Any:
    def count(_: evt.Event) -> None:
        metrics.count_association(outcome)
        if outcome == "rejected":
            log.warning("An association was rejected: its AE titles are not those expected, or there are too many.")

    return count
