"""Reports of storage commitment on associations of their own, to the addresses that the settings name.

Each sender has a queue and a thread, so one that is away holds up no other. Reports are kept in memory: a sender that
gets none asks again, as the standard wants it.
"""

import logging
import queue
import re
import threading
from dataclasses import dataclass, field
from typing import Any

from pynetdicom import AE, build_role

from gateway import metrics
from gateway.connections import BoundedSocket, without_delay
from gateway.part10 import IMPLEMENTATION_NAME, IMPLEMENTATION_UID
from gateway.tls import TlsFiles
from lungline.errors import SettingsError
from lungline.imaging.dicom_header import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from lungline.settings_blocks import GatewaySettings

SOP_CLASS = "1.2.840.10008.1.20.1"
INSTANCE = "1.2.840.10008.1.20.1.1"
_QUEUED = 16
_WAITS = (0.0, 2.0, 10.0, 60.0, 300.0)
_CONNECT_SECONDS, _ANSWER_SECONDS = 10, 30
_ADDRESS = re.compile(r"([ -\[\]-~]{1,16})=(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9.-]{0,252}):(\d{1,5})")

log = logging.getLogger("lungline.gateway")


@dataclass(frozen=True, slots=True)
class Report:
    """A report: its event type, 1 when all instances are stored, else 2, and the data set that lists them."""

    event_type: int
    information: Any = field(repr=False)


class Reports:
    """Reports that are to be sent; threads may share it."""

    def __init__(self, settings: GatewaySettings, tls: TlsFiles) -> None:
        """Raises SettingsError when an address is none."""
        self._title = settings.ae_title
        self._tls = tls
        self._addresses = addresses(settings)
        self._queues = {title: queue.Queue[Report](_QUEUED) for title in self._addresses}
        self._threads: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def knows(self, title: str) -> bool:
        """Whether a sender has an address."""
        return title in self._addresses

    def queue(self, title: str, report: Report) -> bool:
        """Send a report to a sender, soon and several times if need be; False when too many wait."""
        with self._lock:
            try:
                self._queues[title].put_nowait(report)
            except queue.Full:
                return False
            if title not in self._threads:
                thread = threading.Thread(target=self._send_all, args=(title,), name="commitment", daemon=True)
                self._threads[title] = thread
                thread.start()
        return True

    def stop(self) -> None:
        """Send no more."""
        self._stopping.set()

    def _send_all(self, title: str) -> None:
        while not self._stopping.is_set():
            try:
                report = self._queues[title].get(timeout=1.0)
            except queue.Empty:
                continue
            if not any(self._send_after(wait, title, report) for wait in _WAITS) and not self._stopping.is_set():
                metrics.count_commitment("unreported")
                log.warning("A report of storage commitment was given up: its address did not take it.")

    def _send_after(self, wait: float, title: str, report: Report) -> bool:
        return not self._stopping.wait(wait) and self._send(title, report)

    def _send(self, title: str, report: Report) -> bool:
        try:
            association = self._associate(title)
            if not association.is_established:
                log.warning("A report of storage commitment could not be sent: there is no association.")
                return False
            try:
                status, _ = association.send_n_event_report(report.information, report.event_type, SOP_CLASS, INSTANCE)
            finally:
                if association.is_established:
                    association.release()
        except Exception as exc:  # noqa: BLE001 - whatever a peer or a file holds must not end the thread of its reports
            log.warning("A report of storage commitment could not be sent (%s).", type(exc).__name__)
            return False
        return status.get("Status") == 0

    def _associate(self, title: str) -> Any:
        host, port = self._addresses[title]
        context = self._tls.client_context()
        return _entity(self._title).associate(
            host,
            port,
            ae_title=title,
            # We are the provider of the service, though we ask for the association.
            ext_neg=[build_role(SOP_CLASS, scp_role=True)],
            tls_args=None if context is None else (context, host),
        )


def addresses(settings: GatewaySettings) -> dict[str, tuple[str, int]]:
    """Host and port of each AE title that gets reports. Raises SettingsError."""
    made: dict[str, tuple[str, int]] = {}
    for text in filter(None, map(str.strip, settings.commitment.split(","))):
        match = _ADDRESS.fullmatch(text)
        if match is None or not 0 < int(match[3]) < 65536:
            raise SettingsError(f"gateway.commitment: expected AE title=host:port, not {text!r}.")
        made[match[1].strip()] = match[2].strip("[]"), int(match[3])
    return made


class _Entity(AE):
    def _create_socket(self, assoc: Any, address: Any, tls_args: Any) -> BoundedSocket:
        made = BoundedSocket(assoc, address=address)
        made.tls_args = tls_args
        if made.socket is not None:
            without_delay(made.socket)
        return made


def _entity(title: str) -> AE:
    entity = _Entity(ae_title=title)
    entity.implementation_class_uid = IMPLEMENTATION_UID
    entity.implementation_version_name = IMPLEMENTATION_NAME
    entity.connection_timeout = entity.acse_timeout = _CONNECT_SECONDS
    entity.dimse_timeout = entity.network_timeout = _ANSWER_SECONDS
    entity.add_requested_context(SOP_CLASS, [EXPLICIT_LITTLE, IMPLICIT_LITTLE])
    return entity
