"""All rules over a history; a sentence for each violation."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.support.history import (
    erasure_rules,
    notice_rules,
    opinion_rules,
    promotion_rules,
    reading_rules,
    upload_rules,
)
from tests.support.history.operations import History
from tests.support.history.violation import Violation

Rule = Callable[[History], Iterator[Violation]]
_OF_WHAT_STAYS: Sequence[Rule] = (
    *upload_rules.RULES,
    *notice_rules.RULES,
    *reading_rules.RULES,
    *promotion_rules.RULES,
    *opinion_rules.RULES,
)
RULES: Sequence[Rule] = (*_OF_WHAT_STAYS, *erasure_rules.RULES)
_MOST_SENTENCES = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say of a history."""

    history: History
    violations: Sequence[tuple[str, Violation]]
    """With the rule that sees each."""

    @property
    def holds(self) -> bool:
        """Whether no rule is violated."""
        return not self.violations

    @property
    def by_rule(self) -> Counter[str]:
        """How many violations each rule sees."""
        return Counter(rule for rule, _ in self.violations)

    def __str__(self) -> str:
        """The counts of operations, and a sentence for each violation."""
        counts = ", ".join(f"{name} {count}" for name, count in self.history.counts().items())
        sentences = [f"{rule}: {violation}" for rule, violation in self.violations[:_MOST_SENTENCES]]
        more = len(self.violations) - len(sentences)
        head = f"{len(RULES)} rules over {len(self.history.operations)} operations ({counts})"
        return "\n".join(
            [f"{head}: {len(self.violations)} violations", *sentences, *([f"... {more} more"] * (more > 0))]
        )


def check(history: History) -> Verdict:
    """Hold all rules against a history."""
    staying = erasure_rules.without_erased(history)
    looks = [(rule, staying) for rule in _OF_WHAT_STAYS] + [(rule, history) for rule in erasure_rules.RULES]
    return Verdict(history, [(_name(rule), violation) for rule, seen in looks for violation in rule(seen)])


def _name(rule: Rule) -> str:
    return rule.__name__.replace("_", " ")
