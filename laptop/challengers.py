"""Let another version give second opinions beside the one that serves: start it, look at it, stop it."""

import contextlib
import time

from eventing.kafka import REJUDGE_GROUP, SHADOW_GROUP
from eventing.positions import begin_at_end, retire
from laptop import stack
from laptop.home.challengers import (
    Challenger,
    challengers,
    drop_challenger,
    folder_of,
    keep_challenger,
    predictor_name,
    remove_packages,
)
from laptop.home.lock import is_locked
from laptop.stack import OnChange
from lungline.deployment.laptop import LaptopDeployment
from lungline.errors import StackError, Unavailable
from lungline.home import Home
from lungline.package.expectation import Expectation, write_expectation
from lungline.package.package import Package
from lungline.package.signature import is_signed
from lungline.registry.versions import Registry
from lungline.results.purposes import Purpose
from lungline.results.records import record_version, version_of
from lungline.settings import Settings

START_SECONDS, STOP_SECONDS, POLL_SECONDS = 60.0, 15.0, 0.1


def start(settings: Settings, version: str | None, purpose: Purpose, on_change: OnChange | None = None) -> Challenger:
    """Let a version give second opinions, and wait until it is ready; None means the registry's challenger.

    It goes on after `down` and `up`. Raises StackError when no stack runs, when the version serves already, and when
    another one is at old uploads; RegistryError and PackageError for a version that cannot be used.
    """
    connected = stack.connect(settings)
    home, registry = Home(connected.home), Registry(connected)
    target = registry.resolve(version)
    running = challengers(home).get(purpose)
    if running is None or (running.model, running.version) != (registry.name, target):
        _require_free(running, purpose)
        if purpose == "shadow" and target == LaptopDeployment.from_settings(connected).serving():
            raise StackError(f"Version {target} serves, so its answers are the ones that are shown.")
        running = _begin(home, registry, target, purpose)
        if purpose == "shadow":
            begin_at_end(connected, connected.uploads_topic, SHADOW_GROUP)
        keep_challenger(home, running)
    for name in (predictor_name(purpose), f"{purpose}-trigger"):
        stack.wait(settings, name, START_SECONDS, on_change and _only(name, on_change))
    return running


def stop(settings: Settings, purpose: Purpose) -> Challenger | None:
    """End the second opinions for a purpose; returns whose they were, None when nobody gave any.

    What was given stays. Raises StackError when the services do not end in time.
    """
    home = Home(settings.home.absolute())
    dropped = drop_challenger(home, purpose)
    if dropped and is_locked(home):
        _await_end(settings, dropped)
        with contextlib.suppress(Unavailable):  # the broker then keeps a few batches more
            _leave(stack.connect(settings), purpose)
    remove_packages(home, purpose)
    return dropped


def _leave(connected: Settings, purpose: Purpose) -> None:
    """Let the broker keep nothing for a challenger that has ended."""
    if purpose == "shadow":
        retire(connected, connected.uploads_topic, SHADOW_GROUP)
    else:
        begin_at_end(connected, connected.rejudge_topic, REJUDGE_GROUP)


def _await_end(settings: Settings, challenger: Challenger) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while any(service.name.startswith(f"{challenger.purpose}-") for service in stack.status(settings).services):
        if time.monotonic() > deadline:
            raise StackError(f"The services of version {challenger.version} do not end; `lungline status` shows them.")
        time.sleep(POLL_SECONDS)


def _only(service: str, on_change: OnChange) -> OnChange:
    """What is called for one service alone: the others have been there before."""
    return lambda name, state: on_change(name, state) if name == service else None


def _require_free(running: Challenger | None, purpose: Purpose) -> None:
    if running and purpose == "rejudged":
        raise StackError(
            f"Version {running.version} is at old uploads: let `lungline rejudge --version {running.version}` end, or "
            "give it up with `lungline rejudge --stop`."
        )


def _begin(home: Home, registry: Registry, version: str, purpose: Purpose) -> Challenger:
    """Fetch the package of a version, and let the challenger's link lead to it."""
    folder = folder_of(home, purpose)
    package = registry.fetch(version, folder.package(version))
    registry.signer_of(package)  # raises for another signature than this site's
    expected = Expectation(registry.package_uri(version), package.sha256, signed=is_signed(package.folder))
    write_expectation(folder.champion, version, expected)
    folder.point(version)
    return Challenger.now(purpose, registry.name, version, _recorded(package))


def _recorded(package: Package) -> str:
    card = package.card
    return record_version(card.name, card.task.name, version_of(card, package.sha256))
