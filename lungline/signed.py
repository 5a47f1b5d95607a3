"""GET and PUT of single objects on kept connections, signed here (AWS Signature Version 4).

The online path makes three calls for each upload. boto3 takes 1.5 to 2 ms of CPU for each, more than decoding and
judging the image; this takes a fifth of that. Everything else goes through boto3.
"""

import hashlib
import hmac
import http.client
import random
import re
import time
import weakref
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from lungline.errors import ObjectTooLarge, SettingsError
from lungline.refusals import is_busy, refusal, silence

CONNECT_SECONDS = 2.0
READ_SECONDS = 10.0
TRANSFER_SECONDS = 60.0  # of one object, however slowly its bytes trickle in
ATTEMPTS = 3
KEPT = 64

_CHUNK = 2**20
_CODE = re.compile(rb"<Code>([^<]*)</Code>")
_EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """A store's answer; `code` is the error code that S3 gives in XML, or the status as text."""

    status: int
    headers: http.client.HTTPMessage
    data: bytes

    @property
    def code(self) -> str:
        """The error code."""
        found = _CODE.search(self.data)
        return found[1].decode("ascii", "replace") if found else str(self.status)


@dataclass(frozen=True, slots=True)
class Request:
    """A request for one object; `path` and `query` as they are sent."""

    method: str
    path: str
    query: str
    data: bytes
    headers: dict[str, str]

    @property
    def target(self) -> str:
        """What stands in the request line."""
        return f"{self.path}?{self.query}" if self.query else self.path


class SignedRequests:
    """A store with path-style addresses on plain HTTP; may be shared by threads."""

    def __init__(self, endpoint: str, region: str, access_key: str, secret_key: str) -> None:
        try:
            address = urlsplit(endpoint)
            self._host, self._port = address.hostname or "", address.port or 80
        except ValueError as exc:
            raise bad_address(endpoint) from exc
        if not self._host:
            raise bad_address(endpoint)
        self._netloc = address.netloc.rpartition("@")[2]
        self._base = address.path.rstrip("/")
        self._signer = _Signer(region, access_key, secret_key)
        self._idle: deque[http.client.HTTPConnection] = deque(maxlen=KEPT)
        self._closing = weakref.finalize(self, _close_all, self._idle)

    def get(self, bucket: str, key: str, version_id: str | None, max_bytes: int | None) -> Answer:
        """An object. Raises ObjectGone, ObjectTooLarge, and what `Storage` raises."""
        answer = self._ask(bucket, self.request("GET", bucket, key, version_id=version_id), max_bytes)
        if answer.status >= 300:
            raise refusal(answer.code, answer.status, bucket, reading=True)
        return answer

    def put(self, bucket: str, key: str, data: bytes, headers: dict[str, str]) -> Answer:
        """Store an object; the statuses 409 and 412 are answers to a conditional one."""
        answer = self._ask(bucket, self.request("PUT", bucket, key, data=data, headers=headers))
        if answer.status >= 300 and answer.status not in {409, 412}:
            raise refusal(answer.code, answer.status, bucket, reading=False)
        return answer

    def close(self) -> None:
        """Close the idle connections."""
        _close_all(self._idle)

    def request(
        self,
        method: str,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        data: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> "Request":
        """A request, not signed yet."""
        query = f"versionId={quote(version_id, safe='-_.~')}" if version_id else ""
        path = f"{self._base}/{bucket}/{quote(key, safe='/-_.~')}"
        return Request(method, path, query, data, headers or {})

    def signature(self, request: "Request") -> dict[str, str]:
        """The headers that make a request ours, now."""
        return self._signer.headers(request, self._netloc)

    def _ask(self, bucket: str, request: "Request", limit: int | None = None) -> Answer:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = self._exchange(request, limit)
            except (OSError, http.client.HTTPException) as exc:
                if attempt == ATTEMPTS:
                    raise silence(exc, bucket) from exc
            else:
                if attempt == ATTEMPTS or answer.status < 400 or not is_busy(answer.code, answer.status):
                    return answer
            # Spread out, so that many who wait for one store do not come back together.
            time.sleep(random.uniform(0.05, 0.3) * 3 ** (attempt - 1))  # noqa: S311 - no secret in it
        raise AssertionError  # the last attempt returns or raises

    def _exchange(self, request: "Request", limit: int | None) -> Answer:
        """One request; on a fresh connection when the store has closed the kept one meanwhile."""
        headers = self.signature(request) | request.headers
        while True:
            kept = self._kept()
            connection = kept or self._connected()
            try:
                connection.request(request.method, request.target, request.data or None, headers)
                answer = self._received(connection, limit)
            except (ConnectionError, http.client.BadStatusLine):
                connection.close()
                if kept is None:
                    raise
            except BaseException:
                connection.close()
                raise
            else:
                return answer

    def _received(self, connection: http.client.HTTPConnection, limit: int | None) -> Answer:
        response = connection.getresponse()
        data = _read(response, limit if response.status < 300 else None)
        if response.will_close:
            connection.close()
        else:
            self._keep(connection)
        return Answer(response.status, response.headers, data)

    def _kept(self) -> http.client.HTTPConnection | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        if len(self._idle) < KEPT:
            self._idle.append(connection)
        else:
            connection.close()

    def _connected(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_SECONDS)
        connection.connect()
        connection.sock.settimeout(READ_SECONDS)
        return connection


def bad_address(endpoint: str | None) -> SettingsError:
    """The error for an address that leads nowhere."""
    return SettingsError(f"The object store's address {endpoint!r} is not one like http://host:9000.")


def _close_all(idle: deque[http.client.HTTPConnection]) -> None:
    while idle:
        idle.pop().close()


def _read(response: http.client.HTTPResponse, limit: int | None) -> bytes:
    length = response.length
    if limit is not None and length is not None and length > limit:
        raise ObjectTooLarge(f"The object has {length} bytes; the limit is {limit}.")
    if length is not None and length <= _CHUNK:
        return response.read()
    deadline = time.monotonic() + TRANSFER_SECONDS
    data = bytearray()
    while chunk := response.read(_CHUNK):
        data += chunk
        if limit is not None and len(data) > limit:
            raise ObjectTooLarge(f"The object has more than {limit} bytes.")
        if time.monotonic() > deadline:
            raise TimeoutError("the object comes too slowly")
    if length is not None and len(data) < length:
        raise http.client.IncompleteRead(bytes(data), length - len(data))
    return bytes(data)


class _Signer:
    """AWS Signature Version 4 for S3, with the payload's digest signed."""

    def __init__(self, region: str, access_key: str, secret_key: str) -> None:
        self._scope = f"{region}/s3/aws4_request"
        self._access_key = access_key
        self._secret_key = secret_key
        self._day = ("", b"")

    def headers(self, request: Request, host: str) -> dict[str, str]:
        """The headers that make a request ours, now."""
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        digest = hashlib.sha256(request.data).hexdigest() if request.data else _EMPTY
        names = "host;x-amz-content-sha256;x-amz-date"
        canonical = (
            f"{request.method}\n{request.path}\n{request.query}\nhost:{host}\nx-amz-content-sha256:{digest}\nx-amz-date:{moment}\n\n"
            f"{names}\n{digest}"
        )
        scope = f"{moment[:8]}/{self._scope}"
        to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(self._key(moment[:8]), to_sign.encode(), "sha256").hex()
        return {
            "host": host,
            "x-amz-date": moment,
            "x-amz-content-sha256": digest,
            "authorization": (
                f"AWS4-HMAC-SHA256 Credential={self._access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
            ),
        }

    def _key(self, day: str) -> bytes:
        """The day's key; a pair in one attribute, so that threads see both halves or neither."""
        known, key = self._day
        if known != day:
            key = f"AWS4{self._secret_key}".encode()
            for part in (day, *self._scope.split("/")):
                key = hmac.digest(key, part.encode(), "sha256")
            self._day = (day, key)
        return key
