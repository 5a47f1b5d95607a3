"""SeaweedFS's change log, read over gRPC from any moment on.

SeaweedFS offers a webhook too, but it loses an event that fails once (its retry stands outside its dead-letter queue
and never sees an error), and sends one event at a time. The log is kept on disk and replays what a reader has missed.

The messages are the part of SeaweedFS's `filer.proto` that we need; a field's number never changes.
"""

import logging
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from eventing.seaweedfs_tls import Certificates
from lungline.errors import EventMalformed, StorageUnavailable
from lungline.events.uploads import Upload
from lungline.network import HOST, answers

BUCKETS = "/buckets"
# Extended attributes that the S3 gateway writes.
ETAG, VERSION, DELETE_MARKER = (f"Seaweed-X-Amz-{name}" for name in ("ETag", "Version-Id", "Delete-Marker"))
# Parts of incomplete multipart uploads; other objects in that folder are uploads.
PARTS = re.compile(r"\.uploads/[^/]+/[^/]+\.part")

_PACKAGE = "filer_pb"
_METHOD = f"/{_PACKAGE}.SeaweedFiler/SubscribeMetadata"
_FIELDS = {
    "FileChunk": (("modified_ts_ns", 4, "int64"),),
    "FuseAttributes": (("file_size", 1, "uint64"), ("mtime", 2, "int64")),
    "Entry": (
        ("name", 1, "string"),
        ("is_directory", 2, "bool"),
        ("chunks", 3, "repeated FileChunk"),
        ("attributes", 4, "FuseAttributes"),
        ("extended", 5, "repeated Entry.ExtendedEntry"),
        ("content", 9, "bytes"),
    ),
    "Entry.ExtendedEntry": (("key", 1, "string"), ("value", 2, "bytes")),
    "EventNotification": (("old_entry", 1, "Entry"), ("new_entry", 2, "Entry"), ("new_parent_path", 4, "string")),
    "Request": (
        ("client_name", 1, "string"),
        ("path_prefix", 2, "string"),
        ("since_ns", 3, "int64"),
        ("client_id", 7, "int32"),
    ),
    "Response": (("directory", 1, "string"), ("event_notification", 2, "EventNotification"), ("ts_ns", 3, "int64")),
}
_NANOSECONDS = 1_000_000_000

log = logging.getLogger("lungline.bridge")


@dataclass(frozen=True, slots=True)
class Change:
    """One change, made at `moment` (nanoseconds since 1970); `upload` is None unless it completes an upload.

    Concurrent changes may come out of order or with the same moment. The log places a change at its moment or after
    it, so reading again since the moment of any change repeats some changes and misses none.
    """

    moment: int
    upload: Upload | None = None


class Changes:
    """The changes in one bucket from the moment `since` on; iterate once, and `close` from any thread to end that.

    Raises StorageUnavailable when the store does not answer.
    """

    def __init__(self, filer_grpc_port: int, certificates: Certificates, bucket: str, since: int) -> None:
        import grpc

        request, response = _messages()
        self._bucket = bucket
        if not answers(filer_grpc_port):
            raise StorageUnavailable("The object store's change log does not answer.")
        credentials = grpc.ssl_channel_credentials(
            certificates.authority.read_bytes(), certificates.key.read_bytes(), certificates.certificate.read_bytes()
        )
        # gRPC would ask a proxy of the environment for this machine too.
        direct = (("grpc.enable_http_proxy", 0),)
        self._channel = grpc.secure_channel(f"{HOST}:{filer_grpc_port}", credentials, direct)
        subscribe = self._channel.unary_stream(
            _METHOD, request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )
        # A fresh id for each reader: the store ends a reader whose id is in use.
        client_id = secrets.randbelow(2**31 - 1) + 1
        prefix = f"{BUCKETS}/{bucket}/"
        self._responses = subscribe(
            request(client_name="lungline", path_prefix=prefix, since_ns=since, client_id=client_id)
        )

    def __iter__(self) -> Iterator[Change]:
        """Changes in the order of the log, without end. Raises StorageUnavailable when the connection ends."""
        import grpc

        try:
            for response in self._responses:
                yield Change(response.ts_ns, _completed_upload(response, self._bucket))
        except grpc.RpcError as exc:
            raise StorageUnavailable("The connection to the object store's change log broke off.") from exc
        raise StorageUnavailable("The object store ended its change log.")

    def close(self) -> None:
        """End the iteration."""
        self._responses.cancel()
        self._channel.close()


def _completed_upload(response: Any, bucket: str) -> Upload | None:
    """The upload that a change completes; None for folders, parts, deletions and changes of metadata alone."""
    event = response.event_notification
    entry = event.new_entry
    # An object whose key ends with a slash is a folder with content.
    if not entry.name or (entry.is_directory and not entry.content) or DELETE_MARKER in entry.extended:
        return None
    path = f"{event.new_parent_path or response.directory}/{entry.name}{'/' if entry.is_directory else ''}"
    key = path.removeprefix(f"{BUCKETS}/{bucket}/")
    if key == path or PARTS.fullmatch(key):
        return None
    if event.old_entry.name == entry.name and _content(event.old_entry) == _content(entry):
        return None  # tags, permissions
    return _upload(bucket, key, entry, response.ts_ns)


def _upload(bucket: str, key: str, entry: Any, moment: int) -> Upload | None:
    version = entry.extended[VERSION].decode() if VERSION in entry.extended else None
    if version:
        # A bucket with versioning keeps each version of `key` as `key.versions/v_<id>`.
        key = key.rpartition("/")[0].removesuffix(".versions")
    written = max((chunk.modified_ts_ns for chunk in entry.chunks), default=entry.attributes.mtime * _NANOSECONDS)
    try:
        return Upload(
            bucket=bucket,
            key=key,
            version_id=version,
            etag=entry.extended[ETAG].decode() if ETAG in entry.extended else None,
            sequencer=f"{moment:016X}",
            size=entry.attributes.file_size or len(entry.content),
            uploaded_at=datetime.fromtimestamp(written / _NANOSECONDS, UTC),
        )
    except EventMalformed as exc:  # a name that S3 itself would not have accepted
        log.warning("An object is not predicted: %s", exc)
        return None


def _content(entry: Any) -> tuple[object, ...]:
    chunks = tuple(chunk.modified_ts_ns for chunk in entry.chunks)
    return (entry.extended.get(ETAG), entry.attributes.file_size, entry.attributes.mtime, chunks)


@cache
def _messages() -> tuple[Any, Any]:
    """The classes of request and response, built from the table of fields instead of generated code."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="lungline/filer.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _FIELDS.items():
        outer, _, inner = name.rpartition(".")
        made = (file.message_type[-1].nested_type if outer else file.message_type).add(name=inner)
        made.options.map_entry = bool(outer)
        for field_name, number, kind in fields:
            made.field.add(name=field_name, number=number, **_kind(kind))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    request, response = (pool.FindMessageTypeByName(f"{_PACKAGE}.{name}") for name in ("Request", "Response"))
    return message_factory.GetMessageClass(request), message_factory.GetMessageClass(response)


def _kind(kind: str) -> dict[str, Any]:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto

    item = kind.removeprefix("repeated ")
    label = FieldDescriptorProto.LABEL_OPTIONAL if item == kind else FieldDescriptorProto.LABEL_REPEATED
    if item in _FIELDS:
        return {"label": label, "type_name": f".{_PACKAGE}.{item}"}
    return {"label": label, "type": FieldDescriptorProto.Type.Value(f"TYPE_{item.upper()}")}
