"""Delivery by DICOM C-STORE. UIDs follow from the result, so an archive that has an instance keeps it as it is."""

import io
import logging
import socket
import time
from typing import Any, cast

from worklist.delivery.channel import Channel, Lost
from worklist.delivery.parcel import Instances
from worklist.delivery.refusals import NotTaken, Rejected, require_stored
from worklist.destinations import DicomDestination

CONNECT_SECONDS = 10
ANSWER_SECONDS = 30
_SENT = {"report": "Structured Report", "capture": "Secondary Capture"}


class DicomChannel(Channel[Instances, Any]):
    """Stores the instances of results over one association."""

    def __init__(self, destination: DicomDestination) -> None:
        super().__init__()
        self._destination = destination

    def _open(self) -> Any:
        return _associate(self._destination)

    def _exchange(self, connection: Any, content: Instances) -> None:
        from pydicom import dcmread

        accepted = {context.abstract_syntax for context in connection.accepted_contexts}
        for kind, data in content:
            name, dataset = _SENT[kind], dcmread(io.BytesIO(data))
            if dataset.SOPClassUID not in accepted:
                raise Rejected(f"The destination takes no instances of the class of a {name}.")
            require_stored(_store(connection, dataset, name), name)

    def _close(self, connection: Any) -> None:
        if connection.is_established:
            connection.release()


def _store(association: Any, dataset: Any, name: str) -> int:
    """The status of the answer. Raises Lost, NotTaken."""
    begun = time.monotonic()
    try:
        status = association.send_c_store(dataset).get("Status")
    except RuntimeError:  # it has ended since the one before
        raise Lost("The destination ended the association.") from None
    if status is not None:
        return int(status)
    is_late = time.monotonic() - begun >= ANSWER_SECONDS
    raise (NotTaken if is_late else Lost)(f"The destination did not answer after the {name} was sent.")


def _associate(destination: DicomDestination) -> Any:
    from pydicom.uid import (
        ComprehensiveSRStorage,
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        SecondaryCaptureImageStorage,
    )

    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # it logs identifiers
    entity = _entity(destination.calling_title)
    entity.connection_timeout = entity.acse_timeout = CONNECT_SECONDS
    entity.dimse_timeout = entity.network_timeout = ANSWER_SECONDS
    for sop_class in (ComprehensiveSRStorage, SecondaryCaptureImageStorage):
        # As it is made, which costs no conversion where both are taken; the other is what everybody takes.
        for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
            entity.add_requested_context(sop_class, syntax)
    tls = destination.tls
    host = destination.host
    secured = None if tls is None else (tls.context(), tls.server_name or host)
    try:
        association = entity.associate(host, destination.port, ae_title=destination.called_title, tls_args=secured)
    except OSError as exc:
        raise NotTaken(f"The destination cannot be reached ({type(exc).__name__}).") from None
    if association.is_established:
        return association
    if association.is_rejected:
        raise NotTaken("The destination rejected the association: does it know our AE title, and is its own right?")
    raise NotTaken("The destination did not answer, or ended the association.")


def _entity(title: str) -> Any:
    """An application entity that closes also sockets that were never connected, and waits for no acknowledgements."""
    from pynetdicom import AE
    from pynetdicom.transport import AssociationSocket

    class PromptSocket(AssociationSocket):
        def _shutdown_socket(self) -> None:
            connection = self.socket
            super()._shutdown_socket()  # leaves it open when nobody is at the other end
            if connection is not None:
                connection.close()

        def recv(self, nr_bytes: int) -> bytearray:
            # An archive may write an answer in two pieces too, and hold the second back until we acknowledge the first.
            if self.socket is not None and hasattr(socket, "TCP_QUICKACK"):  # Linux has it, and forgets it
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            return super().recv(nr_bytes)

    class Entity(AE):
        def _create_socket(self, assoc: Any, address: Any, tls_args: Any) -> AssociationSocket:
            made = PromptSocket(assoc, address=address)
            # A command and its data set are two small writes: the second must not wait until the first is acknowledged.
            connection = cast("socket.socket", made.socket)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.tls_args = tls_args
            return made

    return Entity(ae_title=title)
