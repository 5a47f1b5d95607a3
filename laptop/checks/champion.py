"""Whether the champion serves, and whether registry, promotion history and predictor agree on it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from laptop import stack
from laptop.supervision.status import StackStatus
from lungline.errors import LunglineError
from lungline.health_check import Check
from lungline.home import Home
from lungline.settings import Settings
from lungline.task.overrides import task_option
from lungline.wording import count

if TYPE_CHECKING:
    from lungline.registry.history import Facts


def check_champions(settings: Settings, status: StackStatus) -> Iterator[Check]:
    """Whether the predictor serves the champion of each model, and as the promotion history says."""
    if not status.running:
        return
    from lungline.deployment.laptop import served_models

    served = served_models(Home(status.home)) or [settings.model_name]
    for model in served:
        named = {} if model == settings.model_name else {"model_name": model, "task": model}
        checks = _check_champion(settings.model_copy(update=named))
        # A stack of several says of which each check is.
        yield from checks if len(served) == 1 else (replace(each, name=f"{model}: {each.name}") for each in checks)


def _check_champion(settings: Settings) -> Iterator[Check]:
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
        cure = f"lungline promote {champion}{task_option(settings)} --by NAME --reason TEXT"
        yield Check("champion", champion == serving, finding, cure)
        yield from _history(connected, champion, cure)


def _history(connected: Settings, champion: str, cure: str) -> Iterator[Check]:
    """The promotion history, and what serves compared with what it says of the champion."""
    from lungline.deployment.laptop import LaptopDeployment
    from lungline.promotion.anchored_history import examined

    place = LaptopDeployment.from_settings(connected)
    try:
        history = examined(connected, place)
    except LunglineError as exc:
        yield Check("history", False, str(exc), "docs/operations.md says what a damaged history means and what to do.")
        return
    finding = (
        " ".join((*history.lost, *history.notices)) or f"{count(len(history.entries), 'entry', 'entries')} verified"
    )
    accept = f"lungline history --accept{task_option(connected)} --by NAME --reason TEXT"
    yield Check("history", not history.lost, finding, accept)
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


def check_registry(settings: Settings, status: StackStatus) -> list[Check]:
    """MLflow compared with the history, once it is ready; while it starts, the check of the service says so."""
    if not status.running or status.service("mlflow").state not in {"ready", "external"}:
        return []
    from lungline.registry import checks
    from lungline.registry.versions import Registry

    try:
        return list(checks.check_registry(Registry(stack.connect(settings))))
    except LunglineError as exc:
        return [Check("mlflow alias", False, str(exc), "Repair the services above first.")]
