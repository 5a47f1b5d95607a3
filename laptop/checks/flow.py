"""Whether X-rays flow, by the metrics: the store's contents, model, backlog, dead letters, worklist, drift, disk."""

import time
from collections.abc import Iterator
from datetime import timedelta

from laptop.checks.stack_metrics import StackMetrics, read
from laptop.home.disk import disk_fault
from laptop.home.ports import load_ports, targets
from laptop.supervision.status import StackStatus
from lungline.health_check import Check
from lungline.home import Home
from lungline.storage.contents import contents_file, loss_of
from lungline.wording import ago, count

BACKLOG = 500
FREE_DISK = 0.1


def check_flow(status: StackStatus) -> list[Check]:
    """Checks of the stack's metrics, the worst for X-rays first; empty when no stack runs."""
    ports = load_ports(Home(status.home))
    if not status.running or ports is None:
        return []
    return list(_checks(status, read(list(targets(ports).values()))))


def _checks(status: StackStatus, metrics: StackMetrics) -> Iterator[Check]:
    if fault := disk_fault(status.home):
        cure = "Free some space there; everything goes on by itself, and nothing that was acknowledged is lost."
        finding = f"{fault.rpartition('. Free some')[0]}: uploads fail, and the states above may be old"
        yield Check("disk", False, finding, cure)
    yield from _contents(status, metrics)
    if status.silence and not fault:
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
