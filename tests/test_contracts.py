"""docs/contracts.md is true: the code reads every example and would write it again."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from lungline.events.uploads import minio_record, parse
from lungline.package.card import Card
from lungline.registry import history
from lungline.registry.history import PromotionEntry
from lungline.results.events import check, opinion_event, result_event
from lungline.results.readings import ReadingRecord
from lungline.results.records import ResultRecord
from lungline.settings import setting_descriptions, variable

TEXT = (Path(__file__).parent.parent / "docs/contracts.md").read_text()
MODELS: dict[str, type[BaseModel]] = {
    "result record": ResultRecord,
    "reading record": ReadingRecord,
    "card": Card,
    "history entry": PromotionEntry,
}


def example(name: str) -> dict[str, Any]:
    blocks = re.findall(rf"<!-- example: {name} -->\n```json\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(blocks) == 1
    return json.loads(blocks[0])


@pytest.mark.parametrize(("name", "model"), MODELS.items())
def test_an_example_is_what_the_code_reads_and_writes(name: str, model: type[BaseModel]) -> None:
    document = example(name)
    assert model.model_validate_json(json.dumps(document)).model_dump(mode="json") == document


def test_every_example_is_tried() -> None:
    named = re.findall(r"<!-- example: (.+) -->", TEXT)
    assert sorted(named) == sorted([*MODELS, "upload event", "result event", "second opinion event"])


def test_the_upload_event_has_the_identity_stated() -> None:
    (upload,) = parse(example("upload event"))
    assert minio_record(upload) == example("upload event")
    assert f"The upload above is `{upload.identity}`" in TEXT
    record = ResultRecord.model_validate(example("result record"))
    assert record.upload.identity == upload.identity
    assert (record.upload.key, record.upload.etag) == (upload.key, upload.etag)


def test_the_result_record_contradicts_itself_nowhere() -> None:
    record = ResultRecord.model_validate(example("result record"))
    check(record)
    assert record.evidence
    assert record.evidence.cells.shape == (record.evidence.height, record.evidence.width)


def test_the_result_event_is_that_of_the_record() -> None:
    record = ResultRecord.model_validate(example("result record"))
    document = example("result event")
    assert result_event([record], document["traceparent"]).attributes == document


def test_the_second_opinion_event_is_that_of_the_record() -> None:
    record = ResultRecord.model_validate(example("result record"))
    document = example("second opinion event")
    event = opinion_event([record], document["traceparent"], "shadow")
    assert {**event.attributes, "data": json.loads(event.data)} == document


def test_the_history_entry_has_its_own_hash() -> None:
    document = example("history entry")
    assert document["hash"] == history._hash(document)  # noqa: SLF001 - how entries are checked


def test_keys_topics_and_buckets_are_those_of_the_code() -> None:
    defaults = {variable(name): default for name, default, _ in setting_descriptions()}
    named = re.findall(r"^\| `([a-z-]+)` \(`(LUNGLINE_[A-Z_]+)`\)", TEXT, flags=re.MULTILINE)
    assert {setting: name for name, setting in named} == {
        name: default for name, default in defaults.items() if name.endswith(("_BUCKET", "_TOPIC"))
    }
    record = ResultRecord.model_validate(example("result record"))
    assert record.key == "results/31/3144623aebb523d4772ac39154236c70/3.json"
    reading = ReadingRecord.model_validate(example("reading record"))
    assert reading.key.startswith("readings/31/3144623aebb523d4772ac39154236c70/")
