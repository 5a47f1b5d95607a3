"""Uploads, their events, their results and the list: each upload one result for each version that judged it."""

from collections import defaultdict
from collections.abc import Iterator
from typing import TypeVar

from tests.support.history.operations import History, Operation
from tests.support.history.violation import Violation, short

T = TypeVar("T")
ANSWERS = "results"
"""Where the answers lie; second opinions lie elsewhere."""


def acknowledged_uploads_are_stored(history: History) -> Iterator[Violation]:
    """With the content that was sent, unless something else was put in its place."""
    stored, latest = history.by_subject("store object"), _latest_of_objects(history)
    for identity, puts in _acknowledged(history).items():
        if identity not in stored and latest[puts[-1].value["object"]] == identity:
            yield Violation(f"Upload {short(identity)} was acknowledged and is not in the store", tuple(puts))


def acknowledged_uploads_have_results(history: History) -> Iterator[Violation]:
    """An upload that was overwritten before its event was sent is none any more."""
    results = answers(history)
    reported, latest = history.by_subject("bridge event"), _latest_of_objects(history)
    for identity, puts in _acknowledged(history).items():
        overwritten = latest[puts[-1].value["object"]] != identity and identity not in reported
        if identity not in results and not overwritten:
            yield Violation(f"Upload {short(identity)} was acknowledged and has no result", tuple(puts))


def acknowledged_uploads_were_reported(history: History) -> Iterator[Violation]:
    """Their events are in the topic."""
    reported, latest = history.by_subject("bridge event"), _latest_of_objects(history)
    silent = [
        puts
        for identity, puts in _acknowledged(history).items()
        if identity not in reported and latest[puts[-1].value["object"]] == identity
    ]
    for puts in _beyond_missed(history, "bridge event", silent):
        yield Violation(f"Upload {short(puts[0].subject)} was acknowledged and has no event", tuple(puts))


def results_have_uploads(history: History) -> Iterator[Violation]:
    """Nothing is judged that nobody sent, and nothing before it was sent."""
    puts = history.by_subject("scanner put")
    for record in history.of("predictor record"):
        sent = [put for put in puts.get(record.subject, []) if put.may_have_happened]
        if not any(put.invoked <= record.returned for put in sent):
            yield Violation(f"A result is about {short(record.subject)}, which nobody had sent", (record, *sent))


def results_have_events(history: History) -> Iterator[Violation]:
    """An answer follows an event about its object; what is overwritten is judged with the event of before."""
    reported = {event.value["object"] for event in history.of("bridge event")}
    every = (record for records in answers(history).values() for record in records)
    unasked = [record for record in every if record.value["object"] not in reported]
    for record in _beyond_missed(history, "bridge event", unasked):
        yield Violation(f"The result of {short(record.subject)} has no event", (record,))


def results_lie_where_they_belong(history: History) -> Iterator[Violation]:
    """A record says what it is filed under, and does not contradict itself."""
    for record in history.of("predictor record"):
        says = f"{record.subject}/{record.value['version']}"
        if record.value["filed"] != says or not record.value["consistent"]:
            yield Violation(f"A record filed under {short(record.value['filed'])} is about another result", (record,))


def uploads_have_one_result_for_each_version(history: History) -> Iterator[Violation]:
    """In each place: answers, shadow and back-fill."""
    grouped: dict[tuple[str, str, str], list[Operation]] = defaultdict(list)
    for record in history.of("predictor record"):
        grouped[record.value["place"], record.subject, record.value["version"]].append(record)
    for (place, identity, version), records in grouped.items():
        if len(records) > 1:
            sentence = f"Upload {short(identity)} has {len(records)} records of version {version} in {place}"
            yield Violation(sentence, tuple(records))


def results_were_announced(history: History) -> Iterator[Violation]:
    """Each answer has a reply in the results topic, or a dead letter where the image was refused.

    A predictor that is killed between record and reply is sent the event again. If another version was promoted
    meanwhile, that answers: of the earlier record no event speaks, and the worklist finds it by itself.
    """
    letters, given = history.by_subject("trigger dead letter"), announced(history)
    silent = [
        record
        for identity, records in answers(history).items()
        for record in records
        if record not in given[identity]
        and not (record.value["outcome"] == "refused" and identity in letters)
        and not any(record.returned < later.returned for later in given[identity])
    ]
    for record in _beyond_missed(history, "trigger reply", silent):
        yield Violation(f"The result of {short(record.subject)} was never announced", (record,))


def replies_have_results(history: History) -> Iterator[Violation]:
    """The worklist is not sent to a record that does not exist."""
    stored = {(each.subject, each.value["version"]) for records in answers(history).values() for each in records}
    for reply in history.of("trigger reply"):
        if (reply.subject, reply.value["version"]) not in stored:
            yield Violation(f"A reply is about {short(reply.subject)}, which has no such result", (reply,))


def worklist_has_every_result(history: History) -> Iterator[Violation]:
    """Each answer, whether an event has announced it or not, and nothing else."""
    rows = {each.value["record"]: each for each in history.of("worklist result")}
    results = {f"{each.subject}-{each.value['version']}": each for many in answers(history).values() for each in many}
    for name in results.keys() - rows.keys():
        yield Violation(f"The worklist lacks a result of {short(results[name].subject)}", (results[name],))
    for name in rows.keys() - results.keys():
        yield Violation(f"The store lacks a result of {short(rows[name].subject)} that the worklist has", (rows[name],))


def list_shows_every_result_once(history: History) -> Iterator[Violation]:
    """The latest answer with a label, and never a second opinion."""
    results, entries = answers(history), history.by_subject("worklist entry")
    for identity in results.keys() - entries.keys():
        yield Violation(f"The list does not show {short(identity)}", tuple(results[identity]))
    for identity, shown in entries.items():
        if len(shown) > 1:
            yield Violation(f"The list shows {short(identity)} {len(shown)} times", tuple(shown))
        records = results.get(identity, [])
        latest = max(records, key=lambda each: (each.value["label"] is not None, each.returned), default=None)
        wanted = latest and (f"{identity}-{latest.value['version']}", latest.value["label"])
        if (shown[0].value["record"], shown[0].value["label"]) != wanted:
            yield Violation(f"The list shows another result of {short(identity)} than the latest", (shown[0], *records))


def answers(history: History) -> dict[str, list[Operation]]:
    """The records that answer uploads, by upload."""
    grouped: dict[str, list[Operation]] = defaultdict(list)
    for record in history.of("predictor record"):
        if record.value["place"] == ANSWERS:
            grouped[record.subject].append(record)
    return grouped


def announced(history: History) -> dict[str, list[Operation]]:
    """The answers that have a reply in the results topic, by upload."""
    replies = {(reply.subject, reply.value["version"]) for reply in history.of("trigger reply")}
    grouped: dict[str, list[Operation]] = defaultdict(list)
    for identity, records in answers(history).items():
        grouped[identity] = [each for each in records if (identity, each.value["version"]) in replies]
    return grouped


def _acknowledged(history: History) -> dict[str, list[Operation]]:
    every = history.by_subject("scanner put")
    return {
        identity: taken for identity, puts in every.items() if (taken := [put for put in puts if put.outcome == "ok"])
    }


def _beyond_missed(history: History, name: str, absent: list[T]) -> list[T]:
    """What is absent from a topic; nothing where the witness has missed as many messages of it."""
    missed = sum(gap.value["count"] for gap in history.of(f"{name} missed"))
    return absent if len(absent) > missed else []


def _latest_of_objects(history: History) -> dict[str, str]:
    """The upload that each object was last, or may have been."""
    return {put.value["object"]: put.subject for put in history.of("scanner put") if put.may_have_happened}


RULES = (
    acknowledged_uploads_are_stored,
    acknowledged_uploads_have_results,
    acknowledged_uploads_were_reported,
    results_have_uploads,
    results_have_events,
    results_lie_where_they_belong,
    uploads_have_one_result_for_each_version,
    results_were_announced,
    replies_have_results,
    worklist_has_every_result,
    list_shows_every_result_once,
)
