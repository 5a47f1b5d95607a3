"""What the parts' own figures, which Prometheus reads too, say of a running stack: from the model down to the disk.

The thresholds are those of the alerts; but this is one look, so nothing has to last.
"""

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from laptop.check import Check
from laptop.exposition import targets
from laptop.home import Home
from laptop.ports import load_ports
from laptop.status import StackStatus

TIMEOUT_SECONDS = 2.0
PILED_UP = 500
FREE_DISK = 0.1


@dataclass(frozen=True, slots=True)
class Figures:
    """All samples of all parts that answered."""

    samples: tuple[tuple[str, dict[str, str], float], ...]

    def total(self, name: str, **labels: str) -> float | None:
        """The sum of a metric's samples that have these labels; None when there is none."""
        found = [value for one, has, value in self.samples if one == name and labels.items() <= has.items()]
        return sum(found) if found else None

    def label(self, name: str, label: str) -> str | None:
        """A label of the first sample of a metric."""
        return next((has[label] for one, has, _ in self.samples if one == name and label in has), None)


def look(status: StackStatus) -> list[Check]:
    """What a person should know, the worst for X-rays first; empty when no stack runs."""
    ports = load_ports(Home(status.home))
    if not status.running or ports is None:
        return []
    return list(_checks(status, read(list(targets(ports).values()))))


def read(addresses: list[str]) -> Figures:
    """The figures at some addresses; a part that does not answer has none."""
    with ThreadPoolExecutor(len(addresses)) as pool:
        texts = list(pool.map(_text, addresses))
    from prometheus_client.parser import text_string_to_metric_families

    families = (family for text in texts for family in text_string_to_metric_families(text))
    return Figures(
        tuple((sample.name, dict(sample.labels), sample.value) for family in families for sample in family.samples)
    )


def _text(address: str) -> str:
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=TIMEOUT_SECONDS) as answer:
            return answer.read().decode()
    except (OSError, urllib.error.URLError):
        return ""


def _checks(status: StackStatus, figures: Figures) -> Iterator[Check]:
    yield _model(status, figures)
    yield _waiting(status, figures)
    yield _dead_letters(figures)
    yield from _people(figures)
    yield from _drift(figures)
    yield from _room(figures)


def _model(status: StackStatus, figures: Figures) -> Check:
    version = figures.label("lungline_model_info", "version")
    log = status.home / "logs/predictor.log"
    if figures.total("lungline_model_refused"):
        serving = f"version {version} goes on" if version else "none serves"
        return Check("model", False, f"the promoted package is refused; {serving}", f"lungline rollback; see {log}")
    if version is None:
        return Check("model", False, "none serves", "lungline train, or lungline promote")
    return Check("model", True, f"version {version} serves")


def _waiting(status: StackStatus, figures: Figures) -> Check:
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


def _dead_letters(figures: Figures) -> Check:
    buried = figures.total("lungline_dead_letters_total", route="predictor") or 0.0
    refused = figures.total("lungline_results_total", outcome="refused") or 0.0
    text = f"{buried:.0f} since the trigger started, {refused:.0f} images refused since the predictor started"
    return Check("dead letters", buried <= refused, text, "Read the predictor's log, then lungline replay.")


def _people(figures: Figures) -> Iterator[Check]:
    unread = figures.total("lungline_unread_results")
    if unread is None:
        return
    behind = figures.total("lungline_consumer_lag_records", group="lungline-worklist") or 0.0
    yield Check("worklist", behind <= PILED_UP, f"{unread:.0f} unread, {behind:.0f} on their way", "Wait.")
    troubled = figures.total("lungline_notices_troubled") or 0.0
    waiting = figures.total("lungline_notices_unacknowledged") or 0.0
    text = f"{waiting:.0f} unanswered, {troubled:.0f} could not be sent"
    yield Check("notices", troubled == 0, text, "The worklist's notices page names rule and error.")


def _drift(figures: Figures) -> Iterator[Check]:
    looked = figures.total("lungline_monitor_timestamp_seconds")
    if looked:
        moved = bool(figures.total("lungline_drift_alarm"))
        text = f"{'the field has moved' if moved else 'none'}, looked {_ago(time.time() - looked)} ago"
        yield Check("drift", not moved, text, "lungline monitor shows what has moved.")


def _room(figures: Figures) -> Iterator[Check]:
    free, size = figures.total("lungline_disk_free_bytes"), figures.total("lungline_disk_size_bytes")
    if free is not None and size:
        text = f"{free / 2**30:.0f} GB of {size / 2**30:.0f} free"
        yield Check("room", free / size >= FREE_DISK, text, "Make room: uploads are refused when it is full.")


def _ago(seconds: float) -> str:
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"
