"""The S3 store, seen through the few calls that Lungline needs.

Works with any store that speaks S3 with conditional writes (AWS, MinIO, Ceph, SeaweedFS). Keys never appear in
messages: they may hold patient names.
"""

# boto3 ships no types; it stays behind this module's own.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import SecretStr

from lungline.errors import LunglineError, ObjectGone, ObjectTooLarge, SettingsError, StorageUnavailable
from lungline.settings import Settings
from lungline.storage.errors import refusal, silence
from lungline.storage.signing import ATTEMPTS, CONNECT_SECONDS, READ_SECONDS, S3Response, SignedRequests, bad_address

CONNECTIONS = 64  # kept open by one client; threads beyond it open and close their own
CONFLICT_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store tells of an object without its content; the ETag without its quotes."""

    key: str = field(repr=False)
    etag: str
    size: int
    modified: datetime
    version_id: str | None = None


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Content of an object, and which version of it this is; the ETag without its quotes."""

    data: bytes = field(repr=False)
    etag: str
    size: int
    modified: datetime
    version_id: str | None = None


class Storage:
    """An S3 store; may be shared by threads. Connects with the first call, not before.

    Every call raises StorageUnavailable when the store does not answer or answers that it cannot (after three
    attempts), and LunglineError when it refuses, for example for wrong credentials.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        region: str = "us-east-1",
        access_key: SecretStr | None = None,
        secret_key: SecretStr | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.region = region
        self._access_key = access_key
        self._secret_key = secret_key
        self._made: Any = None
        self._making = threading.Lock()
        # Other addresses and credentials (TLS, a session token, a role) are boto3's business.
        self._signed: SignedRequests | None = None
        if endpoint and endpoint.startswith("http://") and access_key and secret_key:
            self._signed = SignedRequests(
                endpoint, region, access_key.get_secret_value(), secret_key.get_secret_value()
            )

    @classmethod
    def from_settings(cls, settings: Settings) -> "Storage":
        """The store that the settings name."""
        return cls(settings.s3_endpoint, settings.s3_region, settings.s3_access_key, settings.s3_secret_key)

    def get(self, bucket: str, key: str, version_id: str | None = None, max_bytes: int | None = None) -> StoredObject:
        """An object's content. Raises ObjectGone, or ObjectTooLarge before more than `max_bytes` were read."""
        if self._signed:
            return _stored(self._signed.get(bucket, key, version_id, max_bytes))
        with _translated(bucket, reading=True):
            found = self._client.get_object(**_address(bucket, key, version_id))
            info = _info(key, found)
            with closing(found["Body"]) as body:
                if max_bytes is not None and info.size > max_bytes:
                    raise ObjectTooLarge(f"The object has {info.size} bytes; the limit is {max_bytes}.")
                return StoredObject(body.read(), info.etag, info.size, info.modified, info.version_id)

    def head(self, bucket: str, key: str, version_id: str | None = None) -> ObjectInfo:
        """What the store tells of an object. Raises ObjectGone."""
        with _translated(bucket, reading=True):
            return _info(key, self._client.head_object(**_address(bucket, key, version_id)))

    def exists(self, bucket: str, key: str) -> bool:
        """Whether there is an object."""
        try:
            self.head(bucket, key)
        except ObjectGone:
            return False
        return True

    def put(self, bucket: str, key: str, data: bytes, content_type: str = "application/octet-stream") -> str:
        """Store an object, over whatever was there; returns its ETag."""
        if self._signed:
            answer = self._signed.put(bucket, key, data, {"content-type": content_type})
            return _unquoted(answer.headers["ETag"])
        with _translated(bucket):
            answer = self._client.put_object(Bucket=bucket, Key=key, Body=data, ContentType=content_type)
            return _unquoted(answer["ETag"])

    def put_if_absent(self, bucket: str, key: str, data: bytes, content_type: str = "application/octet-stream") -> bool:
        """Store an object only where there is none; the store itself decides between two that try at once.

        False means that an object is there; after a lost answer it may be the one that this very call stored.
        """
        for attempt in range(CONFLICT_ATTEMPTS):
            status = self._put_if_absent(bucket, key, data, content_type)
            if status != 409:
                return status != 412
            # AWS: another conditional write of the key was under way; it may have failed, so ask again.
            time.sleep(0.05 * 2**attempt)
        raise StorageUnavailable(f"Others kept writing the same object in bucket {bucket}; try again later.")

    def _put_if_absent(self, bucket: str, key: str, data: bytes, content_type: str) -> int:
        if self._signed:
            return self._signed.put(bucket, key, data, {"content-type": content_type, "if-none-match": "*"}).status
        wanted = {"Bucket": bucket, "Key": key, "Body": data, "ContentType": content_type, "IfNoneMatch": "*"}
        try:
            with _translated(bucket):
                self._client.put_object(**wanted)
        except LunglineError as exc:
            if (status := _status(exc.__cause__)) in {409, 412}:
                return status
            raise
        return 200

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        with _translated(bucket):
            self._client.delete_object(Bucket=bucket, Key=key)

    def list(
        self, bucket: str, prefix: str = "", start_after: str | None = None, page_size: int = 1000
    ) -> Iterator[ObjectInfo]:
        """Objects in the order of their keys, from the first after `start_after`; fetched page by page."""
        asked: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix} | (
            {"StartAfter": start_after} if start_after else {}
        )
        asked["PaginationConfig"] = {"PageSize": min(page_size, 1000)}
        with _translated(bucket):
            for page in self._client.get_paginator("list_objects_v2").paginate(**asked):
                for entry in page.get("Contents", ()):
                    yield _listed(entry)

    def latest(self, bucket: str) -> Iterator[ObjectInfo]:
        """All objects as they are now, page by page, with version ids where the bucket keeps versions."""
        with _translated(bucket):
            if self._client.get_bucket_versioning(Bucket=bucket).get("Status") is None:
                yield from self.list(bucket)
                return
            for page in self._client.get_paginator("list_object_versions").paginate(Bucket=bucket):
                for entry in page.get("Versions", ()):
                    if entry["IsLatest"]:
                        yield _listed(entry)

    def folders(self, bucket: str, prefix: str) -> Iterator[str]:
        """What lies directly under a prefix that ends with `/` and has something under it; names in their order."""
        asked = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/"}
        with _translated(bucket):
            for page in self._client.get_paginator("list_objects_v2").paginate(**asked):
                for entry in page.get("CommonPrefixes", ()):
                    yield entry["Prefix"].removeprefix(prefix).rstrip("/")

    def ensure_buckets(self, *buckets: str) -> None:
        """Make the buckets that are not there yet."""
        from botocore.exceptions import ClientError

        here = {} if self.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": self.region}}
        for bucket in buckets:
            with _translated(bucket):
                try:
                    self._client.head_bucket(Bucket=bucket)
                except ClientError as exc:
                    if _status(exc) != 404:
                        raise
                    self._create_bucket(bucket, here)

    def upload_folder(self, folder: Path, bucket: str, prefix: str, last: str | None = None) -> None:
        """Store the files of a folder under a prefix; the file named `last` when all others are there.

        A reader that waits for that file never sees half a folder.
        """
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        commit = files.pop(last, None) if last else None
        if last and commit is None:
            raise LunglineError(f"Folder {folder} has no file {last}.")
        with _translated(bucket), ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(self._put_file, path, bucket, _join(prefix, name)) for name, path in files.items()]
            for job in jobs:
                job.result()
            if last and commit:
                self._put_file(commit, bucket, _join(prefix, last))

    def download_folder(self, bucket: str, prefix: str, folder: Path) -> None:
        """Fetch all objects under a prefix; the folder appears in one rename when it is complete.

        A folder of that name is replaced. Raises ObjectGone when nothing is stored under the prefix.
        """
        prefix = _join(prefix, "")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            fresh = Path(temporary) / "fresh"
            names = [info.key.removeprefix(prefix) for info in self.list(bucket, prefix) if not info.key.endswith("/")]
            if not names:
                raise ObjectGone(f"Nothing is stored under s3://{bucket}/{prefix}.")
            with _translated(bucket), ThreadPoolExecutor(4) as pool:
                jobs = [pool.submit(self._get_file, bucket, prefix + name, _inside(fresh, name)) for name in names]
                for job in jobs:
                    job.result()
            if folder.exists():
                folder.rename(Path(temporary) / "old")
            fresh.rename(folder)

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        if self._signed:
            self._signed.close()
        with self._making:
            made, self._made = self._made, None
        if made is not None:
            made.close()

    @property
    def _client(self) -> Any:
        made = self._made
        if made is None:
            with self._making:
                made = self._made = self._made or self._make_client()
        return made

    def _make_client(self) -> Any:
        from boto3.session import Session
        from botocore.config import Config

        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            max_pool_connections=CONNECTIONS,
            tcp_keepalive=True,
            # Stores other than AWS know buckets by path, and not all of them the checksums that boto3 adds unasked.
            s3={"addressing_style": "path" if self.endpoint else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            # A session of its own: boto3's default one must not be shared by threads.
            return Session().client(
                "s3",
                endpoint_url=self.endpoint,
                region_name=self.region,
                aws_access_key_id=self._access_key and self._access_key.get_secret_value(),
                aws_secret_access_key=self._secret_key and self._secret_key.get_secret_value(),
                config=config,
            )
        except ValueError as exc:
            raise bad_address(self.endpoint) from exc

    def _create_bucket(self, bucket: str, here: dict[str, Any]) -> None:
        from botocore.exceptions import ClientError

        try:
            self._client.create_bucket(Bucket=bucket, **here)
        except ClientError as exc:
            if _code(exc) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise

    def _put_file(self, path: Path, bucket: str, key: str) -> None:
        self._client.upload_file(str(path), bucket, key)

    def _get_file(self, bucket: str, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._client.download_file(bucket, key, str(path))


def parse_uri(uri: str) -> tuple[str, str]:
    """Bucket and key (or prefix, perhaps empty) of `s3://bucket/key`; raises SettingsError for anything else."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise SettingsError(f"Expected an address like s3://bucket/prefix, found {uri!r}.")
    return bucket, key


@contextmanager
def _translated(bucket: str, *, reading: bool = False) -> Generator[None]:
    """Errors of boto3 become ours."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

    try:
        yield
    except ClientError as exc:
        raise refusal(_code(exc), _status(exc), bucket, reading=reading) from exc
    except (NoCredentialsError, PartialCredentialsError) as exc:
        raise LunglineError("No credentials for the object store: set LUNGLINE_S3_ACCESS_KEY and its secret.") from exc
    except Boto3Error as exc:  # transfers of files wrap the error that says why
        cause = exc.__cause__ or exc.__context__
        known = refusal(_code(cause), _status(cause), bucket, reading=reading) if _status(cause) else None
        raise known or silence(exc, bucket) from exc
    except (BotoCoreError, TimeoutError) as exc:
        raise silence(exc, bucket) from exc


def _code(exc: object) -> str:
    return str(getattr(exc, "response", {}).get("Error", {}).get("Code", ""))


def _status(exc: object) -> int:
    """HTTP status of a store's refusal; 0 for any other error."""
    return int(getattr(exc, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _stored(answer: S3Response) -> StoredObject:
    version_id = answer.headers.get("x-amz-version-id")
    return StoredObject(
        data=answer.data,
        etag=_unquoted(answer.headers["ETag"]),
        size=len(answer.data),
        modified=parsedate_to_datetime(answer.headers["Last-Modified"]),
        version_id=None if version_id == "null" else version_id,
    )


def _info(key: str, answer: dict[str, Any]) -> ObjectInfo:
    version_id = answer.get("VersionId")
    return ObjectInfo(
        key=key,
        etag=_unquoted(answer["ETag"]),
        size=int(answer["ContentLength"]),
        modified=answer["LastModified"].astimezone(UTC),
        version_id=None if version_id == "null" else version_id,
    )


def _listed(entry: dict[str, Any]) -> ObjectInfo:
    version_id = entry.get("VersionId")
    return ObjectInfo(
        key=entry["Key"],
        etag=_unquoted(entry["ETag"]),
        size=int(entry["Size"]),
        modified=entry["LastModified"].astimezone(UTC),
        version_id=None if version_id == "null" else version_id,
    )


def _address(bucket: str, key: str, version_id: str | None) -> dict[str, str]:
    address = {"Bucket": bucket, "Key": key}
    return address | {"VersionId": version_id} if version_id else address


def _unquoted(etag: str) -> str:
    return etag.strip('"')


def _join(prefix: str, name: str) -> str:
    return f"{prefix.rstrip('/')}/{name}" if prefix.strip("/") else name


def _inside(folder: Path, name: str) -> Path:
    """The path of a downloaded file, refused where its name would lead out of the folder."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise LunglineError("A stored object has a name that leads out of the folder it belongs in.")
    return folder.joinpath(*parts)
