"""Bounds on connections: their number, how long a TLS handshake and a PDU may take, and how long a PDU may be.

pynetdicom reads as many bytes as a PDU claims to have, waits for them for ever, and does TLS handshakes one after the
other: one silent client would shut out all others.
"""

import contextlib
import logging
import socket
import ssl
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, cast

from pynetdicom import evt
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from gateway import metrics
from gateway.bound_titles import BoundAcse, BoundTitles
from gateway.reception import BoundedDimse
from gateway.spool import Spool
from gateway.tls import TlsFiles
from lungline.listening import listen

if TYPE_CHECKING:
    from pynetdicom.association import Association

MAX_PDU = 2**17
# An A-ASSOCIATE-RQ may be longer than the data PDUs that we ask for.
_LONGEST_PDU = 2**18
_CLOSING = "Sta13"  # PS3.8 table 9-5
_PDU_SECONDS = 30.0
_HANDSHAKE_SECONDS = 10.0
# The loop goes round ten times a second; a loaded machine may take longer.
_LOOP_SECONDS = 5.0

log = logging.getLogger("lungline.gateway")


class BoundedSocket(AssociationSocket):
    """A socket that reads no more than a PDU may have, and not for longer than one may take."""

    @property
    def ready(self) -> bool:
        """Whether there is something to read that matters: after an abort or a rejection nothing does."""
        return self.assoc.dul.state_machine.current_state != _CLOSING and super().ready

    def _shutdown_socket(self) -> None:
        """Close also a connection that the peer has reset, which the library leaves open."""
        connection = self.socket
        super()._shutdown_socket()
        if connection is not None:
            connection.close()

    def recv(self, nr_bytes: int) -> bytearray:
        """Read bytes of a PDU; fewer when the connection ends. Raises OSError beyond the bounds."""
        if nr_bytes > _LONGEST_PDU:
            raise OSError("the PDU claims to be longer than a PDU may be")
        source = cast("socket.socket", self.socket)
        end = time.monotonic() + _PDU_SECONDS
        data = bytearray()
        while len(data) < nr_bytes:
            source.settimeout(max(0.01, end - time.monotonic()))
            part = source.recv(nr_bytes - len(data))
            if not part:
                break
            data += part
        source.settimeout(_PDU_SECONDS)  # of answers, which a peer may not read
        return data


class _Handler(RequestHandler):
    """Makes the association of a connection."""

    server: "BoundedServer"  # pyright: ignore[reportIncompatibleVariableOverride] - no other server makes this handler

    def _create_association(self) -> "Association":
        association = super()._create_association()
        # The library makes the socket itself, and a second one would announce the connection twice.
        cast("Any", association.dul.socket).__class__ = BoundedSocket
        association.acse = BoundAcse(association, self.server.titles)
        association.dimse = BoundedDimse(association, self.server.spool, self.server.max_bytes)
        self.server.track(association)
        return association


class BoundedServer(ThreadedAssociationServer):
    """Accepts connections; when there are too many, the oldest without an association makes way."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        *args: Any,
        spool: Spool,
        tls: TlsFiles,
        titles: BoundTitles,
        max_bytes: int,
        max_connections: int,
        **options: Any,
    ) -> None:
        self.spool = spool
        self._tls = tls
        self.titles = titles
        self.max_bytes = max_bytes
        self._max_connections = max_connections
        self._open: dict[socket.socket, Association | None] = {}
        self._lock = threading.Lock()
        self._looped = time.monotonic()
        super().__init__(*args, request_handler=_Handler, **options)
        self.bind(evt.EVT_CONN_CLOSE, _clean_up)

    def server_bind(self) -> None:
        """Take the listening socket that was handed on, else open one. Raises StackError when the port is taken."""
        cast("socket.socket", self.socket).close()
        host, port, *_ = cast("tuple[str, int]", self.server_address)
        self.socket = listen(host, port, self.request_queue_size)
        self.server_address = self.socket.getsockname()

    def server_close(self) -> None:
        """Close the listening socket; the library also shuts it down, for every process that shares it."""
        cast("socket.socket", self.socket).close()

    def service_actions(self) -> None:
        """Note that the loop that accepts connections goes round."""
        super().service_actions()
        self._looped = time.monotonic()

    @property
    def accepts(self) -> bool:
        """Whether the loop that accepts connections went round a moment ago."""
        return time.monotonic() - self._looped < _LOOP_SECONDS

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; its TLS handshake follows on a thread of its own."""
        connection, address = cast("socket.socket", self.socket).accept()
        without_delay(connection)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection on a thread, if there is room."""
        with self._lock:
            self._open = {each: association for each, association in self._open.items() if each.fileno() >= 0}
            if len(self._open) >= self._max_connections and not self._make_room():
                metrics.count_association("crowded-out")
                self.shutdown_request(request)
                return
            self._open[request] = None
            metrics.OPEN.set(len(self._open))
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Do the TLS handshake, then start the association."""
        request.settimeout(_HANDSHAKE_SECONDS)
        if context := self._tls.context():
            plain = request
            try:
                request = context.wrap_socket(plain, server_side=True)
            except (OSError, ssl.SSLError):
                metrics.count_association("rejected")
                log.warning("A TLS handshake failed.")
                self.shutdown_request(plain)
                return
            with self._lock:
                self._open.pop(plain, None)
                self._open[request] = None
        request.settimeout(_PDU_SECONDS)
        super().finish_request(request, client_address)

    def track(self, association: "Association") -> None:
        """Note which association a connection has become."""
        connection = cast("AssociationSocket", association.dul.socket).socket
        if connection is not None:
            with self._lock:
                self._open[connection] = association

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class passes them
        """Say where a connection failed, without what was sent."""
        log.warning("A connection failed.", exc_info=sys.exc_info())

    def _make_room(self) -> bool:
        """Close the oldest connection without an association; False when there is none."""
        for connection, association in self._open.items():
            if association is None or not association.is_established:
                del self._open[connection]
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()
                return True
        return False


def without_delay(connection: socket.socket) -> None:
    """Send each write at once: a command and its data set are two, and the second would wait for an acknowledgement."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _clean_up(event: evt.Event) -> None:
    dimse = event.assoc.dimse
    if isinstance(dimse, BoundedDimse):
        dimse.clean_up()
