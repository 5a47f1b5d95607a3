"""Monitors production data, and starts a training run, with all labels of readers, when there is a cause."""

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
from lungline.results.records import record_version
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from lungline.task.reading import load_task
from lungline.wording import count
from pipelines.run import RunSummary, run_local
from worklist.commands import export_feedback, mark_trained, retrain_check
from worklist.exports.feedback import RetrainCheck

WORKLIST = "worklist"
"""As the setting `feedback`: all labels of readers on the worklist so far."""


@dataclass(frozen=True, slots=True)
class Cause:
    """A possible cause for a training run: whether it is one now, and a sentence that says why or why not."""

    name: str
    is_due: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Retrained:
    """Whether a training run was started, why, and its result."""

    causes: tuple[Cause, ...]
    labels: int
    summary: RunSummary | None = None

    @property
    def started(self) -> bool:
        """Whether there was a run."""
        return self.summary is not None

    @property
    def why(self) -> str:
        """One sentence for each cause that started the run, or for each that did not."""
        return " ".join(cause.sentence for cause in self.causes if cause.is_due or not self.started)

    def value(self) -> dict[str, Any]:
        """For `--json`."""
        summary = self.summary and self.summary.model_dump(mode="json")
        causes = [cause.name for cause in self.causes if cause.is_due]
        return {"started": self.started, "causes": causes, "why": self.why, "labels": self.labels, "run": summary}


def labels_cause(settings: Settings) -> Cause:
    """Whether readers have given enough new labels for a training run. Raises DatabaseUnavailable."""
    check = retrain_check(settings)
    given = f"Readers have given {count(check.labels, 'new label')} since the last training run"
    return Cause("labels", check.is_due, f"{given}; a run starts from {check.needed} on (worklist.retrain_labels).")


def retrain(
    settings: Settings,
    causes: Iterable[Cause],
    on_event: Callable[[Event], None] = lambda _: None,
    *,
    dry: bool = False,
) -> Retrained:
    """Run the training pipeline if any cause is due, and note the cause in MLflow; a `dry` run only reports.

    The gate compares the model with the champion, and the policy decides who promotes it. Raises what `run_local`
    raises; then the labels count as new again.
    """
    considered = tuple(causes)
    check = retrain_check(settings)
    if dry or not any(cause.is_due for cause in considered):
        return Retrained(considered, check.labels)
    report = Retrained(considered, check.labels, _train(settings, check, on_event))
    # With the data of an earlier run, the pipeline reuses that run, which had another cause.
    if report.summary and "train" not in report.summary.reused:
        name_cause(settings, report.summary.mlflow_run, report.why)
    return report


def train(settings: Settings, on_event: Callable[[Event], None], *, reuse: bool = True) -> RunSummary:
    """Run the training pipeline with all labels of readers, which then are no longer new."""
    return _train(settings, retrain_check(settings), on_event, reuse=reuse)


def _train(
    settings: Settings, check: RetrainCheck, on_event: Callable[[Event], None], *, reuse: bool = True
) -> RunSummary:
    summary = run_local(collected(settings, check), on_event, reuse=reuse)
    mark_trained(settings, check)
    return summary


def collected(settings: Settings, check: RetrainCheck) -> Settings:
    """The settings with a folder of all labels of readers; without one where there are none."""
    if not check.usable:
        return settings.model_copy(update={"feedback": None})
    # The same readings give the same folder, so that pipeline steps are reused.
    folder = settings.home.absolute() / "feedback" / f"until-{check.last}"
    if not folder.exists():
        export_feedback(settings, folder)
    return settings.model_copy(update={"feedback": str(folder)})


log = logging.getLogger("lungline.monitoring")


def drift_cause(settings: Settings) -> Cause:
    """Whether the champion's latest windows have drifted, by the last monitoring run."""
    with closing(Storage.from_settings(settings)) as storage:
        return _drift_cause(settings, storage)


def _drift_cause(settings: Settings, storage: Storage) -> Cause:
    latest = findings.latest(storage, settings.results_bucket)
    champion = Registry(settings, storage).champion()
    if champion:
        champion = record_version(settings.model_name, load_task(settings.task).name, champion)
    return Cause("drift", *rule.drift(latest, champion, settings.retrain.windows))


def _causes(settings: Settings, storage: Storage) -> list[Cause]:
    """The causes that `retrain.rule` names, due or not."""
    drift = [_drift_cause(settings, storage)] if settings.retrain.rule in {"drift", "either"} else []
    return drift + ([labels_cause(settings)] if settings.retrain.rule in {"feedback", "either"} else [])


def run_monitoring(settings: Settings) -> str:
    """Check production data for drift, and train again where `retrain.rule` says so; returns a sentence."""
    with closing(Storage.from_settings(settings)) as storage:
        results = monitor(settings, storage)
        findings.save(storage, settings.results_bucket, results, page(results))
        due = [cause for cause in _causes(settings, storage) if cause.is_due]
        if not due:
            checked = count(sum(model.results for model in results.models), "result")
            return f"Checked {checked}; there is no cause for a training run."
        why = " ".join(cause.sentence for cause in due)
        cooldown = timedelta(days=settings.retrain.cooldown_days)
        if rule.claim(storage, settings.results_bucket, why, cooldown) is None:
            return f"The last run that the rule started is less than {settings.retrain.cooldown_days:g} days old. {why}"
    log.info("Starting a training run. %s", why)
    summary = retrain(settings, due).summary
    return summary.next if summary else why


def main(settings: Settings) -> None:
    """Check the production data of the settings' stack once."""
    os.nice(10)
    log.info("%s", run_monitoring(settings))


if __name__ == "__main__":
    program.run("monitoring", main)
