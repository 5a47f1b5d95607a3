"""The service that lends dossiers what is in Kafka and MLflow, within a test's process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from eventing.dossier_sources import DossierSources
from lungline.metrics_server import make_server
from lungline.settings import Settings


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """The address of the service, within this process."""
    server = make_server(DossierSources(settings), 0, "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(20)
