"""Which parts a stack has, and which it borrows because the settings name others: wired here and nowhere else."""

from dataclasses import dataclass
from typing import cast

from pydantic import SecretStr

from laptop.home.credentials import Credentials, claim_credentials, load_credentials
from laptop.home.ports import Ports, claim_ports, load_ports
from laptop.services.bridge import BridgeService
from laptop.services.broker import Broker
from laptop.services.mlflow import Mlflow
from laptop.services.predictor import Predictor
from laptop.services.prometheus import Prometheus
from laptop.services.service import Service
from laptop.services.store import Store
from laptop.services.trigger import TriggerService
from laptop.services.worklist import WorklistService
from laptop.supervision.status import ServiceStatus
from lungline.deidentification.pseudonyms import KEY_FILE
from lungline.errors import StackError
from lungline.home import Home
from lungline.network import HOST
from lungline.settings import Settings


@dataclass(frozen=True, slots=True)
class Assembly:
    """The parts that are ours, those that are not, and the settings with the addresses of all."""

    parts: tuple[Service, ...]
    others: tuple[ServiceStatus, ...]
    settings: Settings


def assemble(home: Home, settings: Settings) -> Assembly:
    """A stack that is about to start: claims ports, makes credentials. Raises StackError."""
    settings = _without_own(settings, load_ports(home))
    return _assemble(home, settings, claim_ports(home), claim_credentials(home))


def assembled(home: Home, settings: Settings) -> Assembly:
    """The stack that has started in this home. Raises StackError when none ever has."""
    ports, credentials = load_ports(home), load_credentials(home)
    if not ports or not credentials:
        raise StackError(f"No stack has been started in {home.path}: `lungline up` starts one.")
    return _assemble(home, _without_own(settings, ports), ports, credentials)


def _without_own(settings: Settings, ports: Ports | None) -> Settings:
    """The settings without addresses of this very stack, which `lungline env` has put into somebody's shell."""
    if ports is None:
        return settings
    own = {
        "s3_endpoint": f"http://{HOST}:{ports.s3}",
        "kafka_bootstrap": f"{HOST}:{ports.broker}",
        "predictor_uri": f"http://{HOST}:{ports.predictor}",
        "mlflow_uri": f"http://{HOST}:{ports.mlflow}",
    }
    update: dict[str, object] = {name: None for name, address in own.items() if getattr(settings, name) == address}
    if settings.worklist.uri == f"http://{HOST}:{ports.worklist}":
        update["worklist"] = settings.worklist.model_copy(update={"uri": None})
    return settings.model_copy(update=update)


def _assemble(home: Home, settings: Settings, ports: Ports, credentials: Credentials) -> Assembly:
    ours = settings.model_copy(update={"home": home.path})
    # A home that has made a secret of its own goes on with it: the same patient must keep the same pseudonym.
    if not ours.research_secret and not home.file(KEY_FILE).exists():
        ours = ours.model_copy(update={"research_secret": SecretStr(credentials.research)})
    parts: list[Service] = []
    others: list[ServiceStatus] = []

    def settle(part: Store | Broker | Predictor | Mlflow, external: str | None) -> Settings:
        if external:
            others.append(ServiceStatus(part.name, "external", address=external))
            return part.settings
        parts.append(cast("Service", part))
        return part.connected()

    own_store = not settings.s3_endpoint
    ours = settle(Store(home, ours, ports, credentials), settings.s3_endpoint)
    ours = settle(Broker(home, ours, ports, in_memory=not own_store), settings.kafka_bootstrap)
    if own_store:
        parts.append(BridgeService(home, ours, ports))
    else:
        note = f"The object store at {settings.s3_endpoint} must send its upload events to Kafka itself."
        others.append(ServiceStatus("bridge", "external", note=note))
    ours = settle(Predictor(home, ours, ports), settings.predictor_uri)
    ours = settle(Mlflow(home, ours, ports), settings.mlflow_uri)
    worklist = WorklistService(home, ours, ports, credentials)
    parts.append(TriggerService(home, worklist.guarded(ours), worklist.address, ports.trigger_metrics))
    parts.append(worklist)
    ours = worklist.connected(ours)
    if settings.prometheus:
        watched = ("supervisor", *(part.name for part in parts))
        scraper = Prometheus(home, ours, ports, watched)
        parts.append(scraper)
        ours = ours.model_copy(update={"prometheus_uri": ours.prometheus_uri or scraper.address})
    return Assembly(tuple(parts), tuple(others), ours)
