"""CloudEvents between Kafka and HTTP, as the trigger writes them."""

import base64
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventing.batches import body_of, joins
from eventing.kafka_record import KafkaRecord, bare_letter_headers, dead_letter_headers, reply_headers
from lungline.events.cloudevents import (
    BATCHED,
    MAX_EVENT_BYTES,
    http_headers,
    parse_all,
    percent_decode,
    percent_encode,
)

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


@pytest.mark.parametrize("milliseconds", [-1, -(2**62), 253_402_300_800_000, 2**62, 0])
def test_a_record_of_an_impossible_time_is_sent_and_buried_without_it(milliseconds: int) -> None:
    record = KafkaRecord("t", 0, 0, b"", milliseconds=milliseconds)
    assert "time" not in record.attributes()
    assert dead_letter_headers(record, "http://127.0.0.1/", 400, b"")


@pytest.mark.parametrize("name", ["", "two words", "line\nbreak", "\u00fcber", "x" * 41, "colon:"])
def test_attributes_that_no_header_can_carry_are_left_out(name: str) -> None:
    class Message:
        def headers(self) -> list[tuple[str, bytes | None]]:
            return [
                ("ce_specversion", b"1.0"),
                (f"ce_{name}", b"x"),
                ("ce_type", b"t" * 9000),
                ("content-type", b"a\nb"),
            ]

        def key(self) -> None: ...
        def topic(self) -> str:
            return "t"

        def partition(self) -> int:
            return 0

        offset = partition

        def value(self) -> bytes:
            return b""

        def timestamp(self) -> tuple[int, int]:
            return 1, 2**62

    record = KafkaRecord.of(Message())  # pyright: ignore[reportArgumentType] - confluent-kafka's cannot be made
    assert record.attributes() == {"specversion": "1.0", "type": "t" * 4096}
    assert record.content_type is None


def event_record(value: bytes, content_type: str | None = "application/json", **attributes: str) -> KafkaRecord:
    event = {"specversion": "1.0", "type": "t", "id": "1", "source": "/ü"} | attributes
    return KafkaRecord("t", 0, 0, value, content_type=content_type, event=event)


def test_records_of_a_batch_arrive_as_they_are() -> None:
    records = [event_record(b'{"n": 1, "text": "\xc3\xbc"}'), event_record(b"[]", type="other")]
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    events = parse_all({"content-type": BATCHED}, body_of(records, [trace, None]))
    assert [(event.type, event.data, event.trace) for event in events] == [
        ("t", {"n": 1, "text": "\u00fc"}, trace),
        ("other", [], None),
    ]


@pytest.mark.parametrize(
    "record",
    [
        event_record(b'1}, {"specversion": "1.0", "type": "smuggled", "data": 2'),
        event_record(b""),
        event_record(b"NaN"),
        event_record(b"1", None),
        event_record(b"1", "application/cloudevents+json"),
        event_record(b"1", data="2"),
        event_record(b'"%s"' % (b"x" * MAX_EVENT_BYTES)),
        event_record(b"1", **{f"a{number}": "\u00e9" * 4096 for number in range(30)}),
        KafkaRecord("t", 0, 0, b"1", content_type="application/json"),
    ],
)
def test_what_is_no_small_json_event_shares_no_request(record: KafkaRecord) -> None:
    assert not joins([event_record(b"1")], record, 50)
    assert not joins([record], event_record(b"1"), 50)


def test_a_batch_has_bounds() -> None:
    small, large = event_record(b"1"), event_record(b'"%s"' % (b"x" * 300_000))
    assert joins([small] * 4, small, 5)
    assert not joins([small] * 5, small, 5)
    assert joins([small], large, 5)
    assert not joins([small, large], large, 5)
    assert len(body_of([small, large], [None] * 2)) < MAX_EVENT_BYTES


def test_burying_a_dead_letter_cannot_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong, the record ends: it would hold its partition for ever."""
    from eventing import delivery
    from eventing.delivery import Dispatcher
    from eventing.offsets import OffsetTracker
    from eventing.producer import Outbox
    from eventing.routes import RetryPolicy, Route
    from lungline.settings import Settings

    def broken(*_: object) -> None:
        raise OverflowError

    monkeypatch.setattr(KafkaRecord, "attributes", broken)
    outbox = Outbox(Settings(kafka_bootstrap="127.0.0.1:9"))
    route = Route("r", "t", "g", "http://127.0.0.1:9/", dead_letters="dead", retry=RetryPolicy(retries=0))
    dispatcher, tracker = Dispatcher(route, outbox), OffsetTracker(-1)
    written = threading.Event()
    monkeypatch.setattr(outbox, "put", lambda *_: written.set() or True)
    try:
        dispatcher.dispatch_batch([(KafkaRecord("t", 0, 0, b"x"), tracker)])
        assert written.wait(10), "a letter with bare attributes"
        monkeypatch.setattr(delivery, "bare_letter_headers", broken)
        dispatcher.dispatch_batch([(KafkaRecord("t", 0, 1, b"x"), later := OffsetTracker(0))])
        deadline = threading.Event()
        for _ in range(100):
            if later.done == 1:
                break
            deadline.wait(0.1)
        assert later.done == 1, "given up, and told in the log"
    finally:
        outbox.clear()
        dispatcher.end()
    assert dict(bare_letter_headers(500))["ce_knativeerrorcode"] == b"500"
