"""Stored JSON documents name their schema, and documents of the first schema still open."""

import json

import pytest
from pydantic import BaseModel, ValidationError

from lungline.monitoring.findings import MonitoringFindings
from lungline.monitoring.reference import Reference
from lungline.package.card import Card
from lungline.results.readings import ReadingRecord
from lungline.results.records import ResultRecord
from lungline.task.reading import default_task

RECORD = {
    "form": 1,
    "id": "98b591df201cbfc24fc38678a708ad61-1",
    "outcome": "judged",
    "label": "Unsure",
    "probability": 0.5,
    "thresholds": {"low": 0.3, "high": 0.7, "operating": 0.5},
    "warnings": ["12 bit reduced to 8"],
    "model": {"name": "pneumonia", "version": "1", "run_id": "0a7d", "sha256": "fe07", "synthetic": True},
    "upload": {
        "identity": "98b591df201cbfc24fc38678a708ad61",
        "bucket": "xray-uploads",
        "key": "ward 7/person1_1.jpeg",
        "version_id": None,
        "etag": "f4d3",
        "sequencer": "18EB",
    },
    "picture": {"format": "jpeg", "width": 640, "height": 480},
    "heatmap": "latest/8204369558-98b591df201cbfc24fc38678a708ad61-1.png",
    "times": {"uploaded": None, "received": "2026-11-25T18:14:01Z", "done": "2026-11-25T18:14:02Z"},
    "observed": {"statistics": {"mean": 101.5}, "embedding": [0.25, -1.0]},
}
READING = {
    "form": 1,
    "id": "cb516c9bbd2b9b8c255e9325658c7910",
    "identity": "98b591df201cbfc24fc38678a708ad61",
    "record": "98b591df201cbfc24fc38678a708ad61-1",
    "version": "1",
    "label": "Unsure",
    "probability": 0.5,
    "action": "corrected",
    "verdict": "Normal",
    "comment": "rotated",
    "reader": "dr.adams",
    "at": "2026-11-25T18:14:05Z",
}
CARD = {
    "form": 1,
    "preparation": {"size": 32, "geometry": "stretch", "normalisation": "equalise"},
    "thresholds": {"low": 0.3, "high": 0.7, "operating": 0.5, "chosen": "By hand."},
    "data": {"name": "phantom", "digest": "0" * 64, "synthetic": True},
    "code": {"version": "0.1.0"},
}
FINDINGS = {
    "form": 1,
    "at": "2026-11-25T18:14:05Z",
    "since": "2026-11-18T18:14:05Z",
    "window": 200,
    "alarm_rate": 0.01,
    "models": [],
}
REFERENCE = {"form": 1, "split": "val", "pictures": 0, "labels": [], "scores": [], "observed": [], "patients": []}

STORED: list[tuple[type[BaseModel], dict[str, object], int]] = [
    (ResultRecord, RECORD, 3),
    (ReadingRecord, READING, 1),
    (Card, CARD, 2),
    (MonitoringFindings, FINDINGS, 1),
    (Reference, REFERENCE, 1),
]
NAMES = [kind.__name__ for kind, _, _ in STORED]


@pytest.mark.parametrize(("kind", "document", "version"), STORED, ids=NAMES)
def test_the_first_schema_is_still_read(kind: type[BaseModel], document: dict[str, object], version: int) -> None:
    """A document that says `form: 1` opens, and is written again with the present schema version."""
    opened = kind.model_validate_json(json.dumps(document))
    written = json.loads(opened.model_dump_json())
    assert written["schema_version"] == version
    assert "form" not in written
    assert kind.model_validate(written) == opened


@pytest.mark.parametrize(("kind", "document", "version"), STORED, ids=NAMES)
def test_a_schema_of_a_later_release_is_refused(
    kind: type[BaseModel], document: dict[str, object], version: int
) -> None:
    later = {name: value for name, value in document.items() if name != "form"} | {"schema_version": version + 1}
    with pytest.raises(ValidationError, match="schema_version"):
        kind.model_validate(later)


def test_what_earlier_releases_wrote_is_of_the_default_task() -> None:
    second = {**json.loads(ResultRecord.model_validate(RECORD).model_dump_json()), "schema_version": 2}
    del second["task"], second["findings"]
    assert ResultRecord.model_validate(second) == ResultRecord.model_validate(RECORD)
    assert ResultRecord.model_validate(second).task == "pneumonia"
    card = Card.model_validate({name: value for name, value in CARD.items() if name != "form"} | {"schema_version": 1})
    assert card.thresholds == Card.model_validate(CARD).thresholds
    assert card.task == default_task()


def test_renamed_fields_of_a_result_keep_their_values() -> None:
    record = ResultRecord.model_validate_json(json.dumps(RECORD))
    assert record.image is not None
    assert (record.image.format, record.image.width, record.image.height) == ("jpeg", 640, 480)
    assert record.image_statistics is not None
    assert record.image_statistics.statistics == {"mean": 101.5}
    assert record.image_statistics.embedding == (0.25, -1.0)
    assert not {"form", "picture", "observed"} & json.loads(record.model_dump_json()).keys()


def test_a_record_of_the_present_schema_refuses_old_names() -> None:
    mixed = {name: value for name, value in RECORD.items() if name != "form"} | {"schema_version": 3}
    with pytest.raises(ValidationError, match="picture"):
        ResultRecord.model_validate(mixed)


def test_the_number_of_images_of_a_reference_keeps_its_key() -> None:
    reference = Reference.model_validate(REFERENCE | {"pictures": 5})
    assert reference.images == json.loads(reference.model_dump_json())["pictures"] == 5
