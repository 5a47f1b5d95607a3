"""Senders that ask for storage commitment, and their servers that take reports of it; by pynetdicom."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt

from gateway.commitment_reports import INSTANCE, SOP_CLASS
from lungline.certificates import Pair
from tests.support.dicom_files import DX
from tests.support.dicom_network import HOST

Reports = list[tuple[int, Dataset]]
"""Event type and data set of each report."""


class Sender:
    """A modality that asks for commitment; `reports` came along its association."""

    def __init__(self, port: int, title: str = "PYNETDICOM", tls: ssl.SSLContext | None = None) -> None:
        self.reports: Reports = []
        entity = AE(ae_title=title)
        entity.add_requested_context(SOP_CLASS)
        entity.add_requested_context(DX)
        self.association = entity.associate(
            HOST,
            port,
            ae_title="LUNGLINE",
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, taking(self.reports))],
            tls_args=(tls, "localhost") if tls else None,
        )
        assert self.association.is_established

    def ask(self, *pairs: tuple[str, str], **more: Any) -> int:
        """Send a request; returns the status of the response."""
        information = Dataset()
        information.TransactionUID = more.get("transaction", generate_uid())
        information.ReferencedSOPSequence = [reference(*pair) for pair in pairs]
        instance = more.get("instance", INSTANCE)
        status, _ = self.association.send_n_action(information, more.get("action", 1), SOP_CLASS, instance)
        return int(status.Status)


def taking(reports: Reports) -> Any:
    """A handler that keeps reports."""

    def take(event: Any) -> tuple[int, None]:
        reports.append((event.event_type, event.event_information))
        return 0, None

    return take


def reference(sop_class: str, instance: str) -> Dataset:
    """An item of a list of instances."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
    return item


@contextmanager
def listening(title: str, port: int, tls: ssl.SSLContext | None = None) -> Iterator[Reports]:
    """A sender's own server; yields the reports that came."""
    reports: Reports = []
    entity = AE(ae_title=title)
    entity.add_supported_context(SOP_CLASS, scu_role=False, scp_role=True)
    handlers: Any = [(evt.EVT_N_EVENT_REPORT, taking(reports))]
    server: Any = entity.start_server((HOST, port), block=False, ssl_context=tls, evt_handlers=handlers)
    try:
        yield reports
    finally:
        server.shutdown()


def server_side(pair: Pair, authority: Path) -> ssl.SSLContext:
    """TLS of a server that asks clients for a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_side(pair: Pair, authority: Path) -> ssl.SSLContext:
    """TLS of a client that shows a certificate."""
    context = ssl.create_default_context(cafile=str(authority))
    context.load_cert_chain(pair.certificate, pair.key)
    return context
