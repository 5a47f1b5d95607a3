"""Operations of actors, the history that they make together, and the journal that they are written to."""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["ok", "fail", "unknown"]


@dataclass(frozen=True, slots=True)
class Operation:
    """What an actor wanted and what it was answered; `name` is actor and verb, such as `scanner put`.

    `subject` is the identity of an upload, never its key; `process` tells actors of a kind apart. Times are seconds
    since 1970. `ok` and `fail` are answers; without an answer it is unknown whether it happened.
    """

    name: str
    subject: str = ""
    value: dict[str, Any] = field(default_factory=dict)
    process: int = 0
    invoked: float = 0.0
    returned: float = 0.0
    outcome: Outcome = "ok"
    number: int = 0
    """Its place in the history."""

    @property
    def may_have_happened(self) -> bool:
        """Whether it was not refused."""
        return self.outcome != "fail"

    def __str__(self) -> str:
        """Actor, verb and number, as violations name it."""
        return f"{self.name} #{self.number}"


class History:
    """The operations of a run in the order in which they began, numbered."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        ordered = sorted(operations, key=lambda each: (each.invoked, each.name, each.subject))
        self.operations = [replace(each, number=number) for number, each in enumerate(ordered, 1)]

    @cached_property
    def _by_name(self) -> dict[str, list[Operation]]:
        grouped: dict[str, list[Operation]] = defaultdict(list)
        for each in self.operations:
            grouped[each.name].append(each)
        return grouped

    def of(self, name: str) -> Sequence[Operation]:
        """The operations of a name."""
        return self._by_name.get(name, [])

    def by_subject(self, name: str) -> dict[str, list[Operation]]:
        """The operations of a name by their upload."""
        grouped: dict[str, list[Operation]] = defaultdict(list)
        for each in self.of(name):
            grouped[each.subject].append(each)
        return grouped

    def counts(self) -> dict[str, int]:
        """How many operations of each name: a rule without operations proves nothing."""
        return {name: len(operations) for name, operations in sorted(self._by_name.items())}

    def without(self, subjects: Collection[str]) -> "History":
        """The same history without some uploads; operations keep their numbers."""
        rest = History(())
        rest.operations = [each for each in self.operations if each.subject not in subjects]
        return rest

    def save(self, path: Path) -> None:
        """Write the history as lines of JSON."""
        path.write_text("".join(json.dumps(asdict(each)) + "\n" for each in self.operations))

    @classmethod
    def load(cls, path: Path) -> "History":
        """Read a history that was saved."""
        return cls(Operation(**json.loads(line)) for line in path.read_text().splitlines())


@dataclass(slots=True)
class Attempt:
    """An operation that has begun; it is unknown until it is answered."""

    operation: Operation

    def answer(self, outcome: Outcome, **value: Any) -> None:
        """What the actor was answered, with values that only the answer has."""
        merged = self.operation.value | value
        self.operation = replace(self.operation, outcome=outcome, value=merged, returned=time.time())


class Journal:
    """The operations of all actors of a run so far; thread-safe."""

    def __init__(self) -> None:
        self._attempts: list[Attempt] = []
        self._lock = threading.Lock()

    @contextmanager
    def attempt(self, name: str, subject: str = "", process: int = 0, **value: Any) -> Iterator[Attempt]:
        """An operation that begins now; unless the block says its answer, it has none."""
        attempt = Attempt(Operation(name, subject, value, process, time.time(), outcome="unknown"))
        with self._lock:
            self._attempts.append(attempt)
        try:
            yield attempt
        finally:
            if attempt.operation.outcome == "unknown":
                attempt.operation = replace(attempt.operation, returned=time.time())

    def add(self, operation: Operation) -> None:
        """Something that was seen, with the time at which it happened."""
        with self._lock:
            self._attempts.append(Attempt(operation))

    def note(self, name: str, subject: str = "", process: int = 0, **value: Any) -> None:
        """Something that happened in a moment."""
        with self.attempt(name, subject, process, **value) as attempt:
            attempt.answer("ok")

    @property
    def operations(self) -> list[Operation]:
        """All operations, also those that wait for an answer."""
        with self._lock:
            return [attempt.operation for attempt in self._attempts]

    def of(self, name: str) -> list[Operation]:
        """The operations of a name that were answered with yes."""
        return [each for each in self.operations if each.name == name and each.outcome == "ok"]
