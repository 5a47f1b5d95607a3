"""The HTTP server of the gateway."""

import ssl
import threading

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from gateway.stow import Stow
from gateway.tls import TlsFiles
from lungline.connections import BACKLOG, guarded
from lungline.listening import listen


def serve(app: Stow, host: str, port: int, tls: TlsFiles, connections: int) -> uvicorn.Server:
    """Serve from a thread, with the same TLS as DICOM. Raises StackError when the port is taken."""
    listener = listen(host, port, BACKLOG)
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        log_level="warning",
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=3,
        http=guarded(AutoHTTPProtocol, connections),
    )
    config.load()
    config.ssl = _renewing(tls)
    server = uvicorn.Server(config)
    threading.Thread(target=server.run, args=([listener],), name="stow", daemon=True).start()
    return server


def _renewing(tls: TlsFiles) -> ssl.SSLContext | None:
    """A context that takes, for each connection, the certificate and the authority that the files have then.

    The server keeps the context of its start; OpenSSL asks this callback at each hello, with a name or without.
    """
    context = tls.context()
    if context is None:
        return None

    def exchange(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        if newest := tls.context():
            connection.context = newest

    context.sni_callback = exchange  # pyright: ignore[reportAttributeAccessIssue] - asyncio's connections are SSLObjects
    return context
