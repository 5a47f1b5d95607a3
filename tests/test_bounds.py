"""What comes from outside is bounded where it enters, and a value out of bounds hides nothing else."""

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lungline import bounds
from lungline.errors import EventMalformed
from lungline.events.uploads import Upload, minio_record, parse
from lungline.monitoring.monitor import record_keys, records
from lungline.results import latest_list, record_store
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.predictor import RESULTS
from tests.support.worklist_site import home, record
from worklist.database.rebuild import rebuild
from worklist.database.session import Database


@pytest.mark.parametrize(
    "text",
    ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59-14:00", "1999-12-31T23:59:59Z", "soon"],
)
def test_times_that_cannot_be_are_unknown(text: str) -> None:
    assert bounds.moment_of(text) is None
    event = minio_record(Upload("xray-uploads", "a.png", None, "e"))
    event["Records"][0]["eventTime"] = text
    (upload,) = parse(event)
    assert upload.uploaded_at is None


def test_a_clock_may_be_a_little_ahead() -> None:
    now = datetime.now(UTC)
    assert bounds.moment(now + timedelta(minutes=4)) is not None
    assert bounds.moment(now + timedelta(minutes=6)) is None
    assert bounds.moment(now.replace(tzinfo=None)) == now
    assert bounds.moment_at(now.timestamp() * 1000) is not None
    assert bounds.moment_at(float("nan")) is None
    assert bounds.moment_at(2**70) is None


@pytest.mark.parametrize("size", [2**50 + 1, 10**4000, "9" * 19, True, -1])
def test_sizes_that_no_object_has_are_refused(size: Any) -> None:
    event = minio_record(Upload("xray-uploads", "a.png", None, "e"))
    event["Records"][0]["s3"]["object"]["size"] = size
    with pytest.raises(EventMalformed, match="number of bytes"):
        parse(event)


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": -Infinity}', f'{{"a": {"9" * 5000}}}'])
def test_numbers_that_json_does_not_have_are_refused(text: str) -> None:
    with pytest.raises(EventMalformed, match="not JSON"):
        parse(text)


def test_an_event_of_thousands_of_records_is_refused_at_once() -> None:
    (first,) = minio_record(Upload("xray-uploads", "a.png", None, "e"))["Records"]
    assert len(parse({"Records": [first] * bounds.MAX_UPLOADS})) == bounds.MAX_UPLOADS
    with pytest.raises(EventMalformed, match="more than 500 records"):
        parse({"Records": [first] * 3000})


def test_the_name_of_a_heatmap_is_bounded_at_both_ends() -> None:
    for year in (1, 9999):
        key = latest_list.heatmap_key("ab", "1", datetime(year, 6, 1, tzinfo=UTC))
        assert key.removeprefix(latest_list.LATEST).split("-")[0].isdigit()


def test_foreign_objects_stop_neither_monitoring_nor_listing_nor_a_rebuild(tmp_path: Path, store: Storage) -> None:
    genuine = record(1, heatmap=True)
    record_store.save(store, RESULTS, genuine)
    store.put(RESULTS, genuine.heatmap or "", b"png")
    for name in ("-243402059801-ab-1.png", "no name", "9-", f"0000000001-{'c' * 32}-1.png"):
        store.put(RESULTS, f"{latest_list.LATEST}{name}", b"")
    document = json.loads(genuine.model_dump_json())
    document["times"]["done"] = "9999-01-01T00:00:00Z"
    odd = genuine.model_copy(update={"upload": genuine.upload.model_copy(update={"identity": "c" * 32})})
    store.put(RESULTS, odd.key, json.dumps(document).encode())
    store.put(RESULTS, "results/xx/huge.json", b" " * (bounds.MAX_RECORD_BYTES + 1))
    store.put(RESULTS, "results/xx/none.json", b"[")
    since = genuine.times.received - timedelta(days=1)
    keys = [key for key, _ in record_keys(store, RESULTS, since)]
    assert keys == [genuine.key, odd.key]
    assert list(records(store, RESULTS, keys)) == [genuine, None]
    assert genuine in record_store.latest(store, RESULTS, 5)
    with closing(Database.open(home(tmp_path))) as database:
        rebuilt = rebuild(database, store, Settings())
        assert (rebuilt.added, rebuilt.odd) == (1, 3)
