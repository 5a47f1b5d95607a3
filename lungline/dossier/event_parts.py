"""The events of a dossier: those that lie in Kafka, and those that it has forgotten and records name."""

from collections.abc import Sequence

from lungline.dossier.parts import Dossier, EventSeen

NAMED = "as the record names it; the topic was not read, or no longer has it"


def with_named(events: Sequence[EventSeen], dossier: Dossier) -> tuple[EventSeen, ...]:
    """The events, and before them those that results and second opinions name beyond them."""
    places = {f"{event.topic}/{event.partition}/{event.offset}" for event in events}
    records = (*reversed(dossier.results), *(opinion.record for opinion in dossier.opinions))
    named = dict.fromkeys(record.event for record in records if record.event and record.event not in places)
    return (*map(_named, named), *events)


def _named(place: str) -> EventSeen:
    topic, partition, offset = place.rsplit("/", 2)
    return EventSeen(topic=topic, partition=int(partition), offset=int(offset), at=None, kind="upload", remark=NAMED)
