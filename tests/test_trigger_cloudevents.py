"""CloudEvents between Kafka and HTTP, as the trigger writes them."""

import base64

from hypothesis import given
from hypothesis import strategies as st

from eventing.kafka_record import KafkaRecord, dead_letter_headers, reply_headers
from lungline.events.cloudevents import http_headers, percent_decode, percent_encode

RECORD = KafkaRecord("xray-uploads", 2, 17, b"{}", b"bucket/ward 7/\xc3\x9cn.jpg", milliseconds=1_700_000_000_123)


def test_a_record_is_sent_as_by_knatives_kafka_source() -> None:
    assert http_headers(RECORD.attributes()) == {
        "ce-specversion": "1.0",
        "ce-type": "dev.knative.kafka.event",
        "ce-source": "/apis/v1/namespaces/lungline/kafkasources/laptop#xray-uploads",
        "ce-subject": "partition:2#17",
        "ce-id": "partition:2/offset:17",
        "ce-time": "2023-11-14T22:13:20.123+00:00",
        "ce-key": "bucket/ward%207/%C3%9Cn.jpg",
        "ce-partitionkey": "bucket/ward%207/%C3%9Cn.jpg",
    }


def test_a_record_may_have_a_content_type_and_no_key() -> None:
    record = KafkaRecord("t", 0, 0, b"", content_type="application/json")
    headers = http_headers(record.attributes(), record.content_type)
    assert "ce-key" not in headers
    assert headers["content-type"] == "application/json"


def test_a_dead_letter_has_destination_code_and_reason() -> None:
    headers = dict(dead_letter_headers(RECORD, "http://127.0.0.1/predict", 400, b"x" * 2000))
    assert headers["ce_knativeerrordest"] == b"http://127.0.0.1/predict"
    assert headers["ce_knativeerrorcode"] == b"400"
    assert base64.b64decode(headers["ce_knativeerrordata"] or b"") == b"x" * 1024
    assert headers["ce_subject"] == b"partition:2#17"


def test_a_reply_that_is_a_cloudevent_keeps_its_attributes() -> None:
    answer = [("Content-Type", "application/json"), ("ce-specversion", "1.0"), ("ce-subject", "a%20b"), ("Date", "x")]
    assert reply_headers(answer) == [
        ("ce_specversion", b"1.0"),
        ("ce_subject", b"a b"),
        ("content-type", b"application/json"),
    ]


def test_a_reply_that_is_no_cloudevent_has_no_headers() -> None:
    assert reply_headers([("Content-Type", "application/json")]) is None


def test_a_structured_reply_stays_as_it_is() -> None:
    structured = "application/cloudevents+json; charset=utf-8"
    assert reply_headers([("content-type", structured)]) == [("content-type", structured.encode())]


@given(st.text())
def test_every_text_survives_percent_encoding(text: str) -> None:
    encoded = percent_encode(text.encode(errors="replace").decode())
    assert encoded.isascii()
    assert encoded.isprintable()
    assert " " not in encoded
    assert percent_decode(encoded) == text.encode(errors="replace").decode()
