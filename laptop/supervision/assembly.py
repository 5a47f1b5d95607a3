"""Which services a stack starts, and which external ones the settings name instead: assembled here and nowhere else."""

from dataclasses import dataclass
from typing import cast

from pydantic import SecretStr

from laptop.home.credentials import Credentials, claim_credentials, load_credentials
from laptop.home.ports import Ports, claim_ports, load_ports
from laptop.services.bridge import BridgeService
from laptop.services.broker import Broker
from laptop.services.challenger import Wiring
from laptop.services.gateway import GatewayService
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
    """The services to start, the external ones, the settings with the addresses of all, and what challengers get."""

    services: tuple[Service, ...]
    external: tuple[ServiceStatus, ...]
    settings: Settings
    wiring: Wiring


def assemble(home: Home, settings: Settings) -> Assembly:
    """The stack of a home that is about to start: claims ports and generates credentials. Raises StackError."""
    settings = _without_own(settings, load_ports(home))
    return _assemble(home, settings, claim_ports(home), claim_credentials(home))


def assembled(home: Home, settings: Settings) -> Assembly:
    """The stack that has been started in a home. Raises StackError when none has."""
    ports, credentials = load_ports(home), load_credentials(home)
    if not ports or not credentials:
        raise StackError(f"No stack has been started in {home.path}: `lungline up` starts one.")
    return _assemble(home, _without_own(settings, ports), ports, credentials)


def _without_own(settings: Settings, ports: Ports | None) -> Settings:
    """The settings without the addresses of this stack itself, which `lungline env` may have exported."""
    if ports is None:
        return settings
    addresses = {
        "s3_endpoint": f"http://{HOST}:{ports.s3}",
        "kafka_bootstrap": f"{HOST}:{ports.broker}",
        "predictor_uri": f"http://{HOST}:{ports.predictor}",
        "mlflow_uri": f"http://{HOST}:{ports.mlflow}",
    }
    update: dict[str, object] = {
        name: None for name, address in addresses.items() if getattr(settings, name) == address
    }
    if "kafka_bootstrap" in update:  # the login is its own, too
        update |= dict.fromkeys(("kafka_username", "kafka_password", "kafka_ca"))
    if "mlflow_uri" in update:
        update |= dict.fromkeys(("mlflow_username", "mlflow_password"))
    if settings.worklist.uri and _is_own_worklist(settings.worklist.uri, ports):
        update["worklist"] = settings.worklist.model_copy(update={"uri": None})
    return settings.model_copy(update=update)


def _is_own_worklist(uri: str, ports: Ports) -> bool:
    """Whether an address is this stack's worklist; earlier releases had it at 127.0.0.1."""
    host, _, port = uri.removeprefix("http://").partition(":")
    return port == str(ports.worklist) and (host == HOST or host.endswith(".localhost"))


def _assemble(home: Home, settings: Settings, ports: Ports, credentials: Credentials) -> Assembly:
    ours = settings.model_copy(update={"home": home.path})
    # A home that has generated its own secret keeps it: a patient must keep the same pseudonym.
    if not ours.research_secret and not home.file(KEY_FILE).exists():
        ours = ours.model_copy(update={"research_secret": SecretStr(credentials.research)})
    services: list[Service] = []
    external: list[ServiceStatus] = []

    def settle(service: Store | Broker | Predictor | Mlflow, address: str | None) -> Settings:
        if address:
            external.append(ServiceStatus(service.name, "external", address=address))
            return service.settings
        services.append(cast("Service", service))
        return service.connected()

    own_store = not settings.s3_endpoint
    ours = settle(Store(home, ours, ports, credentials), settings.s3_endpoint)
    ours = settle(Broker(home, ours, ports, credentials, has_own_store=own_store), settings.kafka_bootstrap)
    if own_store:
        services.append(BridgeService(home, ours, ports))
    else:
        note = f"The object store at {settings.s3_endpoint} must send its upload events to Kafka itself."
        external.append(ServiceStatus("bridge", "external", note=note))
    event_key = settings.event_key or SecretStr(credentials.events)
    ours = settle(Predictor(home, ours, ports, event_key), settings.predictor_uri)
    ours = settle(Mlflow(home, ours, ports, credentials), settings.mlflow_uri)
    worklist = WorklistService(home, ours, ports, credentials)
    # Another's predictor has the key only when somebody has given it to both.
    is_plain = bool(settings.predictor_uri) and settings.event_key is None
    services.append(TriggerService(home, worklist.guarded(ours), worklist.events, ports.trigger_metrics, is_plain))
    services.append(worklist)
    wiring = Wiring(home, worklist.guarded(ours), worklist.events)
    services.append(GatewayService(home, ours, ports, credentials))
    ours = worklist.connected(ours)
    if settings.prometheus:
        scraped = ("supervisor", *(service.name for service in services))
        prometheus = Prometheus(home, ours, ports, scraped)
        services.append(prometheus)
        ours = ours.model_copy(update={"prometheus_uri": ours.prometheus_uri or prometheus.address})
    return Assembly(tuple(services), tuple(external), ours, wiring)
