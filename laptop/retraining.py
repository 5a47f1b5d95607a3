"""Starts a training run when there is a cause, with all that readers have said so far."""

import logging
import os
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from components.step_events import Event
from lungline import program
from lungline.monitoring import findings, rule
from lungline.monitoring.monitor import monitor
from lungline.monitoring.report import page
from lungline.registry.tracking import name_cause
from lungline.registry.versions import Registry
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from pipelines.run import RunSummary, run_local
from worklist.commands import export_feedback, mark_trained, retrain_check
from worklist.exports.feedback import RetrainCheck

WORKLIST = "worklist"
"""In place of a folder: all that readers have said on the worklist so far."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Something that may ask for a training run: whether it does, and a sentence that says why or why not."""

    name: str
    is_due: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Retrained:
    """Whether a training run was started, why, and what came of it."""

    causes: tuple[Cause, ...]
    labels: int
    summary: RunSummary | None = None

    @property
    def started(self) -> bool:
        """Whether there was a run."""
        return self.summary is not None

    @property
    def why(self) -> str:
        """One sentence a cause: those that started the run, or why none did."""
        return " ".join(one.sentence for one in self.causes if one.is_due or not self.started)

    def value(self) -> dict[str, Any]:
        """For `--json`."""
        summary = self.summary and self.summary.model_dump(mode="json")
        causes = [one.name for one in self.causes if one.is_due]
        return {"started": self.started, "causes": causes, "why": self.why, "labels": self.labels, "run": summary}


def labels_cause(settings: Settings) -> Cause:
    """Whether readers have given enough new labels for a training run. Raises DatabaseUnavailable."""
    check = retrain_check(settings)
    given = f"Readers have given {check.labels} new labels since the last training run"
    if check.is_due:
        return Cause("labels", True, f"{given}; {check.needed} are enough.")
    return Cause("labels", False, f"{given}; {check.needed} start one (worklist.retrain_labels).")


def retrain(
    settings: Settings,
    causes: Iterable[Cause],
    on_event: Callable[[Event], None] = lambda _: None,
    *,
    dry: bool = False,
) -> Retrained:
    """Run the training pipeline if any cause asks for it, and name it in MLflow; a `dry` run only says so.

    The gate holds the model against the champion, and the policy decides who promotes it. Raises what `run_local`
    raises; then the labels count as new again.
    """
    given = tuple(causes)
    check = retrain_check(settings)
    if dry or not any(one.is_due for one in given):
        return Retrained(given, check.labels)
    done = Retrained(given, check.labels, train(settings, on_event))
    # A run whose data have not changed since an earlier one reuses it whole: that one had another cause.
    if done.summary and "train" not in done.summary.reused:
        name_cause(settings, done.summary.mlflow_run, done.why)
    return done


def train(settings: Settings, on_event: Callable[[Event], None], *, reuse: bool = True) -> RunSummary:
    """Run the training pipeline with all that readers have said, and note that it knows that."""
    check = retrain_check(settings)
    summary = run_local(collected(settings, check), on_event, reuse=reuse)
    mark_trained(settings, check)
    return summary


def collected(settings: Settings, check: RetrainCheck) -> Settings:
    """The settings with a folder of all that readers have said, or without where nobody has said anything."""
    if not check.usable:
        return settings.model_copy(update={"feedback": None})
    # The same readings are the same folder: steps that depend on nothing else are reused.
    folder = settings.home.absolute() / "feedback" / f"until-{check.last}"
    if not folder.exists():
        export_feedback(settings, folder)
    return settings.model_copy(update={"feedback": str(folder)})


log = logging.getLogger("lungline.monitoring")


def drift_cause(settings: Settings) -> Cause:
    """Whether the latest windows of the champion's field have drifted, by the last look."""
    with closing(Storage.from_settings(settings)) as storage:
        found = findings.latest(storage, settings.results_bucket)
        champion = Registry(settings, storage).champion()
    return Cause("drift", *rule.drift(found, champion, settings.retrain.windows))


def causes(settings: Settings) -> list[Cause]:
    """What the rule listens to, due or not."""
    drift = [drift_cause(settings)] if settings.retrain.rule in {"drift", "either"} else []
    return drift + ([labels_cause(settings)] if settings.retrain.rule in {"feedback", "either"} else [])


def run_monitoring(settings: Settings) -> str:
    """Look at the field, and train again where the rule says so; returns a sentence on what came of it."""
    with closing(Storage.from_settings(settings)) as storage:
        found = monitor(settings, storage)
        findings.save(storage, settings.results_bucket, found, page(found))
        due = [cause for cause in causes(settings) if cause.is_due]
        if not due:
            return f"Looked at {sum(model.results for model in found.models)} results; nothing asks for a training run."
        why = " ".join(cause.sentence for cause in due)
        cooldown = timedelta(days=settings.retrain.cooldown_days)
        if rule.claim(storage, settings.results_bucket, why, cooldown) is None:
            return f"A run was started by the rule within {settings.retrain.cooldown_days:g} days already. {why}"
    log.info("Starting a training run. %s", why)
    summary = retrain(settings, due).summary
    return summary.next if summary else why


def main(settings: Settings) -> None:
    """One look at the production data of the settings' stack."""
    os.nice(10)
    log.info("%s", run_monitoring(settings))


if __name__ == "__main__":
    program.run("monitoring", main)
