"""Bounds on what one association may send: pynetdicom itself takes whatever comes.

A data set goes to a file of the spool as it arrives. What is over the limit is read and thrown away, so that the sender
gets a status for this object and goes on with the next one. A sender that is faster than the object store waits.
"""

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pynetdicom import _config
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.pdu_primitives import P_DATA

from gateway.intake import Receipt, too_large
from gateway.spool import Spool

if TYPE_CHECKING:
    from pynetdicom.association import Association

# A command has some 200 bytes; the data set of any message but C-STORE lists references.
_LARGEST_COMMAND = 16 * 1024
_LARGEST_OTHER = 2**20
# An object over the limit is thrown away up to this size; beyond it the association ends.
_LARGEST_DISCARDED = 8 * 2**30
_QUEUED = 1
_PATIENCE_SECONDS = 120.0
_POLL_SECONDS = 0.002
_INVALID_PDU = "Evt19"  # PS3.8 table 9-6
_FULL = Receipt("out-of-resources", "There is no room to receive the object; send it again later.")

log = logging.getLogger("lungline.gateway")


class BoundedDimse(DIMSEServiceProvider):
    """The DIMSE provider of one association, within bounds."""

    def __init__(self, association: "Association", spool: Spool, max_bytes: int) -> None:
        super().__init__(association)
        self._spool = spool
        self._max_bytes = max_bytes
        self._received = self._command = 0
        self._refusal: Receipt | None = None
        self._refusals: dict[Path, Receipt] = {}
        self._paths: set[Path] = set()
        self._next: Callable[[], None] | None = None

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take the fragments of a message one by one; what breaks the bounds or cannot be read ends the association."""
        try:
            for fragment in primitive.presentation_data_value_list:
                self._receive(*fragment)
        except Exception as exc:  # noqa: BLE001 - whatever a peer sends must not end the thread that would abort it
            log.warning("An association was ended: %s.", exc if isinstance(exc, OverflowError) else type(exc).__name__)
            self.dul.event_queue.put(_INVALID_PDU)

    def _receive(self, context: int, data: bytes) -> None:
        single = P_DATA()
        single.presentation_data_value_list.append(self._bounded(context, data))
        super().receive_primitive(single)
        path: Path | None = getattr(self.message, "_data_set_path", None)
        if path is not None:
            self._paths.add(path)
        if self.message is None:
            self._received = self._command = 0
            self._refusal = None
            self._wait_for_room()

    def follow(self, action: Callable[[], None]) -> None:
        """Do something once the next message, the response to the present request, has been sent."""
        self._next = action

    def send_msg(self, primitive: Any, context_id: int) -> None:
        """Send a message, and then what is to follow it."""
        super().send_msg(primitive, context_id)
        action, self._next = self._next, None
        if action:
            action()

    def refusal(self, path: Path) -> Receipt | None:
        """Why an object was not received whole; None when it was."""
        return self._refusals.pop(path, None)

    def forget(self, path: Path) -> None:
        """Delete the file of an object that has been dealt with."""
        self._paths.discard(path)
        self._spool.delete(path)

    def clean_up(self) -> None:
        """Delete what an association that has ended left behind."""
        for path in list(self._paths):
            self.forget(path)

    def _bounded(self, context: int, data: bytes) -> tuple[int, bytes]:
        """A fragment of a message: a byte that says what it is, then its data."""
        control, size = data[:1], len(data) - 1
        if control[0] & 1:
            self._command += size
            _require(self._command <= _LARGEST_COMMAND)
            return context, data
        self._received += size
        message: Any = self.message
        path: Path | None = getattr(message, "_data_set_path", None)
        if not isinstance(message, C_STORE_RQ) or path is None:
            _require(self._received <= _LARGEST_OTHER)
            return context, data
        _require(self._received <= _LARGEST_DISCARDED)
        if self._refusal is None and self._received > self._max_bytes:
            self._refuse(path, too_large(self._max_bytes))
        if self._refusal is None and not self._spool.take(path, size):
            self._refuse(path, _FULL)
        return context, data if self._refusal is None else control

    def _refuse(self, path: Path, receipt: Receipt) -> None:
        """Give back the room of an object that is not received whole."""
        self._refusal = self._refusals[path] = receipt
        file: Any = getattr(self.message, "_data_set_file", None)
        file.truncate(0)
        self._spool.give_back(path)

    def _wait_for_room(self) -> None:
        """Let the sender wait while earlier messages are not dealt with."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while self.msg_queue.qsize() > _QUEUED and not self.assoc._kill:  # noqa: SLF001 - it has no public name
            _require(time.monotonic() < end)
            time.sleep(_POLL_SECONDS)


def receive_into(folder: Path) -> None:
    """Have pynetdicom write data sets to files in a folder as they arrive, and log nothing of what it receives."""
    _config.STORE_RECV_CHUNKED_DATASET = True
    _config.LOG_HANDLER_LEVEL = "none"
    tempfile.tempdir = str(folder)
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)


def _require(holds: bool) -> None:
    if not holds:
        raise OverflowError("the peer sends more than a peer may")
