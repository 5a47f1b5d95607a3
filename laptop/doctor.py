"""What `lungline doctor` looks at: the machine, the stack, the champion. Each fault comes with its cure."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from laptop import stack
from laptop.home.ports import load_ports, targets
from laptop.supervision.status import StackStatus
from lungline.errors import DataError, LunglineError
from lungline.health_check import Check
from lungline.home import Home
from lungline.network import open_url
from lungline.settings import Settings

FREE_DISK_GB, MEMORY_GB = 5, 4


def examine(settings: Settings) -> list[Check]:
    """Look at everything, also after a fault."""
    found = stack.status(settings)
    machine = [_python(), _memory(), _disk(settings.home), _data(settings)]
    return [*machine, *_services(found), *_champion(settings, found), *check_metrics(found)]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", (3, 11) <= sys.version_info < (3, 14), version, "Use Python 3.11, 3.12 or 3.13.")


def _memory() -> Check:
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Check("memory", gigabytes >= MEMORY_GB, f"{gigabytes:.0f} GB", f"Training wants {MEMORY_GB} GB.")


def _disk(home: Path) -> Check:
    there = next(folder for folder in (home.absolute(), *home.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free / 2**30
    return Check("disk", free >= FREE_DISK_GB, f"{free:.0f} GB free", f"Free some: {FREE_DISK_GB} GB are wanted.")


def _data(settings: Settings) -> Check:
    from lungline.datasets.opening import open_dataset

    if settings.data == "auto":
        return Check("data", True, "auto: a cached or fresh download, else drawn phantoms")
    try:
        dataset = open_dataset(settings.data, settings=settings)
    except DataError as exc:
        return Check("data", False, str(exc), "Set LUNGLINE_DATA to X-rays in the layout that data/README.md shows.")
    notice = f". {dataset.notice}" if dataset.notice else ""
    return Check("data", True, f"{len(dataset.examples)} images of {dataset.name}{notice}")


def _services(found: StackStatus) -> Iterator[Check]:
    if not found.running:
        yield Check("stack", False, "not running", "lungline up")
        return
    for service in found.services:
        state = service.state + (f", restarted {service.restarts} times" if service.restarts else "")
        log = found.home / "logs" / f"{service.name}.log"
        yield Check(service.name, service.state in stack.SETTLED, state, service.note or f"Read {log}.")


def _champion(settings: Settings, found: StackStatus) -> Iterator[Check]:
    if not found.running:
        return
    from lungline.deployment.laptop import LaptopDeployment
    from lungline.registry.versions import Registry

    try:
        connected = stack.connect(settings)
        champion = Registry(connected).champion()
        serving = LaptopDeployment.from_settings(connected).serving()
    except LunglineError as exc:
        yield Check("champion", False, str(exc), "Mend the services above first.")
        return
    if champion is None:
        yield Check("champion", False, "none yet", "lungline train")
    else:
        finding = f"version {champion}; the predictor serves {serving or 'nothing'}"
        cure = f"lungline promote {champion} --by NAME --reason TEXT"
        yield Check("champion", champion == serving, finding, cure)


TIMEOUT_SECONDS = 2.0
PILED_UP = 500
FREE_DISK = 0.1


@dataclass(frozen=True, slots=True)
class StackMetrics:
    """All samples of all services that answered."""

    samples: tuple[tuple[str, dict[str, str], float], ...]

    def total(self, name: str, **labels: str) -> float | None:
        """The sum of a metric's samples that have these labels; None when there is none."""
        found = [value for one, has, value in self.samples if one == name and labels.items() <= has.items()]
        return sum(found) if found else None

    def label(self, name: str, label: str) -> str | None:
        """A label of the first sample of a metric."""
        return next((has[label] for one, has, _ in self.samples if one == name and label in has), None)


def check_metrics(status: StackStatus) -> list[Check]:
    """What a person should know, the worst for X-rays first; empty when no stack runs."""
    ports = load_ports(Home(status.home))
    if not status.running or ports is None:
        return []
    return list(_checks(status, read(list(targets(ports).values()))))


def read(addresses: list[str]) -> StackMetrics:
    """The figures at some addresses; a service that does not answer has none."""
    with ThreadPoolExecutor(len(addresses)) as pool:
        texts = list(pool.map(_text, addresses))
    from prometheus_client.parser import text_string_to_metric_families

    families = (family for text in texts for family in text_string_to_metric_families(text))
    return StackMetrics(
        tuple((sample.name, dict(sample.labels), sample.value) for family in families for sample in family.samples)
    )


def _text(address: str) -> str:
    try:
        with open_url(f"http://{address}/metrics", timeout=TIMEOUT_SECONDS) as response:
            return response.read().decode()
    except OSError:
        return ""


def _checks(status: StackStatus, figures: StackMetrics) -> Iterator[Check]:
    yield _model(status, figures)
    yield _waiting(status, figures)
    yield _dead_letters(figures)
    yield from _people(figures)
    yield from _drift(figures)
    yield from _room(figures)


def _model(status: StackStatus, figures: StackMetrics) -> Check:
    version = figures.label("lungline_model_info", "version")
    log = status.home / "logs/predictor.log"
    if figures.total("lungline_model_refused"):
        serving = f"version {version} goes on" if version else "none serves"
        return Check("model", False, f"the promoted package is refused; {serving}", f"lungline rollback; see {log}")
    if version is None:
        return Check("model", False, "none serves", "lungline train, or lungline promote")
    return Check("model", True, f"version {version} serves")


def _waiting(status: StackStatus, figures: StackMetrics) -> Check:
    waiting = figures.total("lungline_consumer_lag_records", group="lungline-trigger")
    ready = bool(figures.total("lungline_receiver_ready", route="predictor"))
    if waiting is None:
        return Check("uploads", False, "the trigger does not answer", f"Read {status.home / 'logs/trigger.log'}.")
    last = figures.total("lungline_last_result_timestamp_seconds")
    ago = f"the last result {_ago(time.time() - last)} ago" if last else "no result since the predictor started"
    text = f"{waiting:.0f} wait to be judged, {ago}"
    if not ready:
        return Check("uploads", False, text, "The predictor takes none: mend it, and they go on by themselves.")
    return Check("uploads", waiting <= PILED_UP, text, "More come than are judged: wait.")


def _dead_letters(figures: StackMetrics) -> Check:
    buried = figures.total("lungline_dead_letters_total", route="predictor") or 0.0
    refused = figures.total("lungline_results_total", outcome="refused") or 0.0
    text = f"{buried:.0f} since the trigger started, {refused:.0f} images refused since the predictor started"
    return Check("dead letters", buried <= refused, text, "Read the predictor's log, then lungline replay.")


def _people(figures: StackMetrics) -> Iterator[Check]:
    unread = figures.total("lungline_unread_results")
    if unread is None:
        return
    behind = figures.total("lungline_consumer_lag_records", group="lungline-worklist") or 0.0
    yield Check("worklist", behind <= PILED_UP, f"{unread:.0f} unread, {behind:.0f} on their way", "Wait.")
    troubled = figures.total("lungline_notices_troubled") or 0.0
    waiting = figures.total("lungline_notices_unacknowledged") or 0.0
    text = f"{waiting:.0f} unanswered, {troubled:.0f} could not be sent"
    yield Check("notices", troubled == 0, text, "The worklist's notices page names rule and error.")


def _drift(figures: StackMetrics) -> Iterator[Check]:
    looked = figures.total("lungline_monitor_timestamp_seconds")
    if looked:
        moved = bool(figures.total("lungline_drift_alarm"))
        text = f"{'the field has moved' if moved else 'none'}, looked {_ago(time.time() - looked)} ago"
        yield Check("drift", not moved, text, "lungline monitor shows what has moved.")


def _room(figures: StackMetrics) -> Iterator[Check]:
    free, size = figures.total("lungline_disk_free_bytes"), figures.total("lungline_disk_size_bytes")
    if free is not None and size:
        text = f"{free / 2**30:.0f} GB of {size / 2**30:.0f} free"
        yield Check("room", free / size >= FREE_DISK, text, "Make room: uploads are refused when it is full.")


def _ago(seconds: float) -> str:
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"
