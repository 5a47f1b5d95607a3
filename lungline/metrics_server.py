"""A small HTTP server for other pods, of which slow connections cannot take all threads and descriptors."""

# prometheus_client types its WSGI application only in part.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
import socket
import threading
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from lungline.listening import listen

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

# A scrape takes milliseconds, and few scrape at once. Beyond that, the oldest connection makes way.
_MOST_CONNECTIONS = 16
_SECONDS = 5.0


def serve_metrics(registry: CollectorRegistry, port: int, host: str) -> None:
    """Serve the metrics of a registry from a thread. Raises StackError when the port is taken."""
    server = make_server(make_wsgi_app(registry), port, host)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


def make_server(application: "WSGIApplication", port: int, host: str) -> WSGIServer:
    """A server of an application; `serve_forever` waits for requests. Raises StackError when the port is taken."""
    server = _Server(listen(host, port, _Server.request_queue_size))
    server.set_app(application)
    return server


class _Handler(WSGIRequestHandler):
    """Waits a few seconds for each part of a request, and logs none."""

    timeout = _SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class names it
        """Log nothing."""


class _Server(ThreadingWSGIServer):
    """Each connection has a thread and a descriptor, so there are few, and slow ones make way for new ones."""

    daemon_threads = True

    def __init__(self, listener: socket.socket) -> None:
        self._open: dict[socket.socket, None] = {}
        self._lock = threading.Lock()
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = listener.getsockname()[:2]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection on a thread, after the oldest has made way."""
        with self._lock:
            oldest = next(iter(self._open)) if len(self._open) >= _MOST_CONNECTIONS else None
            if oldest is not None:
                del self._open[oldest]
            self._open[request] = None
        if oldest is not None:
            self.shutdown_request(oldest)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away."""
