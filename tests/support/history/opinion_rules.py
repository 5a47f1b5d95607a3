"""Second opinions: a version that judges unseen, or old uploads, judges each, and the worklist has what it said."""

from collections import Counter
from collections.abc import Iterator

from tests.support.history.operations import History, Operation
from tests.support.history.upload_rules import ANSWERS, answers
from tests.support.history.violation import Violation, short


def shadows_judge_every_upload(history: History) -> Iterator[Violation]:
    """Each that was sent after the shadow had begun, and answered."""
    answered = answers(history)
    for shadow in history.of("operator shadow"):
        judged = _judged(history, "shadow", shadow.value["version"])
        for put in history.of("scanner put"):
            beside = shadow.outcome == put.outcome == "ok" and shadow.returned < put.invoked
            if beside and put.subject in answered and put.subject not in judged:
                yield Violation(f"The shadow has not judged {short(put.subject)}", (shadow, put))


def back_fills_judge_every_old_upload(history: History) -> Iterator[Violation]:
    """Each that another version had judged before."""
    for rejudge in history.of("operator rejudge"):
        version = rejudge.value["version"]
        judged = _judged(history, "rejudged", version)
        for identity, records in answers(history).items():
            latest = max(records, key=lambda each: each.returned)
            is_old = latest.value["outcome"] == "judged" and latest.returned < rejudge.invoked
            if rejudge.outcome == "ok" and is_old and latest.value["version"] != version and identity not in judged:
                yield Violation(f"The back-fill has not judged {short(identity)}", (rejudge, latest))


def back_fills_judge_what_they_were_sent(history: History) -> Iterator[Violation]:
    """Whatever Kafka took: an event that counts as done and has no second opinion was lost."""
    judged = {record.subject for record in _opinions(history) if record.value["place"] == "rejudged"}
    for event in history.of("rejudger event"):
        if event.subject not in judged:
            yield Violation(f"Old upload {short(event.subject)} was sent and is not judged again", (event,))


def worklist_has_every_second_opinion(history: History) -> Iterator[Violation]:
    """Once, with its label, and none besides."""
    stored = {_place(record): record for record in _opinions(history)}
    kept = {_place(opinion): opinion for opinion in history.of("worklist opinion")}
    counts = Counter(map(_place, history.of("worklist opinion")))
    for place in stored.keys() | kept.keys():
        record, opinion = stored.get(place), kept.get(place)
        labels = {each.value["label"] for each in (record, opinion) if each}
        if counts[place] != 1 or record is None or len(labels) > 1:
            shown = tuple(each for each in (record, opinion) if each)
            yield Violation(f"Worklist and store differ about a second opinion of {short(place[0])}", shown)


def _opinions(history: History) -> Iterator[Operation]:
    return (record for record in history.of("predictor record") if record.value["place"] != ANSWERS)


def _judged(history: History, purpose: str, version: str) -> set[str]:
    wanted = {"place": purpose, "version": version}
    return {record.subject for record in _opinions(history) if wanted.items() <= record.value.items()}


def _place(operation: Operation) -> tuple[str, str, str]:
    return operation.subject, operation.value["place"], operation.value["version"]


RULES = (
    shadows_judge_every_upload,
    back_fills_judge_every_old_upload,
    back_fills_judge_what_they_were_sent,
    worklist_has_every_second_opinion,
)
