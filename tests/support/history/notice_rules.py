"""Notices: each result that a rule is about has one, each notice one result, and nobody is noticed twice."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from tests.support.history.operations import History, Operation
from tests.support.history.upload_rules import answers
from tests.support.history.violation import Violation, short


def results_have_their_notices(history: History) -> Iterator[Violation]:
    """Each answer with the label of a rule, also one that no event has announced."""
    queued = {(notice.subject, notice.value["rule"]) for notice in history.of("worklist notice")}
    for rule in history.of("settings rule"):
        for identity, records in answers(history).items():
            due = [record for record in records if record.value["label"] == rule.value["label"]]
            if due and (identity, rule.value["rule"]) not in queued:
                yield Violation(f"The result of {short(identity)} has no notice", (rule, *due))


def notices_have_one_result(history: History) -> Iterator[Violation]:
    """A notice is about an answer with its label, and there is one for each rule and target."""
    results = answers(history)
    places: Counter[tuple[str, ...]] = Counter()
    for notice in history.of("worklist notice"):
        labels = {record.value["label"] for record in results.get(notice.subject, [])}
        if notice.value["label"] not in labels:
            yield Violation(f"A notice about {short(notice.subject)} has no such result", (notice,))
        place = (notice.subject, *(str(notice.value[name]) for name in ("rule", "step", "target")))
        places[place] += 1
        if places[place] == 2:
            yield Violation(f"The same notice about {short(notice.subject)} is queued twice", (notice,))


def sent_notices_arrived(history: History) -> Iterator[Violation]:
    """What the list calls sent, a receiver has."""
    received = history.by_subject("receiver notice")
    hooked = {rule.value["rule"] for rule in history.of("settings rule") if rule.value["hook"]}
    for notice in history.of("worklist notice"):
        is_sent = notice.value["state"] == "sent" and notice.value["rule"] in hooked
        if is_sent and not any(each.outcome == "ok" for each in received.get(notice.subject, [])):
            yield Violation(f"The notice about {short(notice.subject)} counts as sent and did not arrive", (notice,))


def received_notices_were_queued(history: History) -> Iterator[Violation]:
    """No receiver hears of what the list does not know."""
    queued = {notice.subject for notice in history.of("worklist notice")}
    for notice in history.of("receiver notice"):
        if notice.subject not in queued:
            yield Violation(f"A notice about {short(notice.subject)} was received and never queued", (notice,))


def nobody_is_noticed_twice(history: History) -> Iterator[Violation]:
    """Unless the worklist was killed in between: then it does not know whether the first notice was taken."""
    kills = [kill for kill in history.of("chaos kill") if "worklist" in kill.value["services"]]
    taken: dict[tuple[str, str], list[Operation]] = defaultdict(list)
    for notice in history.of("receiver notice"):
        if notice.outcome == "ok":
            taken[notice.subject, notice.value["rule"]].append(notice)
    for (identity, _), notices in taken.items():
        for first, second in itertools.pairwise(notices):
            if not _between(kills, first, second):
                yield Violation(f"A notice about {short(identity)} was received twice", (first, second))


def _between(kills: Sequence[Operation], first: Operation, second: Operation) -> bool:
    return any(first.invoked <= kill.returned and kill.invoked <= second.invoked for kill in kills)


RULES = (
    results_have_their_notices,
    notices_have_one_result,
    sent_notices_arrived,
    received_notices_were_queued,
    nobody_is_noticed_twice,
)
