"""How the predictor answers upload events, over HTTP, with a real store."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from lungline.datasets.phantom import jpeg
from lungline.diagnosis.diagnoser import Diagnoser
from lungline.events.uploads import Upload, minio_record
from lungline.results import record_store
from lungline.results.events import RESULT_SOURCE, RESULT_TYPE, RESULTS_TYPE
from lungline.results.records import ResultRecord
from lungline.storage.s3 import Storage
from tests.support.object_store import free_ports
from tests.support.predictor import (
    IMAGE,
    KNATIVE,
    PREDICT,
    RESULTS,
    UPLOADS,
    Predictor,
    b64,
    deliver,
    event,
    put,
    running_predictor,
)


def test_a_binary_event_is_answered_with_a_binary_result_event(
    predictor: Predictor, store: Storage, diagnoser: Diagnoser
) -> None:
    upload = put(store)
    # As Knative sends what MinIO produced: no content type at all.
    reply = predictor.http.post(PREDICT, content=json.dumps(minio_record(upload)), headers=KNATIVE)
    assert reply.status_code == 200, reply.text
    record = ResultRecord.model_validate_json(reply.content)
    assert (record.outcome, record.probability) == ("judged", diagnoser.diagnose(IMAGE).probability)
    assert [record] == record_store.find(store, RESULTS, upload.identity)
    assert record.event == "xray-uploads/0/7"
    assert reply.headers["ce-type"] == RESULT_TYPE
    assert reply.headers["ce-source"] == RESULT_SOURCE
    assert (reply.headers["ce-specversion"], reply.headers["ce-id"]) == ("1.0", record.id)
    assert reply.headers["ce-subject"] == upload.identity
    assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "content_type", ["application/cloudevents+json", "application/cloudevents+json; charset=utf-8"]
)
def test_a_structured_event_is_answered_in_structured_mode(
    predictor: Predictor, store: Storage, content_type: str
) -> None:
    upload = put(store)
    wrapped = {
        "specversion": "1.0",
        "id": "7",
        "source": "/s",
        "type": "dev.knative.kafka.event",
        "data": event(upload),
    }
    reply = predictor.http.post(PREDICT, content=json.dumps(wrapped), headers={"content-type": content_type})
    assert reply.headers["content-type"] == "application/cloudevents+json"
    answer = reply.json()
    record = ResultRecord.model_validate(answer["data"])
    assert (answer["type"], answer["source"], answer["id"]) == (RESULT_TYPE, RESULT_SOURCE, record.id)
    assert record.upload.key == upload.key


def test_a_plain_record_is_an_event_too(predictor: Predictor, store: Storage) -> None:
    reply = predictor.http.post(PREDICT, json=minio_record(put(store)))
    assert reply.headers["ce-type"] == RESULT_TYPE
    assert ResultRecord.model_validate_json(reply.content).outcome == "judged"


def test_a_duplicate_is_answered_with_the_same_event(predictor: Predictor, store: Storage) -> None:
    upload = put(store)
    with ThreadPoolExecutor(10) as pool:
        replies = list(pool.map(lambda _: deliver(predictor, upload), range(50)))
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.content for reply in replies}) == 1
    assert len({(reply.headers["ce-id"], reply.headers["ce-time"]) for reply in replies}) == 1
    assert len(record_store.find(store, RESULTS, upload.identity)) == 1


def test_all_records_are_predicted_when_one_is_refused(predictor: Predictor, store: Storage) -> None:
    uploads = [put(store), put(store, b"not an image"), put(store, jpeg(2, opacities=False))]
    reply = deliver(predictor, *uploads)
    assert reply.status_code == 200
    assert reply.headers["ce-type"] == RESULTS_TYPE
    records = [ResultRecord.model_validate(record) for record in reply.json()["records"]]
    assert [record.outcome for record in records] == ["judged", "refused", "judged"]
    assert [record.upload.key for record in records] == [upload.key for upload in uploads]


def test_what_an_event_has_achieved_is_not_done_again(predictor: Predictor, store: Storage) -> None:
    """A sender that gives up on a large event sends it again, and again."""
    uploads = [put(store), put(store, jpeg(2, opacities=False))]
    first = deliver(predictor, *uploads)
    present = replace(uploads[0], etag=store.put(UPLOADS, uploads[0].key, jpeg(3, opacities=True)))
    again = deliver(predictor, *uploads)
    assert again.json() == first.json()
    assert record_store.find(store, RESULTS, present.identity) == []


def test_an_event_of_thousands_of_records_is_refused_before_any_work(predictor: Predictor, store: Storage) -> None:
    upload = put(store)
    stored = {"bucket": {"name": UPLOADS}, "object": {"key": upload.key, "eTag": upload.etag}}
    records = [{"eventName": "ObjectCreated:Put", "s3": stored}] * 3000
    reply = predictor.http.post(PREDICT, json={"Records": records})
    assert reply.status_code == 400, "which nobody sends again"
    assert "more than 500 records" in reply.text
    assert record_store.find(store, RESULTS, upload.identity) == []


def test_a_refused_image_is_400_and_has_a_record(predictor: Predictor, store: Storage) -> None:
    upload = put(store, b"not an image")
    reply = deliver(predictor, upload)
    assert reply.status_code == 400
    assert reply.json()["reason"] == "not-an-image"
    assert "Doe" not in reply.text
    (record,) = record_store.find(store, RESULTS, upload.identity)
    assert record.label == "Refused"


def test_an_image_that_is_too_large_is_refused(predictor: Predictor, store: Storage) -> None:
    reply = deliver(predictor, put(store, bytes(1_000_001)))
    assert (reply.status_code, reply.json()["reason"]) == (400, "too-large")


def test_a_deleted_object_ends_as_gone(predictor: Predictor, store: Storage) -> None:
    upload = put(store)
    store.delete(UPLOADS, upload.key)
    reply = deliver(predictor, upload)
    assert (reply.status_code, reply.json()["outcome"], reply.json()["label"]) == (200, "gone", None)


def test_an_overwritten_object_ends_as_superseded(predictor: Predictor, store: Storage) -> None:
    upload = put(store)
    newer = put(store, jpeg(2, opacities=False), upload.key)
    stale, current = deliver(predictor, upload).json(), deliver(predictor, newer).json()
    assert (stale["outcome"], stale["label"], stale["superseded_by"]) == ("superseded", None, newer.identity)
    assert (current["outcome"], current["read"]["etag"]) == ("judged", newer.etag)


def test_a_test_event_is_204(predictor: Predictor) -> None:
    reply = predictor.http.post(PREDICT, json={"Service": "Amazon S3", "Event": "s3:TestEvent"}, headers=KNATIVE)
    assert (reply.status_code, reply.content) == (204, b"")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"null",
        b"{}",
        b"[" * 5000,
        json.dumps(event(Upload("lungline-models", "pneumonia/1/card.json"))).encode(),
        json.dumps(event(Upload(UPLOADS, "x"))).encode() + b" " * 2**20,
    ],
    ids=["empty", "not text", "null", "no records", "deep", "another bucket", "huge"],
)
def test_a_malformed_event_is_400_with_one_sentence(predictor: Predictor, body: bytes) -> None:
    for headers in (KNATIVE, {"content-type": "application/json"}, {"content-type": "application/cloudevents+json"}):
        reply = predictor.http.post(PREDICT, content=body, headers=headers)
        assert reply.status_code == 400
        assert reply.json()["error"].endswith(".")


@pytest.mark.parametrize(
    "key", ["../lungline-results/x", "file:///etc/passwd", "http://169.254.169.254/latest/meta-data"]
)
def test_a_key_like_a_path_or_url_reaches_nothing(predictor: Predictor, key: str) -> None:
    assert deliver(predictor, Upload(UPLOADS, key, etag="e")).json()["outcome"] == "gone"


def test_a_store_that_is_down_is_503(versions: Path, tmp_path: Path) -> None:
    with running_predictor(versions / "1", f"http://127.0.0.1:{free_ports(1)[0]}", tmp_path / "log") as lonely:
        lonely.wait(lonely.ready)
        reply = deliver(lonely, Upload(UPLOADS, "Doe-Jane.jpeg"))
        assert reply.status_code == 503
        assert "Doe" not in reply.text
        assert lonely.http.post(PREDICT, json={"instances": [b64(IMAGE)]}).status_code == 200
