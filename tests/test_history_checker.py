"""The history checker sees what is planted, and nothing where there is nothing to see."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.history.checker import RULES, check
from tests.support.history.generated import generated
from tests.support.history.operations import History, Journal, Operation
from tests.support.history.seeded_run import Plan

Fault = Callable[[History], Iterable[Operation]]


@pytest.mark.parametrize("seed", range(5))
def test_a_history_in_which_everything_holds(seed: int) -> None:
    verdict = check(generated(seed))
    assert verdict.holds, verdict
    names = {"scanner put", "predictor record", "worklist notice", "receiver notice", "reader say", "history entry"}
    assert names <= verdict.history.counts().keys()


def without(name: str, **value: Any) -> Fault:
    """The first operation of a name with these values is missing."""

    def plant(history: History) -> list[Operation]:
        gone = _first(history, name, value)
        return [each for each in history.operations if each is not gone]

    return plant


def twice(name: str, subject: str | None = None, later: float = 0, **value: object) -> Fault:
    """The first operation of a name is there again, with another upload or later."""

    def plant(history: History) -> list[Operation]:
        first = _first(history, name, value)
        again = replace(first, subject=subject or first.subject, invoked=first.invoked + later)
        return [*history.operations, again]

    return plant


def changed(name: str, changes: dict[str, Any], **value: Any) -> Fault:
    """The first operation of a name has other values."""

    def plant(history: History) -> list[Operation]:
        first = _first(history, name, value)
        return [replace(each, value=each.value | changes) if each is first else each for each in history.operations]

    return plant


def swapped(name: str, *fields: str, **value: Any) -> Fault:
    """The first and the last operation of a name have each other's values."""

    def plant(history: History) -> list[Operation]:
        first, *_, last = (each for each in history.of(name) if value.items() <= each.value.items())
        values = {id(first): last.value, id(last): first.value}
        return [
            replace(each, value=each.value | {field: values[id(each)][field] for field in fields})
            if id(each) in values
            else each
            for each in history.operations
        ]

    return plant


def _first(history: History, name: str, value: dict[str, Any]) -> Operation:
    return next(each for each in history.of(name) if value.items() <= each.value.items())


OTHER, ERASED = "d" * 32, "c" * 32
ANSWER: dict[str, Any] = {"place": "results", "label": "Normal"}
FAULTS: dict[str, tuple[Fault, set[str]]] = {
    "an upload is deleted": (without("store object"), {"acknowledged uploads are stored"}),
    "a record is deleted": (
        without("predictor record", **ANSWER),
        {
            "acknowledged uploads have results",
            "replies have results",
            "worklist has every result",
            "list shows every result once",
        },
    ),
    "a result is repeated under another identity": (
        twice("predictor record", OTHER, **ANSWER),
        {
            "results have uploads",
            "back fills judge every old upload",
            "results lie where they belong",
            "results were announced",
            "worklist has every result",
            "list shows every result once",
        },
    ),
    "a version judges an upload twice": (
        twice("predictor record", **ANSWER),
        {"uploads have one result for each version"},
    ),
    "an event is lost": (without("bridge event"), {"acknowledged uploads were reported", "results have events"}),
    "a reply is lost": (without("trigger reply"), {"results were announced"}),
    "the worklist misses a result": (without("worklist result"), {"worklist has every result"}),
    "the worklist keeps a result that the store lacks": (
        changed("worklist result", {"record": f"{OTHER}-1"}),
        {"worklist has every result"},
    ),
    "the list misses an upload": (without("worklist entry", label="Normal"), {"list shows every result once"}),
    "the list shows an upload twice": (twice("worklist entry", label="Normal"), {"list shows every result once"}),
    "the list shows another label": (
        changed("worklist entry", {"label": "Unsure"}, label="Normal"),
        {"list shows every result once"},
    ),
    "a notice is not queued": (
        without("worklist notice"),
        {"results have their notices", "received notices were queued", "acknowledged notices stay acknowledged"},
    ),
    "a notice is about nothing": (
        twice("worklist notice", OTHER),
        {"notices have one result", "sent notices arrived"},
    ),
    "a notice is queued twice": (twice("worklist notice"), {"notices have one result"}),
    "a notice does not arrive": (without("receiver notice"), {"sent notices arrived"}),
    "a notice arrives twice": (twice("receiver notice", later=1), {"nobody is noticed twice"}),
    "a notice of nothing arrives": (twice("receiver notice", OTHER), {"received notices were queued"}),
    "an acknowledgement is lost": (
        changed("worklist notice", {"acknowledged": None}),
        {"acknowledged notices stay acknowledged"},
    ),
    "the database loses a reading": (
        without("worklist reading"),
        {
            "acknowledged readings are stored",
            "database and store have the same readings",
            "list shows the last verdict",
            "readings are audited",
        },
    ),
    "the store loses a reading": (
        without("store reading"),
        {"acknowledged readings are stored", "database and store have the same readings"},
    ),
    "a reading is changed": (
        changed("worklist reading", {"verdict": "Not usable"}),
        {"acknowledged readings are stored", "list shows the last verdict"},
    ),
    "a reading is made up": (without("reader say", id=f"{1:032x}"), {"stored readings were given"}),
    "a reading is not audited": (without("worklist audit"), {"readings are audited"}),
    "history entries are swapped": (
        swapped("history entry", "version", "champion", act="promoted"),
        {"promotions are in the history", "history is an unbroken chain"},
    ),
    "a promotion is lost": (
        without("history entry", act="promoted", version="last"),
        {"promotions are in the history"},
    ),
    "an earlier version judges later": (
        swapped("predictor record", "version", place="results", outcome="judged"),
        {
            "versions serve in the order of the history",
            "results lie where they belong",
            "results were announced",
            "replies have results",
            "worklist has every result",
            "list shows every result once",
        },
    ),
    "the shadow misses an upload": (
        without("predictor record", place="shadow"),
        {"shadows judge every upload", "worklist has every second opinion"},
    ),
    "the back-fill misses an upload": (
        without("predictor record", place="rejudged"),
        {
            "back fills judge every old upload",
            "back fills judge what they were sent",
            "worklist has every second opinion",
        },
    ),
    "the worklist misses a second opinion": (without("worklist opinion"), {"worklist has every second opinion"}),
    "a second opinion is shown as the answer": (
        changed("worklist entry", {"record": "s"}, label="Normal"),
        {"list shows every result once"},
    ),
    "another version serves": (changed("predictor serving", {"version": "3"}), {"the last champion serves"}),
    "a result of an erased upload comes back": (
        twice("predictor record", ERASED, **ANSWER),
        {"erased uploads have nothing left"},
    ),
    "an erased upload keeps its heatmap": (
        twice("store file", ERASED),
        {"erased uploads have nothing left"},
    ),
    "promotions trade their numbers": (
        swapped("promoter promote", "number", "version"),
        {"promotions are in their order"},
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_seen_by_its_rules(name: str) -> None:
    fault, rules = FAULTS[name]
    assert set(check(History(fault(generated(1)))).by_rule) == rules


def test_every_rule_sees_a_fault() -> None:
    seen = {rule for _, rules in FAULTS.values() for rule in rules}
    assert seen == {rule.__name__.replace("_", " ") for rule in RULES}


def test_a_violation_names_its_operations() -> None:
    verdict = check(History(twice("receiver notice", later=1)(generated(1))))
    ((_, violation),) = verdict.violations
    assert [each.name for each in violation.operations] == ["receiver notice"] * 2
    assert f"received twice (receiver notice #{violation.operations[0].number}, " in str(verdict)


def test_a_kill_of_the_worklist_excuses_a_second_notice() -> None:
    history = generated(1)
    notice = history.of("receiver notice")[0]
    kill = Operation("chaos kill", value={"services": ["worklist"]}, invoked=notice.invoked + 0.5)
    again = replace(notice, invoked=notice.invoked + 1)
    assert check(History([*history.operations, replace(kill, returned=kill.invoked), again])).holds
    other = replace(kill, value={"services": ["store"]})
    assert not check(History([*history.operations, other, again])).holds


def test_an_overwritten_upload_needs_no_result() -> None:
    history = generated(1)
    lost, other = Operation("scanner put", OTHER, {"object": "object 1"}), history.of("scanner put")[1]
    assert other.value["object"] == "object 1"
    assert check(History([*history.operations, replace(lost, invoked=other.invoked - 1)])).holds
    assert not check(History([*history.operations, replace(lost, invoked=other.invoked + 5)])).holds


def test_an_answer_that_another_version_replaced_needs_no_reply() -> None:
    """The predictor was killed before its reply, and the event came again after a promotion: the worklist must know."""
    history = generated(1)
    answer = next(each for each in history.of("predictor record") if ANSWER.items() <= each.value.items())
    value = answer.value | {"version": "before", "label": "Pneumonia", "filed": f"{answer.subject}/before"}
    earlier = replace(answer, value=value, returned=answer.invoked)
    seen = check(History([*history.operations, earlier])).by_rule
    assert seen.keys() == {"worklist has every result", "results have their notices"}
    row = Operation("worklist result", answer.subject, {"record": f"{answer.subject}-before"})
    notice = replace(_first(history, "worklist notice", {}), subject=answer.subject)
    taken_in = [row, replace(notice, value=notice.value | {"state": "waiting", "acknowledged": None})]
    assert check(History([*history.operations, earlier, *taken_in])).holds
    later = replace(earlier, returned=answer.returned + 1)
    seen = check(History([*history.operations, later, *taken_in])).by_rule
    assert seen.keys() == {"results were announced", "list shows every result once"}


def test_an_erasure_without_an_answer_leaves_open_what_is_left() -> None:
    """Nothing, everything or a part: only a confirmed erasure must have left nothing."""
    history = generated(1)
    attempt = Operation("officer erase", _first(history, "predictor record", ANSWER).subject, outcome="unknown")
    for operations in (history.operations, without("predictor record", **ANSWER)(history)):
        assert check(History([*operations, attempt])).holds
    confirmed = replace(attempt, outcome="ok")
    assert check(History([*history.operations, confirmed])).by_rule.keys() == {"erased uploads have nothing left"}


def test_histories_are_read_back(tmp_path: Path) -> None:
    history = generated(2)
    history.save(tmp_path / "history.jsonl")
    assert History.load(tmp_path / "history.jsonl").operations == history.operations


def test_what_is_not_answered_is_unknown() -> None:
    journal = Journal()
    with pytest.raises(OSError, match="gone"), journal.attempt("scanner put", OTHER):
        raise OSError("gone")
    with journal.attempt("scanner put", OTHER) as attempt:
        assert [each.outcome for each in journal.operations] == ["unknown", "unknown"]
        attempt.answer("fail")
    assert [each.outcome for each in journal.operations] == ["unknown", "fail"]


def test_a_seed_makes_the_same_plan_again() -> None:
    assert Plan.of(7, 20, 5) == Plan.of(7, 20, 5) != Plan.of(8, 20, 5)
