"""When a training run starts by itself; that one does, and knows what readers said, is a test of the pipeline."""

import json
from pathlib import Path

from laptop.retraining import Cause, collected, labels_cause, retrain
from tests.support.worklist_site import Site, home, record, running_site
from worklist.commands import retrain_check


def say(site: Site, number: int, verdict: str) -> None:
    result = record(number)
    site.send(result)
    with site.client() as client:
        site.submit_reading(client, result.upload.identity, verdict)


def test_without_a_cause_no_run_starts_and_it_says_why(tmp_path: Path) -> None:
    settings = home(tmp_path, retrain_labels=2)
    with running_site(settings) as site:
        say(site, 1, "Normal")
        say(site, 2, "Not usable")  # teaches nothing
    cause = labels_cause(settings)
    assert cause.sentence == (
        "Readers have given 1 new labels since the last training run; 2 start one (worklist.retrain_labels)."
    )
    done = retrain(settings, [cause])
    assert (done.started, done.why) == (False, cause.sentence)
    said = {"started": False, "causes": [], "why": cause.sentence, "labels": 1, "run": None}
    assert json.loads(json.dumps(done.value())) == said


def test_a_dry_run_says_what_would_start_and_starts_nothing(tmp_path: Path) -> None:
    settings = home(tmp_path, retrain_labels=1)
    with running_site(settings) as site:
        say(site, 1, "Normal")
    causes = [Cause("drift", False, "There is no drift."), labels_cause(settings)]
    done = retrain(settings, causes, dry=True)
    assert not done.started
    assert done.value()["causes"] == ["labels"]
    assert retrain_check(settings).labels == 1


def test_a_run_for_another_cause_needs_no_reader(tmp_path: Path) -> None:
    empty = home(tmp_path)
    assert collected(empty, retrain_check(empty)).feedback is None
