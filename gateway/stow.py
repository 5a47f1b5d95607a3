"""STOW-RS (DICOM PS3.18 10.5): the same way into the uploads bucket as C-STORE, in HTTP.

A part goes to a file of the spool as it arrives and is stored before the next one is read, so a request of any length
holds one object. It is part of the gateway because admission, keys, ledger, spool and the right to write are here.
"""

import asyncio
import hmac
import json
import logging
import re
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping
from email.message import Message
from functools import partial
from pathlib import Path
from typing import Any

from gateway import metrics
from gateway.intake import Intake, Receipt, too_large
from gateway.multipart import MultipartMalformed, Parts
from gateway.spool import Spool
from gateway.stow_answer import document, status_of
from lungline.errors import Busy

ROOT = "/dicom-web"
_PATH = re.compile(rf"{ROOT}/studies(?:/([0-9.]{{1,64}}))?/?")
_JSON = "application/dicom+json"
_ACCEPTED = {_JSON, "application/json", "application/*", "*/*"}
SILENCE_SECONDS = 30.0
"""Between two pieces of a body."""
_MOST_PARTS = 2000
_MOST_BYTES = 8 * 2**30
_NO_ROOM = Receipt("out-of-resources", "There is no room to receive the object; send it again later.")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = logging.getLogger("lungline.gateway")


class Refusal(Exception):
    """A request that is refused whole, with its status."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = headers


class Stow:
    """The ASGI application; a body may be silent for `silence_seconds`."""

    def __init__(self, intake: Intake, spool: Spool, token: str, silence_seconds: float = SILENCE_SECONDS) -> None:
        self._intake = intake
        self._spool = spool
        self._token = token.encode()
        self._silence_seconds = silence_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        try:
            study, boundary = self._admit(scope)
            request = _Request(self._intake, self._spool, study, boundary)
            receipts = await request.read(partial(_next, receive, self._silence_seconds))
        except Refusal as exc:
            log.warning("A store request was refused: %s", exc)
            await _answer(send, exc.status, {"error": str(exc)}, "application/json", exc.headers)
            return
        headers = {"retry-after": "30"} if (status := status_of(receipts, self._intake.max_bytes)) == 503 else {}
        await _answer(send, status, document(receipts), _JSON, headers)

    def _admit(self, scope: Scope) -> tuple[str | None, str]:
        """The study of the address, if it names one, and the boundary. Raises Refusal."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        word, _, given = headers.get("authorization", "").partition(" ")
        if word.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
            raise Refusal(401, "A bearer token is needed.", **{"www-authenticate": "Bearer"})
        path = _PATH.fullmatch(scope["path"])
        if path is None:
            raise Refusal(404, f"Only {ROOT}/studies is served here.")
        if scope["method"] != "POST":
            raise Refusal(405, "Only POST is served here.", allow="POST")
        accepted = {part.partition(";")[0].strip().lower() for part in headers.get("accept", "*/*").split(",")}
        if not accepted & _ACCEPTED:
            raise Refusal(406, f"The answer is {_JSON}.")
        if int(headers.get("content-length", "0")) > _MOST_BYTES:
            raise Refusal(413, f"A request may have {_MOST_BYTES:,} bytes.")
        return path[1], _boundary(headers.get("content-type", ""))


def _boundary(content_type: str) -> str:
    message = Message()
    message["content-type"] = content_type
    boundary, kind = message.get_param("boundary"), message.get_param("type", "application/dicom")
    if message.get_content_type() != "multipart/related" or str(kind).lower() != "application/dicom":
        raise Refusal(415, "Expected multipart/related; type=application/dicom.")
    # RFC 2046 allows 70 characters; Orthanc makes boundaries of 73.
    if not isinstance(boundary, str) or not re.fullmatch(r"[ -~]{1,200}", boundary):
        raise Refusal(400, "The content type names no boundary.")
    return boundary


class _Request:
    """The body of one request."""

    def __init__(self, intake: Intake, spool: Spool, study: str | None, boundary: str) -> None:
        self._intake = intake
        self._spool = spool
        self._study = study
        self._parts = Parts(boundary)
        self._receipts: list[Receipt] = []
        self._path: Path | None = None
        self._size = 0
        self._refusal: Receipt | None = None

    async def read(self, following: Receive) -> list[Receipt]:
        """What became of each part, of the messages that `following` gives. Raises Refusal."""
        total = 0
        try:
            while True:
                message = await following()
                total += len(message.get("body", b""))
                if total > _MOST_BYTES:
                    raise Refusal(413, f"A request may have {_MOST_BYTES:,} bytes.")
                for kind, value in self._parts.feed(message.get("body", b"")):
                    await self._take(kind, value)
                if not message.get("more_body"):
                    break
        except MultipartMalformed as exc:
            raise Refusal(400, str(exc)) from exc
        finally:
            self._forget()
        if not self._parts.is_complete or not self._receipts:
            raise Refusal(400, "The body ends early, or has no part.")
        return self._receipts

    async def _take(self, kind: str, value: str | bytes | None) -> None:
        if kind == "begin":
            self._begin(str(value))
        elif isinstance(value, bytes):
            await asyncio.to_thread(self._write, value)
        elif self._path is not None:
            self._receipts.append(self._refused() or await asyncio.to_thread(self._store, self._path))
            self._forget()

    def _begin(self, content_type: str) -> None:
        if len(self._receipts) >= _MOST_PARTS:
            raise Refusal(413, f"A request may have {_MOST_PARTS:,} parts.")
        with tempfile.NamedTemporaryFile(dir=self._spool.folder, delete=False) as file:
            self._path = Path(file.name)
        self._size, self._refusal = 0, None
        if content_type and not content_type.lower().startswith("application/dicom"):
            self._refusal = Receipt("not-understood", "The part is not application/dicom.")

    def _write(self, data: bytes) -> None:
        """Write to the file; what is over the limits is read and thrown away."""
        self._size += len(data)
        if self._refusal or self._path is None:
            return
        if self._size > self._intake.max_bytes:
            self._refusal = too_large(self._intake.max_bytes)
        elif not self._spool.take(self._path, len(data)):
            self._refusal = _NO_ROOM
        else:
            with self._path.open("ab") as file:
                file.write(data)
            return
        self._spool.delete(self._path)

    def _refused(self) -> Receipt | None:
        if self._refusal:
            metrics.count("stow", self._refusal.outcome, 0)
            log.warning("%s: %s", self._refusal.outcome, self._refusal.reason, extra={"way": "stow"})
        return self._refusal

    def _store(self, path: Path) -> Receipt:
        try:
            with self._intake.budget.work():
                self._intake.budget.take(2 * self._size)
                data = path.read_bytes()
                return self._intake.take(data, "stow", study=self._study)
        except (Busy, OSError) as exc:
            metrics.count("stow", "out-of-resources", 0)
            log.warning("An object could not be received.", exc_info=exc)
            return Receipt("out-of-resources", "The object could not be received; send it again later.")

    def _forget(self) -> None:
        if self._path is not None:
            self._spool.delete(self._path)
            self._path = None


async def _next(receive: Receive, seconds: float) -> MutableMapping[str, Any]:
    try:
        message = await asyncio.wait_for(receive(), seconds)
    except TimeoutError as exc:
        raise Refusal(408, "The body does not arrive.", connection="close") from exc
    if message["type"] == "http.disconnect":
        raise Refusal(400, "The sender has gone.")
    return message


async def _answer(send: Send, status: int, value: Any, content_type: str, headers: dict[str, str]) -> None:
    listed = {"content-type": content_type} | headers
    if status in {401, 413, 415}:
        listed["connection"] = "close"  # a body may follow that nobody reads
    encoded = [(name.encode(), text.encode()) for name, text in listed.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})
