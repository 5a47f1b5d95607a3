"""GET, HEAD, PUT and DELETE of single objects over urllib3, signed by botocore.

The online path makes three calls per upload, and five more for an unsure one. boto3 takes 1 ms of CPU for each, about
as long as decoding and preparing an image; its signer over urllib3 takes 0.4 ms. All other calls go through boto3.
"""

# botocore ships no types; it stays behind this module.
# pyright: reportMissingTypeStubs=false
import random
import re
import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from lungline.errors import ObjectTooLarge, SettingsError
from lungline.storage.errors import is_busy, refusal, silence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from urllib3 import BaseHTTPResponse, HTTPConnectionPool

CONNECT_SECONDS = 2.0
READ_SECONDS = 10.0
TRANSFER_SECONDS = 60.0  # of one object, however slowly its bytes arrive
ATTEMPTS = 3
KEPT = 64

_CHUNK = 2**20
_CODE = re.compile(rb"<Code>([^<]*)</Code>")


@dataclass(frozen=True, slots=True)
class S3Response:
    """A store's response."""

    status: int
    headers: "Mapping[str, str]"
    data: bytes

    @property
    def code(self) -> str:
        """The error code in the XML body, or else the status as text."""
        match = _CODE.search(self.data)
        return match[1].decode("ascii", "replace") if match else str(self.status)


@dataclass(frozen=True, slots=True)
class S3Request:
    """A request for one object; `target` is the path and query of its request line."""

    method: str
    target: str
    data: bytes
    headers: dict[str, str]


class SignedRequests:
    """Signed requests to a store over plain HTTP with path-style addresses; threads may share it."""

    def __init__(self, endpoint: str, region: str, access_key: str, secret_key: str) -> None:
        try:
            address = urlsplit(endpoint)
            self._host, self._port = address.hostname or "", address.port or 80
        except ValueError as exc:
            raise bad_address(endpoint) from exc
        if not self._host:
            raise bad_address(endpoint)
        self._base = address.path.rstrip("/")
        self._origin = f"http://{address.netloc.rpartition('@')[2]}"
        self._keys = region, access_key, secret_key

    def get(self, bucket: str, key: str, version_id: str | None, max_bytes: int | None) -> S3Response:
        """Read an object. Raises ObjectGone, ObjectTooLarge, and what `Storage` raises."""
        request = S3Request("GET", self._path(bucket, key) + _version(version_id), b"", {})
        response = self._send(bucket, request, max_bytes)
        if response.status >= 300:
            raise refusal(response.code, response.status, bucket, reading=True)
        return response

    def put(self, bucket: str, key: str, data: bytes, headers: dict[str, str]) -> S3Response:
        """Store an object; 409 and 412 are responses to a conditional write."""
        response = self._send(bucket, S3Request("PUT", self._path(bucket, key), data, headers))
        if response.status >= 300 and response.status not in {409, 412}:
            raise refusal(response.code, response.status, bucket, reading=False)
        return response

    def head(self, bucket: str, key: str, version_id: str | None) -> S3Response:
        """Read the metadata of an object. Raises ObjectGone, and what `Storage` raises."""
        response = self._send(bucket, S3Request("HEAD", self._path(bucket, key) + _version(version_id), b"", {}))
        if response.status >= 300:
            raise refusal(response.code, response.status, bucket, reading=True)
        return response

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object; a missing one is no error."""
        response = self._send(bucket, S3Request("DELETE", self._path(bucket, key), b"", {}))
        if response.status >= 300 and response.code != "NoSuchKey":
            raise refusal(response.code, response.status, bucket, reading=False)

    def close(self) -> None:
        """Close the idle connections; the next call opens new ones."""
        pool: HTTPConnectionPool | None = self.__dict__.pop("_pool", None)
        if pool:
            pool.close()

    def _path(self, bucket: str, key: str) -> str:
        return f"{self._base}/{bucket}/{quote(key, safe='/-_.~')}"

    def _send(self, bucket: str, request: S3Request, limit: int | None = None) -> S3Response:
        from urllib3.exceptions import HTTPError

        for attempt in range(1, ATTEMPTS + 1):
            try:
                response = self._exchange(request, limit)
            except (OSError, HTTPError) as exc:
                if attempt == ATTEMPTS:
                    raise silence(exc, bucket) from exc
            else:
                if attempt == ATTEMPTS or response.status < 400 or not is_busy(response.code, response.status):
                    return response
            # Jitter: many clients that wait for one store should not return at once.
            time.sleep(random.uniform(0.05, 0.3) * 3 ** (attempt - 1))  # noqa: S311 - no secret in it
        raise AssertionError  # the last attempt returns or raises

    def _exchange(self, request: S3Request, limit: int | None) -> S3Response:
        response = self._pool.urlopen(
            request.method,
            request.target,
            body=request.data or None,
            headers=self._signed(request),
            retries=False,
            redirect=False,
            assert_same_host=False,
            preload_content=False,
            decode_content=False,
        )
        try:
            data = _read(response, limit if response.status < 300 else None)
        except BaseException:
            response.close()  # the rest of the body must not be read as the next response
            raise
        response.release_conn()
        return S3Response(response.status, response.headers, data)

    def _signed(self, request: S3Request) -> "Mapping[str, str]":
        """The headers of a request with its signature."""
        from botocore.awsrequest import AWSRequest

        signed: Any = AWSRequest(request.method, self._origin + request.target, request.headers, request.data)
        self._signer.add_auth(signed)
        return dict(signed.headers.items())

    # Imported with the first call, so that a predictor starts without waiting for them.
    @cached_property
    def _signer(self) -> Any:
        from botocore.auth import S3SigV4Auth
        from botocore.credentials import Credentials

        region, access_key, secret_key = self._keys
        return S3SigV4Auth(Credentials(access_key, secret_key), "s3", region)

    @cached_property
    def _pool(self) -> "HTTPConnectionPool":
        from urllib3 import HTTPConnectionPool, Timeout

        timeout = Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
        return HTTPConnectionPool(self._host, self._port, timeout=timeout, maxsize=KEPT)


def _version(version_id: str | None) -> str:
    return f"?versionId={quote(version_id, safe='-_.~')}" if version_id else ""


def bad_address(endpoint: str | None) -> SettingsError:
    """The error for an address that cannot be used."""
    return SettingsError(f"The object store's address {endpoint!r} is not one like http://host:9000.")


def _read(response: "BaseHTTPResponse", limit: int | None) -> bytes:
    length = int(response.headers.get("Content-Length", -1))
    if limit is not None and length > limit:
        raise ObjectTooLarge(f"The object has {length} bytes; the limit is {limit}.")
    if 0 <= length <= _CHUNK:
        return response.read()
    deadline = time.monotonic() + TRANSFER_SECONDS
    data = bytearray()
    while chunk := response.read(_CHUNK):
        data += chunk
        if limit is not None and len(data) > limit:
            raise ObjectTooLarge(f"The object has more than {limit} bytes.")
        if time.monotonic() > deadline:
            raise TimeoutError("the object comes too slowly")
    return bytes(data)
