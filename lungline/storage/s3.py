"""The S3 store, as the few calls that Lungline needs.

Works with any store that supports S3 with conditional writes (AWS, MinIO, Ceph, SeaweedFS). Keys never appear in
messages: they may contain patient names.
"""

# boto3 ships no types; it stays behind this module and `lungline.storage.client`.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import SecretStr

from lungline.errors import LunglineError, ObjectGone, ObjectTooLarge, StorageUnavailable
from lungline.network import proxy_for
from lungline.settings import Settings
from lungline.storage.client import code_of, s3_client, status_of, translated
from lungline.storage.objects import (
    ObjectInfo,
    StoredObject,
    from_head,
    from_listing,
    from_signed,
    from_signed_head,
    unquote_etag,
)
from lungline.storage.signing import SignedRequests

CONFLICT_ATTEMPTS = 5
PIECE_BYTES = 128 * 1024


class Storage:
    """An S3 store. Threads may share it; it connects with the first call.

    Every call raises StorageUnavailable when the store does not answer or is busy (after three attempts), and
    LunglineError when it refuses, for example wrong credentials.

    >>> storage = Storage.from_settings(load_settings())
    >>> storage.put("bucket", "folder/name.txt", b"content")
    '9a0364b9e99bb480dd25e1f0284c8555'
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
        self._boto3: Any = None
        self._connecting = threading.Lock()
        # TLS, proxies, session tokens and roles are left to boto3.
        self._signed: SignedRequests | None = None
        if endpoint and endpoint.startswith("http://") and access_key and secret_key and not proxy_for(endpoint):
            self._signed = SignedRequests(
                endpoint, region, access_key.get_secret_value(), secret_key.get_secret_value()
            )

    @classmethod
    def from_settings(cls, settings: Settings) -> "Storage":
        """The store named in the settings."""
        return cls(settings.s3_endpoint, settings.s3_region, settings.s3_access_key, settings.s3_secret_key)

    def get(self, bucket: str, key: str, version_id: str | None = None, max_bytes: int | None = None) -> StoredObject:
        """Read an object. Raises ObjectGone, and ObjectTooLarge before more than `max_bytes` were read."""
        if self._signed:
            return from_signed(self._signed.get(bucket, key, version_id, max_bytes))
        with translated(bucket, reading=True):
            response = self._client.get_object(**_address(bucket, key, version_id))
            info = from_head(key, response)
            with closing(response["Body"]) as body:
                if max_bytes is not None and info.size > max_bytes:
                    raise ObjectTooLarge(f"The object has {info.size} bytes; the limit is {max_bytes}.")
                return StoredObject(body.read(), info.etag, info.size, info.modified, info.version_id)

    def open(self, bucket: str, key: str, version_id: str | None = None) -> tuple[ObjectInfo, Iterator[bytes]]:
        """Metadata of an object, and its content piece by piece. Raises ObjectGone."""
        with translated(bucket, reading=True):
            response = self._client.get_object(**_address(bucket, key, version_id))
        return from_head(key, response), _pieces(bucket, response["Body"])

    def head(self, bucket: str, key: str, version_id: str | None = None) -> ObjectInfo:
        """Read the metadata of an object. Raises ObjectGone."""
        if self._signed:
            return from_signed_head(key, self._signed.head(bucket, key, version_id))
        with translated(bucket, reading=True):
            return from_head(key, self._client.head_object(**_address(bucket, key, version_id)))

    def exists(self, bucket: str, key: str) -> bool:
        """Whether the object is there."""
        try:
            self.head(bucket, key)
        except ObjectGone:
            return False
        return True

    def put(self, bucket: str, key: str, data: bytes, content_type: str = "application/octet-stream") -> str:
        """Store an object and replace what was there; returns its ETag."""
        if self._signed:
            response = self._signed.put(bucket, key, data, {"content-type": content_type})
            return unquote_etag(response.headers["etag"])
        with translated(bucket):
            response = self._client.put_object(Bucket=bucket, Key=key, Body=data, ContentType=content_type)
            return unquote_etag(response["ETag"])

    def put_if_absent(self, bucket: str, key: str, data: bytes, content_type: str = "application/octet-stream") -> bool:
        """Store an object only if there is none; of several concurrent writers the store accepts one.

        Returns False when an object is there. After a lost response it may be the one that this call stored.
        """
        for attempt in range(CONFLICT_ATTEMPTS):
            status = self._put_if_absent(bucket, key, data, content_type)
            if status != 409:
                return status != 412
            # AWS: another conditional write of the key is in progress; it may fail, so try again.
            time.sleep(0.05 * 2**attempt)
        raise StorageUnavailable(f"Other writers kept changing the same object in bucket {bucket}; try again later.")

    def put_once(self, bucket: str, key: str, data: bytes, content_type: str = "application/octet-stream") -> bool:
        """Store an object whose key always means the same content, unless it is there and can be read.

        A power cut may leave the name of an object that nobody was told of, without its content: whoever sends it again
        must not be told that it is there. Returns False when it is.
        """
        if self.put_if_absent(bucket, key, data, content_type):
            return True
        if self._is_whole(bucket, key):
            return False
        self.put(bucket, key, data, content_type)
        return True

    def _is_whole(self, bucket: str, key: str) -> bool:
        """Whether an object can be read to its end; True also for who may not read it."""
        try:
            _, pieces = self.open(bucket, key)
            for _ in pieces:
                pass
        except (ObjectGone, StorageUnavailable):
            self.exists(bucket, key)  # raises while the store is away
            return False
        except LunglineError:
            pass
        return True

    def _put_if_absent(self, bucket: str, key: str, data: bytes, content_type: str) -> int:
        if self._signed:
            return self._signed.put(bucket, key, data, {"content-type": content_type, "if-none-match": "*"}).status
        arguments = {"Bucket": bucket, "Key": key, "Body": data, "ContentType": content_type, "IfNoneMatch": "*"}
        try:
            with translated(bucket):
                self._client.put_object(**arguments)
        except LunglineError as exc:
            if (status := status_of(exc.__cause__)) in {409, 412}:
                return status
            raise
        return 200

    def delete(self, bucket: str, key: str, version_id: str | None = None) -> None:
        """Delete an object, or one version of it for good; a missing one is no error."""
        if self._signed and version_id is None:
            self._signed.delete(bucket, key)
            return
        with translated(bucket):
            self._client.delete_object(**_address(bucket, key, version_id))

    def list(
        self, bucket: str, prefix: str = "", start_after: str | None = None, page_size: int = 1000
    ) -> Iterator[ObjectInfo]:
        """List objects in the order of their keys, after the key `start_after`; fetched page by page."""
        query: dict[str, Any] = {
            "Bucket": bucket,
            "Prefix": prefix,
            "PaginationConfig": {"PageSize": min(page_size, 1000)},
        }
        if start_after:
            query["StartAfter"] = start_after
        with translated(bucket):
            for page in self._client.get_paginator("list_objects_v2").paginate(**query):
                for entry in page.get("Contents", ()):
                    yield from_listing(entry)

    def latest(self, bucket: str) -> Iterator[ObjectInfo]:
        """List the latest version of every object, page by page; with version ids where the bucket keeps versions."""
        if not self.keeps_versions(bucket):
            yield from self.list(bucket)
            return
        with translated(bucket):
            for page in self._client.get_paginator("list_object_versions").paginate(Bucket=bucket):
                for entry in page.get("Versions", ()):
                    if entry["IsLatest"]:
                        yield from_listing(entry)

    def keeps_versions(self, bucket: str) -> bool:
        """Whether a bucket keeps the versions of its objects, or has kept some."""
        with translated(bucket):
            return self._client.get_bucket_versioning(Bucket=bucket).get("Status") is not None

    def versions(self, bucket: str, key: str) -> tuple[ObjectInfo, ...]:
        """The versions of an object, the newest first; the mark of a deletion has no ETag."""
        stored: dict[str, ObjectInfo] = {}
        with translated(bucket):
            for page in self._client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=key):
                marks = ({"ETag": "", "Size": 0} | entry for entry in page.get("DeleteMarkers", ()))
                for entry in (*page.get("Versions", ()), *marks):
                    if entry["Key"] == key:
                        stored[entry["VersionId"]] = from_listing(entry)
        return tuple(sorted(stored.values(), key=lambda info: info.modified, reverse=True))

    def has_bucket(self, bucket: str) -> bool:
        """Whether there is such a bucket."""
        from botocore.exceptions import ClientError

        with translated(bucket):
            try:
                self._client.head_bucket(Bucket=bucket)
            except ClientError as exc:
                if status_of(exc) != 404:
                    raise
                return False
        return True

    def folders(self, bucket: str, prefix: str) -> Iterator[str]:
        """Names of the folders directly under a prefix that ends with `/`, in their order."""
        query = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/"}
        with translated(bucket):
            for page in self._client.get_paginator("list_objects_v2").paginate(**query):
                for entry in page.get("CommonPrefixes", ()):
                    yield entry["Prefix"].removeprefix(prefix).rstrip("/")

    def ensure_buckets(self, *buckets: str) -> None:
        """Create the buckets that do not exist yet."""
        location = (
            {} if self.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": self.region}}
        )
        for bucket in buckets:
            if not self.has_bucket(bucket):
                with translated(bucket):
                    self._create_bucket(bucket, location)

    def bucket_tag(self, bucket: str, name: str) -> str | None:
        """A tag of a bucket; empty where it has no such tag, None where there is no bucket."""
        from botocore.exceptions import ClientError

        with translated(bucket):
            try:
                tags: Any = self._client.get_bucket_tagging(Bucket=bucket)["TagSet"]
            except ClientError as exc:
                if code_of(exc) not in {"NoSuchTagSet", "NoSuchBucket"}:
                    raise
                return None if code_of(exc) == "NoSuchBucket" else ""
        return next((str(tag["Value"]) for tag in tags if tag["Key"] == name), "")

    def tag_bucket(self, bucket: str, name: str, value: str) -> None:
        """Give a bucket this tag, and no other."""
        with translated(bucket):
            self._client.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": name, "Value": value}]})

    def upload_folder(self, folder: Path, bucket: str, prefix: str, last: str | None = None) -> None:
        """Store the files of a folder under a prefix, the file named `last` after all others.

        A reader that waits for that file never sees an incomplete folder.
        """
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        commit = files.pop(last, None) if last else None
        if last and commit is None:
            raise LunglineError(f"Folder {folder} has no file {last}.")
        with translated(bucket), ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(self._put_file, path, bucket, _join(prefix, name)) for name, path in files.items()]
            for job in jobs:
                job.result()
            if last and commit:
                self._put_file(commit, bucket, _join(prefix, last))

    def download_folder(self, bucket: str, prefix: str, folder: Path) -> None:
        """Download all objects under a prefix; the folder appears with one rename, when it is complete.

        An existing folder is replaced. Raises ObjectGone when nothing is stored under the prefix.
        """
        prefix = _join(prefix, "")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            fresh = Path(temporary) / "fresh"
            names = [info.key.removeprefix(prefix) for info in self.list(bucket, prefix) if not info.key.endswith("/")]
            if not names:
                raise ObjectGone(f"Nothing is stored under s3://{bucket}/{prefix}.")
            with translated(bucket), ThreadPoolExecutor(4) as pool:
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
        with self._connecting:
            client, self._boto3 = self._boto3, None
        if client is not None:
            client.close()

    @property
    def _client(self) -> Any:
        client = self._boto3
        if client is None:
            with self._connecting:
                client = self._boto3 = self._boto3 or s3_client(
                    self.endpoint, self.region, self._access_key, self._secret_key
                )
        return client

    def _create_bucket(self, bucket: str, location: dict[str, Any]) -> None:
        from botocore.exceptions import ClientError

        try:
            self._client.create_bucket(Bucket=bucket, **location)
        except ClientError as exc:
            if code_of(exc) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise

    def _put_file(self, path: Path, bucket: str, key: str) -> None:
        self._client.upload_file(str(path), bucket, key)

    def _get_file(self, bucket: str, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._client.download_file(bucket, key, str(path))


def _pieces(bucket: str, body: Any) -> Iterator[bytes]:
    with closing(body), translated(bucket, reading=True):
        yield from body.iter_chunks(PIECE_BYTES)


def _address(bucket: str, key: str, version_id: str | None) -> dict[str, str]:
    address = {"Bucket": bucket, "Key": key}
    return address | {"VersionId": version_id} if version_id else address


def _join(prefix: str, name: str) -> str:
    return f"{prefix.rstrip('/')}/{name}" if prefix.strip("/") else name


def _inside(folder: Path, name: str) -> Path:
    """The path of a downloaded file; refused when its name would lead out of the folder."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise LunglineError("A stored object has a name that leads out of its folder.")
    return folder.joinpath(*parts)
