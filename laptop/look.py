"""One look at the field, and the training run that the rule may start then: `python -m laptop.look`."""

import logging
import os
import sys
from contextlib import closing
from datetime import timedelta

from laptop.retraining import Cause, labels_cause, retrain
from lungline.errors import LunglineError
from lungline.monitoring import rule, store
from lungline.monitoring.monitor import monitor
from lungline.monitoring.report import page
from lungline.registry import Registry
from lungline.settings import Settings, load_settings
from lungline.storage import Storage

log = logging.getLogger("lungline.look")


def drift_cause(settings: Settings) -> Cause:
    """Whether the latest windows of the champion's field have drifted, by the last look."""
    with closing(Storage.from_settings(settings)) as storage:
        found = store.latest(storage, settings.results_bucket)
        champion = Registry(settings, storage).champion()
    return Cause("drift", *rule.drift(found, champion, settings.retrain.windows))


def causes(settings: Settings) -> list[Cause]:
    """What the rule listens to, due or not."""
    drift = [drift_cause(settings)] if settings.retrain.rule in {"drift", "either"} else []
    return drift + ([labels_cause(settings)] if settings.retrain.rule in {"feedback", "either"} else [])


def look(settings: Settings) -> str:
    """Look at the field, and train again where the rule says so; returns a sentence on what came of it."""
    with closing(Storage.from_settings(settings)) as storage:
        found = monitor(settings, storage)
        store.save(storage, settings.results_bucket, found, page(found))
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


def main() -> int:
    """One look at the field of the settings' stack."""
    os.nice(10)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stdout)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        log.info("%s", look(load_settings()))
    except LunglineError as exc:
        log.error("%s", exc)  # noqa: TRY400 - the sentence says it; a traceback would not add to it
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
