"""What starts a training run by itself; test_pipeline.py tests such a run."""

import json
from pathlib import Path

from laptop.retraining import Cause, collected, labels_cause, retrain
from tests.support.worklist_site import Site, home, record, running_site
from worklist.commands import retrain_check


def read(site: Site, number: int, verdict: str) -> None:
    result = record(number)
    site.send(result)
    with site.client() as client:
        site.submit_reading(client, result.upload.identity, verdict)


def test_without_a_cause_no_run_starts(tmp_path: Path) -> None:
    settings = home(tmp_path, retrain_labels=2)
    with running_site(settings) as site:
        read(site, 1, "Normal")
        read(site, 2, "Not usable")  # teaches nothing
    cause = labels_cause(settings)
    assert cause.sentence == (
        "Readers have given 1 new label since the last training run; a run starts from 2 on (worklist.retrain_labels)."
    )
    report = retrain(settings, [cause])
    assert (report.started, report.why) == (False, cause.sentence)
    value = {"started": False, "causes": [], "why": cause.sentence, "labels": 1, "run": None}
    assert json.loads(json.dumps(report.value())) == value


def test_a_dry_run_starts_nothing(tmp_path: Path) -> None:
    settings = home(tmp_path, retrain_labels=1)
    with running_site(settings) as site:
        read(site, 1, "Normal")
    causes = [Cause("drift", False, "There is no drift."), labels_cause(settings)]
    report = retrain(settings, causes, dry=True)
    assert not report.started
    assert report.value()["causes"] == ["labels"]
    assert retrain_check(settings).labels == 1


def test_a_run_for_another_cause_needs_no_labels(tmp_path: Path) -> None:
    empty = home(tmp_path)
    assert collected(empty, retrain_check(empty)).feedback is None
