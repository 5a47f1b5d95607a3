"""Readings: no reader's word is lost, changed or made up, neither in the database nor in the store."""

from collections import Counter
from collections.abc import Iterator

from tests.support.history.operations import History, Operation
from tests.support.history.violation import Violation, short

_PLACES = ("worklist reading", "store reading")


def acknowledged_readings_are_stored(history: History) -> Iterator[Violation]:
    """As the reader gave them, in the database and in the store."""
    for place in _PLACES:
        stored = _by_id(history, place)
        for word in history.of("reader say"):
            there = stored.get(word.value["id"])
            if word.outcome == "ok" and there is None:
                yield Violation(f"A reading of {short(word.subject)} was acknowledged; no {place} has it", (word,))
            elif there and word.may_have_happened and not _same(word, there):
                yield Violation(f"A {place} of {short(word.subject)} is not what the reader said", (word, there))


def stored_readings_were_given(history: History) -> Iterator[Violation]:
    """By a reader who was not refused, once each."""
    words = {word.value["id"]: word for word in history.of("reader say")}
    for place in _PLACES:
        seen: Counter[str] = Counter()
        for reading in history.of(place):
            word = words.get(reading.value["id"])
            seen[reading.value["id"]] += 1
            if word is None or not word.may_have_happened:
                yield Violation(f"Nobody was allowed to give a {place} of {short(reading.subject)}", (reading,))
            if seen[reading.value["id"]] == 2:
                yield Violation(f"A {place} of {short(reading.subject)} is there twice", (reading,))


def database_and_store_have_the_same_readings(history: History) -> Iterator[Violation]:
    """A reading without an answer may be in both or in neither."""
    database, store = (_by_id(history, place) for place in _PLACES)
    for name in database.keys() ^ store.keys():
        reading = database.get(name) or store[name]
        yield Violation(f"Only the {reading.name} has a reading of {short(reading.subject)}", (reading,))


def list_shows_the_last_verdict(history: History) -> Iterator[Violation]:
    """Of each upload that was read."""
    readings = history.by_subject("worklist reading")
    for entry in history.of("worklist entry"):
        given = [each for each in readings.get(entry.subject, []) if each.value["verdict"]]
        last = max(given, key=lambda each: each.invoked, default=None)
        if entry.value["verdict"] != (last and last.value["verdict"]):
            yield Violation(f"The list shows another verdict of {short(entry.subject)} than the last", (entry, *given))


def readings_are_audited(history: History) -> Iterator[Violation]:
    """Each by an entry of the audit log, which is written with it."""
    audited = Counter((each.subject, each.value["act"]) for each in history.of("worklist audit"))
    stored = Counter((each.subject, each.value["action"]) for each in history.of("worklist reading"))
    acts = {"read", "confirmed", "corrected", "reopened"}
    for identity, act in {place for place in audited | stored if place[1] in acts}:
        if audited[identity, act] != stored[identity, act]:
            counts = f"{stored[identity, act]} readings and {audited[identity, act]} entries of the audit log"
            yield Violation(f"Upload {short(identity)} has {counts} that say {act}")


def acknowledged_notices_stay_acknowledged(history: History) -> Iterator[Violation]:
    """All that an upload had at that time."""
    notices = history.by_subject("worklist notice")
    for word in history.of("reader acknowledge"):
        waiting = [each for each in notices.get(word.subject, []) if not each.value["acknowledged"]]
        earlier = [each for each in waiting if each.invoked < word.invoked]
        if word.outcome == "ok" and (earlier or word.subject not in notices):
            yield Violation(f"An acknowledgement of {short(word.subject)} is lost", (word, *earlier))


def _by_id(history: History, place: str) -> dict[str, Operation]:
    return {each.value["id"]: each for each in history.of(place)}


def _same(word: Operation, there: Operation) -> bool:
    return (word.subject, word.value["verdict"]) == (there.subject, there.value["verdict"])


RULES = (
    acknowledged_readings_are_stored,
    stored_readings_were_given,
    database_and_store_have_the_same_readings,
    list_shows_the_last_verdict,
    readings_are_audited,
    acknowledged_notices_stay_acknowledged,
)
