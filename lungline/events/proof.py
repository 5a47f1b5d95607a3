"""Sender and receiver of events prove themselves to each other, with a key that both have and never send.

    greeting    GET, proved by the sender; the answer proves the receiver, and tells its session and its clock
    event       POST over the same connection, proved within that session, in time, and once
    answer      proved for this one request; without a proof it says nothing about the event

So who takes a port gets neither an event nor a secret, and what it answers is not believed. A proof is an HMAC-SHA256
over all fields, each preceded by its length, so that none can be shifted into another. Times are seconds of the
receiver's monotonic clock: setting the clock of a machine changes nothing. A session is one process of a receiver, so
proofs for an earlier one are void. Knative cannot do this; on a cluster a bearer token and network policies stand for
it.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from lungline.errors import LunglineError

HEADER = "lungline-proof"
WINDOW_SECONDS = 60
"""How far a request's time may be from the receiver's, both ways."""
MOST_NONCES = 50_000
"""Remembered for each of at most four minutes: far more than a laptop sends."""

Receiving = Literal["predictor", "worklist"]
Pair = tuple[bytes, bytes]

_GREETING = "0" * 32
_REQUEST = re.compile(r"v1 ([0-9a-f]{32}) ([0-9]{1,12}) ([0-9a-f]{32}) ([0-9a-f]{64}) ([0-9a-f]{64})")
_ANSWER = re.compile(r"v1 ([0-9a-f]{32}) ([0-9]{1,12}) ([0-9a-f]{64})")
# What changes the meaning of a request or an answer, beside the attributes of the CloudEvent.
_COVERED = frozenset((b"content-type", b"content-encoding", b"traceparent", b"retry-after"))


class ProofRefused(LunglineError):
    """A sender has not proved itself."""


@dataclass(frozen=True, slots=True)
class Session:
    """One process of a receiver, and its clock: `clock` seconds when this machine's monotonic clock was `at`."""

    name: str
    clock: int
    at: float

    def now(self) -> int:
        """The receiver's time."""
        return self.clock + int(time.monotonic() - self.at)


@dataclass(frozen=True, slots=True)
class Request:
    """What an answer is bound to; `digest` is of the body, `has_room` is False when it cannot be remembered."""

    method: str
    target: str
    nonce: str
    digest: str
    has_room: bool = True


class Sender:
    """Proves requests to one receiver, and checks what it answers; may be shared by threads."""

    def __init__(self, key: str, receiver: Receiving) -> None:
        self.receiver: Receiving = receiver
        self._requests, self._answers = _keys(key, receiver)

    def prove(
        self, method: str, target: str, headers: Iterable[Pair], body: bytes, session: Session | None
    ) -> tuple[Request, str]:
        """A request and its header; without a session it is a greeting."""
        request = Request(method, target, secrets.token_hex(16), hashlib.sha256(body).hexdigest())
        name, now = (session.name, session.now()) if session else (_GREETING, 0)
        mac = _mac(self._requests, *_fields(request, name, now), *_covered(headers))
        return request, f"v1 {name} {now} {request.nonce} {request.digest} {mac}"

    def session_of(
        self, request: Request, status: int, headers: Iterable[Pair], body: bytes, proof: str | None
    ) -> Session | None:
        """The receiver's session, if the answer is the receiver's; None if anybody may have given it."""
        at = time.monotonic()
        match = _ANSWER.fullmatch(proof or "")
        if not match:
            return None
        name, clock, mac = match.groups()
        fields = _answer_fields(request, name, int(clock), status, body)
        is_proved = hmac.compare_digest(mac, _mac(self._answers, *fields, *_covered(headers)))
        return Session(name, int(clock), at) if is_proved else None


class Receiver:
    """Checks the proofs of one receiver's requests, and proves its answers; for one thread."""

    def __init__(self, key: str, name: Receiving, clock: Callable[[], float] = time.monotonic) -> None:
        self._requests, self._answers = _keys(key, name)
        self._session = secrets.token_hex(16)
        self._clock = clock
        self._nonces = _Nonces()

    def accept(self, method: str, target: str, headers: Iterable[Pair], proof: str) -> Request:
        """The request whose head this is; its body must still have the digest.

        Raises ProofRefused; nothing is remembered of such a request.
        """
        match = _REQUEST.fullmatch(proof)
        if not match:
            raise ProofRefused("The proof of the sender has not the form of one.")
        name, at, nonce, digest, mac = match.groups()
        request = Request(method, target, nonce, digest)
        fields = (*_fields(request, name, int(at)), *_covered(headers))
        if not hmac.compare_digest(mac, _mac(self._requests, *fields)):
            raise ProofRefused("The sender has not the key of this stack, or the request was changed on its way.")
        if name != _GREETING:
            return replace(request, has_room=self._is_new(name, int(at), nonce))
        if method != "GET":
            raise ProofRefused("An event must be proved within a session.")
        return request

    def prove(self, request: Request, status: int, headers: Iterable[Pair], body: bytes) -> str:
        """The header of an answer."""
        now = int(self._clock())
        fields = _answer_fields(request, self._session, now, status, body)
        return f"v1 {self._session} {now} {_mac(self._answers, *fields, *_covered(headers))}"

    def _is_new(self, session: str, at: int, nonce: str) -> bool:
        """Remember a request; False when there is no room to. Raises ProofRefused for one that is not new."""
        if session != self._session:
            raise ProofRefused("The request was proved to another process.")
        now = int(self._clock())
        if abs(now - at) > WINDOW_SECONDS:
            raise ProofRefused(f"The request was not proved within the last {WINDOW_SECONDS} s.")
        return self._nonces.add(nonce, at // WINDOW_SECONDS, now // WINDOW_SECONDS)


class _Nonces:
    """What has come, by the minute in which it was proved.

    Only who has the key gets in here. When a minute is full, nothing that came is forgotten: the rest has to wait.
    """

    def __init__(self) -> None:
        self._minutes: dict[int, set[str]] = {}

    def add(self, nonce: str, minute: int, current: int) -> bool:
        """Remember it; False when there is no room to. Raises ProofRefused for one that is remembered."""
        for passed in [each for each in self._minutes if each < current - 1]:
            del self._minutes[passed]
        come = self._minutes.setdefault(minute, set())
        if nonce in come:
            raise ProofRefused("The request has come before.")
        if len(come) >= MOST_NONCES:
            return False
        come.add(nonce)
        return True


def _keys(key: str, receiver: str) -> tuple[bytes, bytes]:
    """The keys of requests and of answers: a proof for one purpose is none for another."""
    labels = (f"events v1: {what} of the {receiver} of lungline" for what in ("requests", "answers"))
    requests, answers = (hmac.digest(key.encode(), label.encode(), "sha256") for label in labels)
    return requests, answers


def _fields(request: Request, session: str, at: int) -> tuple[bytes, ...]:
    texts = (request.method, request.target, session, str(at), request.nonce, request.digest)
    return tuple(text.encode("latin-1") for text in texts)


def _answer_fields(request: Request, session: str, at: int, status: int, body: bytes) -> tuple[bytes, ...]:
    return (*_fields(request, session, at), str(status).encode(), hashlib.sha256(body).digest())


def _covered(headers: Iterable[Pair]) -> list[bytes]:
    """Names and values of the headers that a proof covers, in order, however a client has written them."""
    lower = [(name.lower(), value.strip(b" \t")) for name, value in headers]
    return [part for pair in sorted(lower) if pair[0] in _COVERED or pair[0].startswith(b"ce-") for part in pair]


def _mac(key: bytes, *fields: bytes) -> str:
    return hmac.digest(key, b"".join(len(field).to_bytes(8, "big") + field for field in fields), "sha256").hex()
