"""Upload events: the S3 event record as MinIO, AWS, Ceph and SeaweedFS (through the bridge) send it.

MinIO and AWS query-escape object keys, MinIO the `/` too; Ceph sends them as they are. Ceph and AWS omit the `s3:` of
the event name in some versions. AWS sends a test event without records when a notification is set up.

A key may contain any character that S3 allows, also tabs, line breaks and other control characters: keys stay out of
logs and headers, where the upload's identity stands instead, and `readable_key` shows them to people.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, cast
from urllib.parse import quote_plus, unquote_plus

from lungline import bounds
from lungline.errors import EventMalformed
from lungline.events.cloudevents import decode_json, unwrap
from lungline.litter import is_litter

# The type that Knative's KafkaSource gives to a record that is not a CloudEvent.
UPLOAD_TYPE = "dev.knative.kafka.event"
MAX_KEY_BYTES = 1024  # S3's limit
MAX_TAG_CHARACTERS = 1024  # version ids, ETags and sequencers; S3 promises 1,024 for the longest of them

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Upload:
    """One object that was stored in a bucket. Its key stays out of `repr()`: it may contain a patient's name.

    Raises EventMalformed for a bucket or key that no store can hold.
    """

    bucket: str
    key: str = field(repr=False)
    version_id: str | None = None
    etag: str | None = None
    sequencer: str | None = None
    size: int | None = None
    uploaded_at: datetime | None = None

    def __post_init__(self) -> None:
        """Refuse a bucket name or key that no store can hold."""
        if not _BUCKET.fullmatch(self.bucket):
            raise EventMalformed("The event's bucket name is not one that S3 allows.")
        # Databases cannot store the null character.
        if "\0" in self.key or not 0 < _utf8_length(self.key) <= MAX_KEY_BYTES:
            raise EventMalformed(
                f"The event's object key must have 1 to {MAX_KEY_BYTES} bytes of UTF-8 and no null character."
            )

    @property
    def identity(self) -> str:
        """32 hexadecimal digits that identify this upload without showing its key.

        The same content under the same key is one upload: a scanner that sends it twice gets one result, and a listing,
        which has no sequencer, gives the same identity as the event. So the sequencer counts only when there is neither
        version id nor ETag.
        """
        state = self.version_id or self.etag or self.sequencer
        canonical = json.dumps([self.bucket, self.key, state], separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def parse(payload: bytes | str | dict[str, Any] | list[Any]) -> list[Upload]:
    """The uploads in an event: none for test events, for events other than ObjectCreated, and for litter.

    Takes the JSON text or its value: `{"Records": [...]}`, a bare list of records, one record, or any of these as
    the data of a structured CloudEvent. Litter are files that operating systems and sync programs leave behind, such as
    `.DS_Store`. Raises EventMalformed with a sentence that does not show the key.
    """
    value = unwrap(decode_json(payload) if isinstance(payload, (bytes, str)) else payload)
    if isinstance(value, dict) and cast("dict[str, Any]", value).get("Event") == "s3:TestEvent":
        return []
    records = list(islice(_records(value), bounds.MAX_UPLOADS + 1))
    if len(records) > bounds.MAX_UPLOADS:
        raise EventMalformed(f"The event has more than {bounds.MAX_UPLOADS} records.")
    uploads = [_upload(record) for record in records if _is_created(record)]
    return [upload for upload in uploads if not is_litter(upload.key)]


def readable_key(key: str) -> str:
    r"""A key for a page or a terminal: control, invisible and reordering characters as escapes such as `\t`.

    Spaces at either end become `␣`. Different keys may look the same; the identity tells them apart.
    """
    visible = "".join(_escaped(character) if _is_invisible(character) else character for character in key)
    stripped = visible.strip(" ")
    leading = len(visible) - len(visible.lstrip(" "))
    return "␣" * leading + stripped + "␣" * (len(visible) - leading - len(stripped))


def _is_invisible(character: str) -> bool:
    # Zero-width joiners shape letters in Persian, Indic scripts and emoji.
    return character not in "\u200c\u200d" and unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def require_bucket(uploads: list[Upload], bucket: str) -> None:
    """Raise EventMalformed for an upload in any other bucket: an event must not choose what is read."""
    for upload in uploads:
        if upload.bucket != bucket:
            raise EventMalformed(f"The event points at bucket {upload.bucket}; only {bucket} is read.")


def kafka_key(upload: Upload) -> str:
    """The Kafka key of an upload's event: the same for all uploads of an object, without showing the object's key.

    Not MinIO's `bucket/object`: Kafka keys appear in logs and headers, where patient names must not.
    """
    return hashlib.sha256(f"{upload.bucket}/{upload.key}".encode()).hexdigest()[:32]


def minio_record(upload: Upload) -> dict[str, Any]:
    """The message that MinIO sends for an upload; `parse` gives the upload back."""
    s3_object = {
        "key": quote_plus(upload.key, safe=""),
        "size": upload.size,
        "eTag": upload.etag,
        "versionId": upload.version_id,
        "sequencer": upload.sequencer,
    }
    record = {
        "eventVersion": "2.0",
        "eventSource": "minio:s3",
        "awsRegion": "",
        "eventTime": _timestamp(upload.uploaded_at),
        "eventName": "s3:ObjectCreated:Put",
        "s3": {
            "s3SchemaVersion": "1.0",
            "bucket": {"name": upload.bucket, "arn": f"arn:aws:s3:::{upload.bucket}"},
            "object": {name: value for name, value in s3_object.items() if value is not None},
        },
    }
    records = [{name: value for name, value in record.items() if value is not None}]
    return {"EventName": "s3:ObjectCreated:Put", "Key": f"{upload.bucket}/{upload.key}", "Records": records}


def _records(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        message = cast("dict[str, Any]", value)
        value = [message] if "s3" in message else message.get("Records")
    if not isinstance(value, list):
        raise EventMalformed("The event has no list of Records.")
    for record in cast("list[Any]", value):
        if not isinstance(record, dict):
            raise EventMalformed("A record of the event is not an object.")
        yield cast("dict[str, Any]", record)


def _is_created(record: dict[str, Any]) -> bool:
    name = _text(record, "eventName")
    if name is None:
        raise EventMalformed("A record of the event has no eventName.")
    return name.removeprefix("s3:").startswith("ObjectCreated")


def _upload(record: dict[str, Any]) -> Upload:
    s3 = _section(record, "s3")
    s3_object = _section(s3, "object")
    etag = _text(s3_object, "eTag") or _text(s3_object, "etag")
    version_id = _text(s3_object, "versionId")
    return Upload(
        bucket=_text(_section(s3, "bucket"), "name") or "",
        key=_key(_text(s3_object, "key") or "", escaped=not (_text(record, "eventSource") or "").startswith("ceph")),
        # Stores without versioning call the only version "null", which identifies no content.
        version_id=None if version_id == "null" else version_id,
        etag=(etag or "").strip('"') or None,
        sequencer=_text(s3_object, "sequencer"),
        size=_size(s3_object.get("size")),
        uploaded_at=bounds.moment_of(_text(record, "eventTime")),  # an odd time must not prevent the prediction
    )


def _section(parent: dict[str, Any], name: str) -> dict[str, Any]:
    section = parent.get(name)
    if not isinstance(section, dict):
        raise EventMalformed(f"A record of the event has no object named {name}.")
    return cast("dict[str, Any]", section)


def _text(section: dict[str, Any], name: str) -> str | None:
    value = section.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise EventMalformed(f"A record of the event has a {name} that is not text.")
    if name != "key" and (len(value) > MAX_TAG_CHARACTERS or _CONTROL.search(value) or _utf8_length(value) < 0):
        raise EventMalformed(f"A record of the event has a {name} that is too long or not printable.")
    return value


def _key(text: str, *, escaped: bool) -> str:
    if not escaped:
        return text
    try:
        return unquote_plus(text, errors="strict")
    except UnicodeDecodeError:
        raise EventMalformed("The event's object key is not escaped UTF-8.") from None


def _size(value: Any) -> int | None:
    if value is None:
        return None
    # Ceph's documentation shows the size as text.
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if not bounds.is_byte_count(value):
        raise EventMalformed("A record of the event has a size that is not a number of bytes.")
    return cast("int", value)


def _timestamp(time: datetime | None) -> str | None:
    if time is None:
        return None
    utc = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    precision = "microseconds" if utc.microsecond % 1000 else "milliseconds"
    return utc.replace(tzinfo=None).isoformat(timespec=precision) + "Z"


def _utf8_length(text: str) -> int:
    """Bytes of the text in UTF-8, or -1 where it has none (a lone surrogate, which JSON can carry)."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return -1
