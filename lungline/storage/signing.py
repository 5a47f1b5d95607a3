"""GET, HEAD, PUT and DELETE of single objects over kept connections, signed by botocore.

The online path makes three calls per upload, and five more for an unsure one. boto3 takes 1 ms of CPU for each, about
as long as decoding and preparing an image; its signer over kept connections takes 0.2 ms. All other calls go through
boto3.
"""

# botocore ships no types; it stays behind this module.
# pyright: reportMissingTypeStubs=false
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote, urlsplit

from lungline.errors import SettingsError
from lungline.storage.errors import is_busy, refusal, silence
from lungline.storage.kept_connections import KeptConnections, S3Response

ATTEMPTS = 3


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
        # As HTTP has it; botocore would work it out twice for each request.
        self._host_header = address.netloc.rpartition("@")[2].lower().removesuffix(":80")
        self._keys = region, access_key, secret_key
        self._connections = KeptConnections(self._host, self._port)

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
        self._connections.close()

    def _path(self, bucket: str, key: str) -> str:
        return f"{self._base}/{bucket}/{quote(key, safe='/-_.~')}"

    def _send(self, bucket: str, request: S3Request, limit: int | None = None) -> S3Response:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                response = self._connections.exchange(
                    request.method, request.target, self._signed(request), request.data, limit
                )
            except OSError as exc:
                if attempt == ATTEMPTS:
                    raise silence(exc, bucket) from exc
            else:
                if attempt == ATTEMPTS or response.status < 400 or not is_busy(response.code, response.status):
                    return response
            # Jitter: many clients that wait for one store should not return at once.
            time.sleep(random.uniform(0.05, 0.3) * 3 ** (attempt - 1))  # noqa: S311 - no secret in it
        raise AssertionError  # the last attempt returns or raises

    def _signed(self, request: S3Request) -> Mapping[str, str]:
        """The headers of a request with its signature."""
        from botocore.awsrequest import AWSRequest

        headers = {"host": self._host_header} | request.headers
        signed: Any = AWSRequest(request.method, self._origin + request.target, headers, request.data)
        self._signer.add_auth(signed)
        return dict(signed.headers.items())

    # Imported with the first call, so that a predictor starts without waiting for them.
    @cached_property
    def _signer(self) -> Any:
        from botocore.auth import S3SigV4Auth
        from botocore.credentials import Credentials

        region, access_key, secret_key = self._keys
        return S3SigV4Auth(Credentials(access_key, secret_key), "s3", region)


def _version(version_id: str | None) -> str:
    return f"?versionId={quote(version_id, safe='-_.~')}" if version_id else ""


def bad_address(endpoint: str | None) -> SettingsError:
    """The error for an address that cannot be used."""
    return SettingsError(f"The object store's address {endpoint!r} is not one like http://host:9000.")
