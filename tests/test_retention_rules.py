"""Retention rules are read whole or refused with the line, and say what is due."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from gateway import ledger
from laptop.erasing import site
from lungline.errors import SettingsError
from lungline.retention.rules import RetentionRules, load_rules
from tests.support.worklist_site import record

NOW = datetime(2030, 1, 1, tzinfo=UTC)
GOOD = """
dry_run = true

[[rule]]
name = "normal"
bucket = ["uploads", "research"]
label = ["Normal"]
days = 400

[[rule]]
name = "all"
bucket = ["uploads", "results", "patients", "research"]
days = 3650
"""


def loaded(folder: Path, text: str) -> RetentionRules:
    path = folder / "rules.toml"
    path.write_text(text, encoding="utf-8")
    return load_rules(path)


def test_without_a_file_there_is_no_rule() -> None:
    assert load_rules(None) == RetentionRules()


def test_rules_add_up_and_every_result_must_be_due(tmp_path: Path) -> None:
    rules = loaded(tmp_path, GOOD)
    assert rules.dry_run
    old, ancient = (record(probability=0.1, arrived=NOW - timedelta(days=days)) for days in (401, 3651))
    other = record(probability=0.9, arrived=NOW - timedelta(days=401))
    assert rules.kinds_due([old], NOW) == ("uploads", "research")
    assert rules.kinds_due([old, other], NOW) == ()
    assert rules.kinds_due([ancient], NOW) == ("uploads", "results", "patients", "research")
    assert rules.kinds_due([record(arrived=NOW - timedelta(days=399), probability=0.1)], NOW) == ()


@pytest.mark.parametrize(
    ("line", "instead", "message"),
    [
        ("days = 400", "day = 400", "unknown field 'day'; did you mean \"days\"?"),
        ("days = 400", 'days = "long"', "line 8: days"),
        ("days = 400", "", "the rule has no days"),
        ('["uploads", "research"]', '["upload"]', "line 6: bucket"),
        ('["uploads", "research"]', '["results"]', "an X-ray without a result would be judged again"),
        ("days = 3650", "days = 183", "days must be at least 184"),
        ('name = "all"', 'name = "normal"', "has the name 'normal' already"),
        ("dry_run = true", "dryrun = true", "unknown name 'dryrun'"),
        ("dry_run = true", "dry_run = 1", "dry_run must be true or false"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, line: str, instead: str, message: str) -> None:
    assert line in GOOD
    with pytest.raises(SettingsError) as refused:
        loaded(tmp_path, GOOD.replace(line, instead))
    assert message in str(refused.value)


def test_the_dates_in_a_proof_are_those_of_topics_and_ledger() -> None:
    path = Path(__file__).parent.parent / "manifests/base/kafka/topics.yaml"
    topics = {each["metadata"]["name"]: each["spec"]["config"] for each in yaml.safe_load_all(path.read_text())}
    days = {name: config["retention.ms"] / 86_400_000 for name, config in topics.items()}
    assert days.pop("xray-dead-letters") == site.DEAD_LETTER_DAYS
    assert set(days.values()) == {site.EVENT_DAYS}
    assert ledger._KEPT_SECONDS == site.LEDGER_DAYS * 86_400  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
