"""The checks of `lungline doctor` and `lungline status`: the machine, the stack, the champion, the metrics."""

import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from laptop import stack
from laptop.home.disk import existing
from laptop.home.ports import load_ports, targets
from laptop.supervision.status import ServiceStatus, StackStatus
from lungline.errors import LunglineError
from lungline.health_check import Check
from lungline.home import Home, read_json
from lungline.network import open_url
from lungline.settings import Settings
from lungline.storage.contents import contents_file, loss_of
from lungline.wording import ago, count

if TYPE_CHECKING:
    from lungline.registry.history import Facts

FREE_DISK_GB, MEMORY_GB = 5, 4
# A service that starts for longer than this has failed.
START_SECONDS = 180.0
TIMEOUT_SECONDS = 2.0
BACKLOG = 500
FREE_DISK = 0.1


def examine(settings: Settings) -> list[Check]:
    """Make all checks, also after one has failed."""
    status = stack.status(settings)
    machine = [_python(), _memory(), _disk(settings.home), _data(settings)]
    model = [*_champion(settings, status), *_registry(settings, status)]
    return [
        *machine,
        *check_services(status),
        *_kafka_login(status),
        *_store_ports(status),
        *model,
        *check_metrics(status),
    ]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", (3, 11) <= sys.version_info < (3, 14), version, "Use Python 3.11, 3.12 or 3.13.")


def _memory() -> Check:
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Check("memory", gigabytes >= MEMORY_GB, f"{gigabytes:.0f} GB", f"Training needs {MEMORY_GB} GB.")


def _disk(home: Path) -> Check:
    free = shutil.disk_usage(existing(home)).free / 2**30
    return Check("disk", free >= FREE_DISK_GB, f"{free:.0f} GB free", f"Free some: {FREE_DISK_GB} GB are needed.")


def _data(settings: Settings) -> Check:
    from lungline.datasets.opening import open_dataset

    if settings.data == "auto":
        return Check("data", True, "auto: a cached or new download, else drawn phantoms")
    try:
        dataset = open_dataset(settings.data, settings=settings)
    except LunglineError as exc:
        return Check("data", False, str(exc), "Set LUNGLINE_DATA to X-rays in the layout of data/README.md.")
    notice = f". {dataset.notice}" if dataset.notice else ""
    return Check("data", True, f"{count(len(dataset.examples), 'image')} of {dataset.name}{notice}")


def check_services(status: StackStatus) -> Iterator[Check]:
    """Whether every service runs; one that has just been started has not failed."""
    if not status.running:
        yield Check("stack", False, "not running", "lungline up")
        return
    for service in status.services:
        state = service.state + (f", {count(service.restarts, 'restart')}" if service.restarts else "")
        if service.state == "starting" and _age(service) < START_SECONDS:
            yield Check(service.name, True, f"{state} since {ago(timedelta(seconds=_age(service)))}")
            continue
        log = status.home / "logs" / f"{service.name}.log"
        yield Check(service.name, service.state in stack.SETTLED, state, service.note or f"Read {log}.")


def _kafka_login(status: StackStatus) -> Iterator[Check]:
    """Whether other users of this machine can reach the broker past its login."""
    report = read_json(status.home / "run/kafka_gate.json")
    if not isinstance(report, dict) or status.service("broker").state in {"external", "stopped"}:
        return
    gate = cast("dict[str, Any]", report)
    text = "clients log in; the broker itself is out of reach"
    if not gate.get("private"):
        text = "clients log in, but this system allows the broker no network of its own: every user of this machine"
        text += f" can reach its port {gate.get('port')}"
    yield Check("kafka login", True, text)


def _store_ports(status: StackStatus) -> Iterator[Check]:
    """Whether other users of this machine can reach the ports of the store's master and volume servers."""
    report = read_json(status.home / "run/store_gate.json")
    if not isinstance(report, dict) or status.service("store").state in {"external", "stopped"}:
        return
    text = "only S3 and the filer's gRPC port can be reached; they ask for keys and a certificate"
    if not cast("dict[str, Any]", report).get("private"):
        text = "this system allows the store no network of its own: every user of this machine can reach its ports,"
        text += " which ask for keys or a certificate"
    yield Check("store ports", True, text)


def _age(service: ServiceStatus) -> float:
    """Seconds since the last start of a service; infinite when it was not noted."""
    return time.time() - service.started if service.started else math.inf


def _champion(settings: Settings, status: StackStatus) -> Iterator[Check]:
    if not status.running:
        return
    from lungline.deployment.laptop import LaptopDeployment
    from lungline.registry.versions import Registry

    try:
        connected = stack.connect(settings)
        champion = Registry(connected).champion()
        serving = LaptopDeployment.from_settings(connected).serving()
    except LunglineError as exc:
        yield Check("champion", False, str(exc), "Repair the services above first.")
        return
    if champion is None:
        yield Check("champion", False, "none yet", "lungline train")
    else:
        finding = f"version {champion}; the predictor serves {serving or 'nothing'}"
        cure = f"lungline promote {champion} --by NAME --reason TEXT"
        yield Check("champion", champion == serving, finding, cure)
        yield from _history(connected, champion, cure)


def _history(connected: Settings, champion: str, cure: str) -> Iterator[Check]:
    """The promotion history, and what serves compared with what it says of the champion."""
    from lungline.deployment.laptop import LaptopDeployment
    from lungline.promotion.promotion import examined

    place = LaptopDeployment.from_settings(connected)
    try:
        history = examined(connected, place)
    except LunglineError as exc:
        yield Check("history", False, str(exc), "docs/operations.md says what a damaged history means and what to do.")
        return
    finding = (
        " ".join((*history.lost, *history.notices)) or f"{count(len(history.entries), 'entry', 'entries')} verified"
    )
    yield Check("history", not history.lost, finding, "lungline history --accept --by NAME --reason TEXT")
    (*_, promoted) = (entry for entry in history.entries if entry.act == "promoted" and entry.version == champion)
    yield _package(promoted.facts, place.loaded_sha256(), cure)


def _package(facts: "Facts", loaded: str | None, cure: str) -> Check:
    if loaded is not None and loaded != facts.package:
        finding = f"the predictor serves the digest {loaded[:12]}…, the history says {facts.package[:12]}…"
        return Check("package", False, finding, cure)
    if facts.signed_by is None:
        return Check("package", False, "not signed: it was promoted by an earlier release", cure)
    remarks = [f"digest {facts.package[:12]}…, signed"]
    if facts.without_gate:
        remarks.append(f"without the gate: {facts.without_gate}")
    elif facts.gate and facts.gate.lowered:
        remarks.append(f"with lowered limits of the gate: {', '.join(facts.gate.lowered)}")
    return Check("package", True, "; ".join(remarks))


def _registry(settings: Settings, status: StackStatus) -> list[Check]:
    """MLflow compared with the history, once it is ready; while it starts, the check of the service says so."""
    if not status.running or status.service("mlflow").state not in {"ready", "external"}:
        return []
    from lungline.registry.checks import check_registry
    from lungline.registry.versions import Registry

    try:
        return list(check_registry(Registry(stack.connect(settings))))
    except LunglineError as exc:
        return [Check("mlflow alias", False, str(exc), "Repair the services above first.")]


@dataclass(frozen=True, slots=True)
class StackMetrics:
    """The samples of all services that answered."""

    samples: tuple[tuple[str, dict[str, str], float], ...]

    def total(self, name: str, **labels: str) -> float | None:
        """The sum of a metric's samples that have these labels; None when there is none."""
        values = [value for sample, has, value in self.samples if sample == name and labels.items() <= has.items()]
        return sum(values) if values else None

    def label(self, name: str, label: str) -> str | None:
        """A label of the first sample of a metric."""
        return next((has[label] for sample, has, _ in self.samples if sample == name and label in has), None)


def check_metrics(status: StackStatus) -> list[Check]:
    """Checks of the stack's metrics, the worst for X-rays first; empty when no stack runs."""
    ports = load_ports(Home(status.home))
    if not status.running or ports is None:
        return []
    return list(_checks(status, read(list(targets(ports).values()))))


def read(addresses: list[str]) -> StackMetrics:
    """The metrics at some addresses; a service that does not answer has none."""
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


def _checks(status: StackStatus, metrics: StackMetrics) -> Iterator[Check]:
    yield from _contents(status, metrics)
    if status.silence:
        finding = f"The supervisor has written nothing for {status.silence:.0f} s: the states above are as old"
        yield Check("supervisor", False, finding, "`lungline down` ends it, `lungline up` starts the stack again.")
    yield _model(status, metrics)
    yield _backlog(status, metrics)
    yield _dead_letters(metrics)
    yield from _worklist(metrics)
    yield from _drift(metrics)
    yield from _disk_space(metrics)


def _contents(status: StackStatus, metrics: StackMetrics) -> Iterator[Check]:
    """Whether the store has what this home gave it, and what the list shows."""
    data, file = status.home / "store" / "data", contents_file(status.home)
    is_ours = status.service("store").state != "external"
    if is_ours and (loss := loss_of(status.home)):
        yield Check("store data", False, loss, f"Restore {data} from a backup; or remove {file} to do without.")
    results = round(metrics.total("lungline_store_missing_results") or 0)
    images = round(metrics.total("lungline_store_missing_images") or 0)
    lacks = [count(number, word) for number, word in ((results, "result"), (images, "newest X-ray")) if number]
    if lacks:
        cure = f"Restore {data} from a backup; or `lungline worklist rebuild --store` puts back the results."
        yield Check("list", False, f"the store lacks {' and '.join(lacks)} of the list", cure)


def _model(status: StackStatus, metrics: StackMetrics) -> Check:
    version = metrics.label("lungline_model_info", "version")
    log = status.home / "logs/predictor.log"
    if metrics.total("lungline_model_refused"):
        serving = f"version {version} still serves" if version else "none serves"
        return Check("model", False, f"the promoted package is refused; {serving}", f"lungline rollback; see {log}.")
    if version is None:
        return Check("model", False, "none serves", "lungline train, or lungline promote")
    return Check("model", True, f"version {version} serves")


def _backlog(status: StackStatus, metrics: StackMetrics) -> Check:
    waiting = metrics.total("lungline_consumer_lag_records", group="lungline-trigger")
    ready = bool(metrics.total("lungline_receiver_ready", route="predictor"))
    if waiting is None:
        return Check("uploads", False, "the trigger does not answer", f"Read {status.home / 'logs/trigger.log'}.")
    last = metrics.total("lungline_last_result_timestamp_seconds")
    latest = f"last result {_ago(last)}" if last else "no result since the predictor started"
    text = f"{waiting:.0f} waiting for a prediction, {latest}"
    if not ready:
        return Check("uploads", False, text, "The predictor is not ready; once it is, they continue by themselves.")
    return Check("uploads", waiting <= BACKLOG, text, "Uploads arrive faster than they are predicted: wait.")


def _dead_letters(metrics: StackMetrics) -> Check:
    letters = metrics.total("lungline_dead_letters_total", route="predictor") or 0.0
    refused = metrics.total("lungline_results_total", outcome="refused") or 0.0
    images = count(round(refused), "refused image")
    text = f"{letters:.0f} since the trigger started, {images} since the predictor started"
    return Check("dead letters", letters <= refused, text, "Read the predictor's log, then lungline replay.")


def _worklist(metrics: StackMetrics) -> Iterator[Check]:
    unread = metrics.total("lungline_unread_results")
    if unread is None:
        return
    behind = metrics.total("lungline_consumer_lag_records", group="lungline-worklist") or 0.0
    yield Check("worklist", behind <= BACKLOG, f"{unread:.0f} unread, {behind:.0f} on their way", "Wait.")
    failed = metrics.total("lungline_notices_troubled") or 0.0
    waiting = metrics.total("lungline_notices_unacknowledged") or 0.0
    text = f"{waiting:.0f} unacknowledged, {failed:.0f} could not be sent"
    yield Check("notices", failed == 0, text, "The worklist's notices page shows the rule and the error.")
    outgoing = metrics.total("lungline_result_deliveries")
    if outgoing is not None:
        failed = metrics.total("lungline_result_deliveries", state="failed") or 0.0
        text = f"{outgoing - failed:.0f} waiting, {failed:.0f} failed"
        yield Check("deliveries", failed == 0, text, "lungline worklist deliveries names destination and reason.")


def _drift(metrics: StackMetrics) -> Iterator[Check]:
    checked = metrics.total("lungline_monitor_timestamp_seconds")
    if checked:
        drift = bool(metrics.total("lungline_drift_alarm"))
        text = f"{'drift detected' if drift else 'none'}, checked {_ago(checked)}"
        yield Check("drift", not drift, text, "lungline monitor shows what has changed.")


def _disk_space(metrics: StackMetrics) -> Iterator[Check]:
    free, size = metrics.total("lungline_disk_free_bytes"), metrics.total("lungline_disk_size_bytes")
    if free is not None and size:
        text = f"{free / 2**30:.0f} GB of {size / 2**30:.0f} free"
        yield Check("room", free / size >= FREE_DISK, text, "Free some: uploads fail when the disk is full.")


def _ago(timestamp: float) -> str:
    return f"{ago(timedelta(seconds=time.time() - timestamp))} ago"
