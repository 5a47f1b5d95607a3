"""The service that lends dossiers what is in Kafka and MLflow, within a test's process."""

from collections.abc import Iterator
from contextlib import contextmanager

from eventing.dossier_sources import DossierSources
from lungline.metrics_server import make_server
from lungline.settings import Settings
from tests.support.http_stand_in import running


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """The address of the service, within this process."""
    with running(make_server(DossierSources(settings), 0, "127.0.0.1")) as address:
        yield address
