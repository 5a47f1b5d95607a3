"""Single services of the laptop stack, each alone beside what a test runs itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from laptop.home.credentials import claim_credentials
from laptop.home.ports import claim_ports, load_ports
from laptop.services.bridge import BridgeService
from laptop.services.gateway import GatewayService
from laptop.services.mlflow import Mlflow
from laptop.services.predictor import Predictor
from laptop.services.process import running
from laptop.services.trigger import TriggerService
from lungline.home import Home
from lungline.settings import Settings


@contextmanager
def running_bridge(home: Path, settings: Settings) -> Iterator[None]:
    """A bridge alone, between a store in the same home and a broker."""
    made = Home.make(home)
    # The store already runs, so its ports are taken, and must not be chosen anew.
    service = BridgeService(made, settings, load_ports(made) or claim_ports(made))
    with running(service, made.log(service.name)):
        yield


@contextmanager
def running_gateway(home: Path, settings: Settings) -> Iterator[GatewayService]:
    """A gateway alone, before a store in the same home; yields the service."""
    service = GatewayService.of(home, settings)
    with running(service, service.home.log(service.name)):
        yield service


@contextmanager
def running_mlflow(home: Path, settings: Settings) -> Iterator[Settings]:
    """An MLflow server alone; yields the settings completed with its address."""
    made = Home.make(home)
    tracking = Mlflow(made, settings, load_ports(made) or claim_ports(made), claim_credentials(made))
    with running(tracking, made.log(tracking.name), within=180):
        yield tracking.connected()


@contextmanager
def running_predictor(home: Path, settings: Settings) -> Iterator[Settings]:
    """A predictor alone, in the same home as its package; yields the settings completed with its address."""
    made = Home.make(home)
    predictor = Predictor(made, settings, load_ports(made) or claim_ports(made))
    with running(predictor, made.log(predictor.name)):
        yield predictor.connected()


@contextmanager
def running_trigger(home: Path, settings: Settings, worklist: str | None = None) -> Iterator[None]:
    """A trigger alone, between a broker, a predictor and perhaps a worklist."""
    made = Home.make(home)
    service = TriggerService(made, settings, worklist)
    with running(service, made.log(service.name)):
        yield
