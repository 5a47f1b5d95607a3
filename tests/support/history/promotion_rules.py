"""Promotions: the history has each that was acknowledged, in their order, and versions served in that order."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.support.history.operations import History, Operation
from tests.support.history.upload_rules import ANSWERS
from tests.support.history.violation import Violation


def promotions_are_in_the_history(history: History) -> Iterator[Violation]:
    """Each that was acknowledged once, and none that was refused."""
    promoted = {each.value["number"]: each for each in _entries(history) if each.value["act"] == "promoted"}
    for change in history.of("promoter promote"):
        entry = promoted.get(change.value.get("number"))
        is_there = entry is not None and entry.value["version"] == change.value["version"]
        if change.outcome == "ok" and not is_there:
            yield Violation(f"The promotion of version {change.value['version']} is not in the history", (change,))


def promotions_are_in_their_order(history: History) -> Iterator[Violation]:
    """A change that ended before another began has the lower number."""
    changes = [change for change in history.of("promoter promote") if change.outcome == "ok"]
    for earlier in changes:
        for later in changes:
            ended = earlier.returned < later.invoked
            if ended and earlier.value["number"] >= later.value["number"]:
                yield Violation("The history has two promotions in another order", (earlier, later))


def history_is_an_unbroken_chain(history: History) -> Iterator[Violation]:
    """Entries are numbered and hashed in their order; a change begins with the champion of before."""
    champion = None
    for number, entry in enumerate(_entries(history), 1):
        value = entry.value
        if value["number"] != number or not value["intact"]:
            yield Violation(f"Entry {number} of the history is not the one that was written there", (entry,))
        expected = value["version"] if value["act"] == "promoted" else champion
        if value["champion"] != expected:
            yield Violation(f"Entry {number} names version {value['champion']} as champion", (entry,))
        champion = value["champion"]


def versions_serve_in_the_order_of_the_history(history: History) -> Iterator[Violation]:
    """No result is of a version that did not serve yet, or had been replaced before its event arrived."""
    eras = _eras(_entries(history))
    records = sorted(_records(history), key=lambda each: each.returned)
    finished: list[tuple[float, int]] = []  # when a result was done, and the era that it needs at least
    for record in records if len(eras) > 1 else []:
        lowest = max((era for done, era in finished if done < record.invoked), default=0)
        era = next((number for number in range(lowest, len(eras)) if eras[number].covers(record)), None)
        if era is None:
            yield Violation(f"Version {record.value['version']} judged when another served", (record,))
        else:
            finished.append((record.returned, era))


def the_last_champion_serves(history: History) -> Iterator[Violation]:
    """Or the version whose promotion was cut off."""
    entries = _entries(history)
    for serving in history.of("predictor serving") if entries else []:
        last = _eras(entries)[-1]
        if last.versions and serving.value["version"] not in last.versions:
            yield Violation(
                f"Version {serving.value['version']} serves, and is not the champion", (serving, entries[-1])
            )


@dataclass(frozen=True, slots=True)
class _Era:
    """When a change may have been in force, and the versions that may have served; any where they are empty."""

    versions: frozenset[str]
    begins: float
    ends: float

    def covers(self, record: Operation) -> bool:
        """Whether a result may be of it: done after it began, its event received before it ended."""
        matches = not self.versions or record.value["version"] in self.versions
        return matches and record.returned >= self.begins and record.invoked <= self.ends


def _eras(entries: Sequence[Operation]) -> list[_Era]:
    """The time before the history, and each change; the version of before stays with one that was not completed."""
    promoted = [entry for entry in entries if entry.value["act"] == "promoted"]
    eras = [_Era(frozenset(), -math.inf, promoted[0].invoked if promoted else math.inf)]
    for place, entry in enumerate(entries):
        if entry.value["act"] != "began":
            continue
        own = entries[place + 1] if place + 1 < len(entries) else None
        completed = own is not None and own.value["act"] == "promoted"
        later = [each.invoked for each in promoted if each is not own and each.value["place"] > entry.value["place"]]
        eras.append(_Era(_versions(entry, completed=completed), entry.invoked, min(later, default=math.inf)))
    return eras


def _versions(began: Operation, *, completed: bool) -> frozenset[str]:
    """What may serve once a change has begun; any version where nothing says what served before it."""
    if completed:
        return frozenset({began.value["version"]})
    champion = began.value["champion"]
    return frozenset({began.value["version"], champion} if champion else ())


def _entries(history: History) -> list[Operation]:
    return sorted(history.of("history entry"), key=lambda each: each.value["place"])


def _records(history: History) -> Iterator[Operation]:
    judged = (each for each in history.of("predictor record") if each.value["outcome"] == "judged")
    return (each for each in judged if each.value["place"] == ANSWERS)


RULES = (
    promotions_are_in_the_history,
    promotions_are_in_their_order,
    history_is_an_unbroken_chain,
    versions_serve_in_the_order_of_the_history,
    the_last_champion_serves,
)
