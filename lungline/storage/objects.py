"""Objects in an S3 store: what the store says of them, and how they are named."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from lungline.errors import SettingsError
from lungline.storage.kept_connections import S3Response


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """Metadata of an object; the ETag without its quotes, the size in bytes."""

    key: str = field(repr=False)
    etag: str
    size: int
    modified: datetime
    version_id: str | None = None


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Content of an object with the metadata of the version that was read; the ETag without its quotes."""

    data: bytes = field(repr=False)
    etag: str
    size: int
    modified: datetime
    version_id: str | None = None


def parse_uri(uri: str) -> tuple[str, str]:
    """Bucket and key (or prefix, which may be empty) of `s3://bucket/key`. Raises SettingsError for anything else."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise SettingsError(f"Expected an address like s3://bucket/prefix, found {uri!r}.")
    return bucket, key


def from_signed(response: S3Response) -> StoredObject:
    """The object in the response to a signed GET request."""
    return StoredObject(
        data=response.data,
        etag=unquote_etag(response.headers["etag"]),
        size=len(response.data),
        modified=parsedate_to_datetime(response.headers["last-modified"]),
        version_id=_version_id(response.headers.get("x-amz-version-id")),
    )


def from_signed_head(key: str, response: S3Response) -> ObjectInfo:
    """The metadata in the response to a signed HEAD request."""
    return ObjectInfo(
        key=key,
        etag=unquote_etag(response.headers["etag"]),
        size=int(response.headers["content-length"]),
        modified=parsedate_to_datetime(response.headers["last-modified"]),
        version_id=_version_id(response.headers.get("x-amz-version-id")),
    )


def from_head(key: str, response: dict[str, Any]) -> ObjectInfo:
    """The metadata in boto3's response to GetObject or HeadObject."""
    return ObjectInfo(
        key=key,
        etag=unquote_etag(response["ETag"]),
        size=int(response["ContentLength"]),
        modified=response["LastModified"].astimezone(UTC),
        version_id=_version_id(response.get("VersionId")),
    )


def from_listing(entry: dict[str, Any]) -> ObjectInfo:
    """The metadata in an entry of one of boto3's listings."""
    return ObjectInfo(
        key=entry["Key"],
        etag=unquote_etag(entry["ETag"]),
        size=int(entry["Size"]),
        modified=entry["LastModified"].astimezone(UTC),
        version_id=_version_id(entry.get("VersionId")),
    )


def unquote_etag(etag: str) -> str:
    """An ETag without the quotes that HTTP puts around it."""
    return etag.strip('"')


def _version_id(text: str | None) -> str | None:
    # Stores call the only version of an object "null" while a bucket keeps no versions.
    return None if text == "null" else text
