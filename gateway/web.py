"""The HTTP server of the gateway."""

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
    config.ssl = tls.context()
    server = uvicorn.Server(config)
    threading.Thread(target=server.run, args=([listener],), name="stow", daemon=True).start()
    return server
