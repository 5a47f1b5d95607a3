import base64
import contextlib
import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungline.errors import EventMalformed
from lungline.events.cloudevents import MAX_EVENT_BYTES, place_of
from lungline.events.uploads import Upload, kafka_key, minio_record, parse, readable_key

KEY = "ward 7/Ünïcode + 100%/a=b&c.jpeg"

MINIO = {
    "EventName": "s3:ObjectCreated:Put",
    "Key": f"xray-uploads/{KEY}",
    "Records": [
        {
            "eventVersion": "2.0",
            "eventSource": "minio:s3",
            "awsRegion": "",
            "eventTime": "2026-05-18T07:34:32.123Z",
            "eventName": "s3:ObjectCreated:Put",
            "userIdentity": {"principalId": "scanner"},
            "requestParameters": {"principalId": "scanner", "region": "", "sourceIPAddress": "172.18.0.1"},
            "responseElements": {
                "x-amz-id-2": "dd9025bab4ad464b049177c95eb6ebf374d3b3fd1af9251148b658df7ac2e3e8",
                "x-amz-request-id": "159FB6B233B08AF0",
                "x-minio-deployment-id": "cd7a0eb7-a1f9-48d9-b21a-56366d75cfdd",
                "x-minio-origin-endpoint": "http://172.18.0.6:9000",
            },
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "Config",
                "bucket": {
                    "name": "xray-uploads",
                    "ownerIdentity": {"principalId": "scanner"},
                    "arn": "arn:aws:s3:::xray-uploads",
                },
                "object": {
                    "key": "ward+7%2F%C3%9Cn%C3%AFcode+%2B+100%25%2Fa%3Db%26c.jpeg",
                    "size": 629648,
                    "eTag": "b7ce786cd89b182bfd5ae765557bbc37",
                    "contentType": "image/jpeg",
                    "userMetadata": {"content-type": "image/jpeg"},
                    "sequencer": "15612487A9DF732C",
                },
            },
            "source": {"host": "172.18.0.1", "port": "", "userAgent": "Boto3/1.44"},
        }
    ],
}

AWS = {
    "Records": [
        {
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": "us-west-2",
            "eventTime": "1970-01-01T00:00:00.000Z",
            "eventName": "ObjectCreated:Put",
            "userIdentity": {"principalId": "AIDAJDPLRKLG7UEXAMPLE"},
            "requestParameters": {"sourceIPAddress": "127.0.0.1"},
            "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURIY8/IgAtTv8xRj"},
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "testConfigRule",
                "bucket": {
                    "name": "xray-uploads",
                    "ownerIdentity": {"principalId": "A3NL1KOZZKExample"},
                    "arn": "arn:aws:s3:::xray-uploads",
                },
                "object": {
                    "key": "ward+7/%C3%9Cn%C3%AFcode+%2B+100%25/a%3Db%26c.jpeg",
                    "size": 1024,
                    "eTag": "d41d8cd98f00b204e9800998ecf8427e",
                    "versionId": "096fKKXTRTtl3on89fVO.nfljtsv6qko",
                    "sequencer": "0055AED6DCD90281E5",
                },
            },
        }
    ]
}

CEPH = {
    "Records": [
        {
            "eventVersion": "2.2",
            "eventSource": "ceph:s3",
            "awsRegion": "zonegroup1",
            "eventTime": "2019-11-22T13:47:35.124724Z",
            "eventName": "s3:ObjectCreated:Put",
            "userIdentity": {"principalId": "tester"},
            "requestParameters": {"sourceIPAddress": ""},
            "responseElements": {
                "x-amz-request-id": "503a4c37-85eb-47cd-8681-2817e80b4281.5330.903595",
                "x-amz-id-2": "14d2-zone1-zonegroup1",
            },
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "mynotif1",
                "bucket": {
                    "name": "xray-uploads",
                    "ownerIdentity": {"principalId": "tester"},
                    "arn": "arn:aws:s3:zonegroup1::xray-uploads",
                    "id": "503a4c37-85eb-47cd-8681-2817e80b4281.5332.38",
                },
                "object": {
                    "key": KEY,
                    "size": "1024",
                    "eTag": '"37b51d194a7513e45b56f6524f2d51f2"',
                    "versionId": "",
                    "sequencer": "F7E6D75DC742D108",
                    "metadata": [],
                    "tags": [],
                },
            },
            "eventId": "1574430455.124724.37b51d194a7513e45b56f6524f2d51f2",
            "opaqueData": "me@example.com",
        }
    ]
}


def changed(message: dict[str, Any], section: tuple[str, ...], **values: Any) -> dict[str, Any]:
    """A copy of the message with fields of the record, its bucket or its object changed; None removes one."""
    message = copy.deepcopy(message)
    target = message["Records"][0]
    for name in section:
        target = target[name]
    target.update(values)
    return message


def test_a_minio_event_gives_the_upload() -> None:
    assert parse(json.dumps(MINIO).encode()) == [
        Upload(
            bucket="xray-uploads",
            key=KEY,
            etag="b7ce786cd89b182bfd5ae765557bbc37",
            sequencer="15612487A9DF732C",
            size=629648,
            uploaded_at=datetime(2026, 5, 18, 7, 34, 32, 123000, tzinfo=UTC),
        )
    ]


def test_an_aws_event_has_no_prefix_and_a_version() -> None:
    (upload,) = parse(AWS)
    assert upload.key == KEY
    assert upload.version_id == "096fKKXTRTtl3on89fVO.nfljtsv6qko"


def test_a_ceph_event_is_parsed() -> None:
    """A ceph event has a raw key a quoted etag and an empty version."""
    (upload,) = parse(CEPH)
    assert (upload.key, upload.version_id, upload.size) == (KEY, None, 1024)
    assert upload.etag == "37b51d194a7513e45b56f6524f2d51f2"


def test_a_test_event_tells_of_no_upload() -> None:
    assert parse({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "xray-uploads"}) == []


@pytest.mark.parametrize("name", ["s3:ObjectRemoved:Delete", "ObjectRemoved:DeleteMarkerCreated", "s3:TestEvent"])
def test_other_events_tell_of_no_upload_whatever_they_hold(name: str) -> None:
    assert parse({"Records": [{"eventName": name, "s3": None}]}) == []


@pytest.mark.parametrize("name", ["s3:ObjectCreated:CompleteMultipartUpload", "ObjectCreated:Copy", "ObjectCreated:*"])
def test_every_kind_of_creation_is_an_upload(name: str) -> None:
    assert len(parse(changed(MINIO, (), eventName=name))) == 1


def test_several_records_give_several_uploads_in_order() -> None:
    both = {"Records": AWS["Records"] + [{"eventName": "s3:ObjectRemoved:Delete"}] + MINIO["Records"]}
    assert parse(both) == parse(AWS) + parse(MINIO)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda event: {"specversion": "1.0", "id": "1", "source": "/x", "type": "t", "data": event},
        lambda event: {"specversion": "1.0", "id": "1", "source": "/x", "type": "t", "data": json.dumps(event)},
        lambda event: {"specversion": "1.0", "data_base64": base64.b64encode(json.dumps(event).encode()).decode()},
        lambda event: event["Records"],
        lambda event: event["Records"][0],
        json.dumps,
    ],
    ids=["structured", "structured with text", "structured with base64", "bare list", "bare record", "text"],
)
def test_an_event_may_be_wrapped(wrap: Callable[[Any], Any]) -> None:
    assert parse(wrap(MINIO)) == parse(MINIO)


def test_absent_fields_are_absent() -> None:
    record = {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "b"}, "object": {"key": "k"}}}
    assert parse([record]) == [Upload(bucket="b", key="k")]


ODD_KEYS = [
    "a\tb.jpg",
    "a\nb.jpg",
    "a\r\nb.jpg",
    "a\x07\x1b[31mb.jpg",
    "a\x01\x7f\x85b.jpg",
    "100%.jpg",
    "%41%0A%2F.jpg",
    "a+b c.jpg",
    "a//b.jpg",
    "./a/../b/.",
    " a ",
    "a\u202egpj.dcm",
    "\u200ea\u2028b\ufeff",
    "\uffff",
    "k" * 1024,
    "é" * 512,
]


@pytest.mark.parametrize("key", ODD_KEYS, ids=ascii)
def test_any_key_that_s3_allows_is_an_upload(key: str) -> None:
    """In each dialect, and as the bridge writes it."""
    for message in (
        changed(MINIO, ("s3", "object"), key=quote_plus(key, safe="")),
        changed(AWS, ("s3", "object"), key=quote_plus(key, safe="/")),
        changed(CEPH, ("s3", "object"), key=key),
        minio_record(Upload("xray-uploads", key)),
    ):
        (upload,) = parse(json.dumps(message))
        assert upload.key == key
        assert len(upload.identity) == 32
        assert key.encode() not in kafka_key(upload).encode()


@pytest.mark.parametrize(
    "key",
    [
        ".DS_Store",
        "ward/Thumbs.db",
        "ward/._person1.jpeg",
        "DESKTOP.INI",
        "__MACOSX/a/b.dcm",
        "Icon\r",
        "a/@eaDir/x.jpg",
    ],
)
def test_files_of_operating_systems_are_no_uploads(key: str) -> None:
    message = changed(MINIO, ("s3", "object"), key=quote_plus(key, safe=""))
    message["Records"].append(MINIO["Records"][0])
    assert [upload.key for upload in parse(message)] == [KEY]


@pytest.mark.parametrize(
    ("key", "readable"),
    [
        ("ward 7/Ünïcode 日本.jpg", "ward 7/Ünïcode 日本.jpg"),
        ("a\tb\nc\rd", r"a\tb\nc\rd"),
        ("a\x1b[31m\x07", r"a\x1b[31m\x07"),
        ("a\u202egpj.exe", r"a\u202egpj.exe"),
        ("a\u200bb\u2028c\ufeff", r"a\u200bb\u2028c\ufeff"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        (" a b  ", "␣a b␣␣"),
        (" ", "␣"),
        ("", ""),
    ],
)
def test_a_readable_key_hides_nothing(key: str, readable: str) -> None:
    assert readable_key(key) == readable


def test_an_odd_time_is_ignored() -> None:
    """An odd time does not keep an upload from being diagnosed."""
    (upload,) = parse(changed(MINIO, (), eventTime="yesterday"))
    assert upload.uploaded_at is None


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff\xfe",
        b"not json",
        b"null",
        b"7",
        b'"Records"',
        b"{}",
        b'{"Records": null}',
        b'{"Records": {}}',
        b'{"Records": [7]}',
        b'{"Records": [{}]}',
        b'{"specversion": "1.0"}',
        b'{"specversion": "1.0", "data_base64": "%%%"}',
        b'{"specversion": "1.0", "data": {"specversion": "1.0", "data": []}}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"Records": [' + b"9" * 5000 + b"]}",
        b" " * (MAX_EVENT_BYTES + 1),
        changed(MINIO, (), eventName=None),
        changed(MINIO, (), eventName=["s3:ObjectCreated:Put"]),
        changed(MINIO, (), eventTime=1574430455),
        changed(MINIO, (), s3=None),
        changed(MINIO, ("s3",), bucket="xray-uploads"),
        changed(MINIO, ("s3",), object=[]),
        changed(MINIO, ("s3", "bucket"), name=""),
        changed(MINIO, ("s3", "bucket"), name="../etc"),
        changed(MINIO, ("s3", "bucket"), name="a\nb"),
        changed(MINIO, ("s3", "object"), key=""),
        changed(MINIO, ("s3", "object"), key=None),
        changed(MINIO, ("s3", "object"), key=7),
        changed(MINIO, ("s3", "object"), key="SECRET%00"),
        changed(MINIO, ("s3", "object"), key="SECRET%00%0A"),
        changed(MINIO, ("s3", "object"), key="SECRET%ED%A0%80"),
        changed(MINIO, ("s3", "object"), key="SECRET%FF"),
        changed(MINIO, ("s3", "object"), key="SECRET\ud800"),
        changed(MINIO, ("s3", "object"), key="SECRET" * 200),
        changed(MINIO, ("s3", "object"), eTag="\ud800"),
        changed(MINIO, ("s3", "object"), eTag="\n"),
        changed(MINIO, ("s3", "object"), sequencer="0" * 2000),
        changed(MINIO, ("s3", "object"), size=-1),
        changed(MINIO, ("s3", "object"), size=True),
        changed(MINIO, ("s3", "object"), size=1.5),
        changed(MINIO, ("s3", "object"), size="many"),
    ],
    ids=lambda message: repr(message)[:40] if isinstance(message, bytes) else None,
)
def test_a_malformed_event_is_refused_without_showing_its_key(message: Any) -> None:
    """A malformed event is refused in one sentence without its key."""
    with pytest.raises(EventMalformed) as refusal:
        parse(message)
    sentence = str(refusal.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert "SECRET" not in sentence
    # The whole chain is what a logger would write.
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None


def storable(key: str) -> bool:
    return 0 < len(key.encode()) <= 1024


keys = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=300).filter(storable)
tags = st.none() | st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=40)
uploads = st.builds(
    Upload,
    bucket=st.from_regex(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", fullmatch=True),
    key=keys,
    version_id=tags.filter(lambda tag: tag != "null"),
    etag=tags,
    sequencer=tags,
    size=st.none() | st.integers(0, 2**50),
    uploaded_at=st.none() | st.datetimes(datetime(2000, 1, 1), datetime(2026, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)


@given(uploads)
def test_a_minio_record_parses_to_its_upload(upload: Upload) -> None:
    """What minio would send for an upload gives the upload back."""
    assert parse(minio_record(upload)) == [upload]
    assert parse(json.dumps(minio_record(upload)).encode()) == [upload]


names = st.sampled_from(["Records", "s3", "object", "bucket", "key", "eventName", "data", "specversion"])


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(names | st.text(), inner),
    )
)
def test_any_json_is_an_event_or_malformed(value: Any) -> None:
    with contextlib.suppress(EventMalformed):
        parse(json.dumps(value).encode())


def test_duplicates_of_an_event_have_one_identity_in_every_dress() -> None:
    plain = Upload("b", "k", etag="e")
    assert plain.identity == Upload("b", "k", etag="e", sequencer="1", size=3).identity
    assert len(plain.identity) == 32
    assert int(plain.identity, 16) >= 0


@pytest.mark.parametrize(
    "other",
    [Upload("c", "k", etag="e"), Upload("b", "l", etag="e"), Upload("b", "k", etag="f"), Upload("b", "k", "v", "e")],
)
def test_another_bucket_key_version_or_content_is_another_upload(other: Upload) -> None:
    assert other.identity != Upload("b", "k", etag="e").identity


def test_without_version_and_etag_the_sequencer_tells_uploads_apart() -> None:
    assert Upload("b", "k", sequencer="1").identity != Upload("b", "k", sequencer="2").identity


def test_the_key_stays_out_of_repr_and_identity() -> None:
    """The key is not in the repr and not in the identity."""
    upload = Upload("b", "Doe-Jane.jpeg")
    assert "Doe" not in repr(upload)
    assert "Doe" not in upload.identity


@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_an_event_says_where_it_lies_in_kafka(mode: str) -> None:
    attributes = {"id": "partition:0/offset:7", "source": "/apis/v1/namespaces/x/kafkasources/y#xray-uploads"}

    def place(**changes: Any) -> str | None:
        values = attributes | changes
        return (
            place_of({f"ce-{name}": value for name, value in values.items()})
            if mode == "binary"
            else place_of({}, values)
        )

    assert place() == "xray-uploads/0/7"
    for changes in ({"id": "7"}, {"id": "partition:0/offset:-1"}, {"source": "/x"}, {"source": "/x#a/b"}, {"id": ""}):
        assert place(**changes) is None
    assert place_of({}) is None
