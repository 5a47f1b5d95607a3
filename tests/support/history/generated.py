"""Histories of runs that never were, in which everything holds: faults are planted in them to see the rules at work."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.support.history.operations import History, Operation, Outcome

_START = 1_800_000_000.0
_GAP = 10.0
_RULE: dict[str, Any] = {"rule": "urgent", "label": "Pneumonia"}


@dataclass
class _Clock:
    now: float = _START

    def tick(self, seconds: float = 0.01) -> float:
        self.now += seconds
        return self.now


@dataclass
class Generator:
    """Makes the operations of a run, one story after another."""

    chance: Random
    clock: _Clock = field(default_factory=_Clock)
    operations: list[Operation] = field(default_factory=list)
    champion: str | None = None
    entries: int = 0

    def add(self, name: str, subject: str = "", *, answer: Outcome = "ok", **value: Any) -> None:
        """An operation that takes a moment."""
        begun = self.clock.tick()
        self.operations.append(Operation(name, subject, value, 0, begun, self.clock.tick(), answer))

    def upload(self, number: int) -> None:
        """An upload with all that follows from it."""
        identity, key = f"{self.chance.getrandbits(128):032x}", f"object {number}"
        self.clock.tick(_GAP)
        if number % 4 == 1:  # the first answer was lost
            self.add("scanner put", identity, answer="unknown", object=key)
        self.add("scanner put", identity, object=key)
        self.add("store object", identity, object=key)
        self.add("store file", identity, folder="heatmaps")
        self.add("bridge event", identity, object=key)
        label = "Refused" if number % 6 == 5 else ("Pneumonia", "Normal", "Unsure")[number % 3]
        outcome = "refused" if label == "Refused" else "judged"
        value: dict[str, Any] = {"version": self.champion or "0", "outcome": outcome, "label": label, "object": key}
        filed = f"{identity}/{value['version']}"
        self.add("predictor record", identity, place="results", filed=filed, consistent=True, **value)
        if label == "Refused":
            self.add("trigger dead letter", identity)
        else:
            self.add("trigger reply", identity, version=value["version"])
        verdict = self._read(identity, number) if number % 2 else None
        self._opinion(identity, "shadow", "s", value)
        self.add("rejudger event", identity, object=key)
        self._opinion(identity, "rejudged", "b", value)
        record = f"{identity}-{value['version']}"
        self.add("worklist result", identity, record=record)
        self.add("worklist entry", identity, record=record, label=label, verdict=verdict)
        if label == "Pneumonia":
            self._notice(identity)

    def erased(self, identity: str) -> None:
        """An upload that was noticed and then erased: at the second attempt, whose answer alone came."""
        self.add("scanner put", identity, object="erased")
        self.add("bridge event", identity, object="erased")
        self.add("trigger reply", identity, version=self.champion or "0")
        self.add("receiver notice", identity, rule=_RULE["rule"])
        self.add("officer erase", identity, answer="unknown")
        self.add("officer erase", identity)
        self.add("worklist audit", identity, act="acknowledged")

    def _opinion(self, identity: str, place: str, version: str, first: dict[str, Any]) -> None:
        value: dict[str, Any] = first | {"place": place, "version": version}
        self.add("predictor record", identity, filed=f"{identity}/{version}", consistent=True, **value)
        self.add("worklist opinion", identity, place=place, version=version, label=value["label"])

    def _read(self, identity: str, number: int) -> str:
        name, verdict = f"{number:032x}", self.chance.choice(("Normal", "Pneumonia"))
        self.add("reader say", identity, answer="fail", id=f"refused {number}", verdict="Normal")
        self.add("reader say", identity, answer="unknown" if number % 4 == 3 else "ok", id=name, verdict=verdict)
        for place in ("worklist reading", "store reading"):
            self.add(place, identity, id=name, verdict=verdict, action="corrected")
        self.add("worklist audit", identity, act="corrected")
        self.add("reader say", identity, answer="unknown", id=f"lost {number}", verdict="Normal")
        return verdict

    def _notice(self, identity: str) -> None:
        state = {"step": 0, "target": 0, "state": "sent", "acknowledged": 1}
        self.add("worklist notice", identity, **_RULE, **state)
        self.add("receiver notice", identity, rule=_RULE["rule"])
        self.add("reader acknowledge", identity)

    def promote(self, version: str, *, completed: bool = True) -> None:
        """A promotion; one that is not completed has no answer."""
        begun = self.clock.tick(_GAP)
        self._entry("began", version)
        if completed:
            self.champion = version
            self._entry("promoted", version)
        outcome: Outcome = "ok" if completed else "unknown"
        value = {"version": version, "number": self.entries} if completed else {"version": version}
        self.operations.append(Operation("promoter promote", "", value, 0, begun, self.clock.tick(), outcome))

    def _entry(self, act: str, version: str) -> None:
        self.entries += 1
        places: dict[str, Any] = {"place": self.entries, "number": self.entries, "intact": True}
        self.add("history entry", act=act, version=version, champion=self.champion, **places)


def generated(seed: int, uploads: int = 12) -> History:
    """A run in which everything holds."""
    run = Generator(Random(seed))
    run.add("settings rule", **_RULE, hook=True)
    run.add("operator shadow", version="s")
    for number, version in zip(range(uploads), _versions(), strict=False):
        if number % 4 == 2:
            run.promote(version, completed=number % 8 != 6)
        run.upload(number)
    run.erased("c" * 32)
    run.add("scanner put", "f" * 32, answer="unknown", object="never taken")
    run.add("scanner put", "e" * 32, answer="fail", object="refused")
    run.promote("last")
    run.add("operator rejudge", version="b")
    run.add("predictor serving", version="last")
    return History(run.operations)


def _versions() -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield str(number)
