"""The server's side of a Kafka login: SASL with SCRAM-SHA-512, for one user.

The password never travels, and the server proves that it knows the password too: a program that has taken the broker's
port learns nothing and convinces nobody. https://www.rfc-editor.org/rfc/rfc5802, https://kafka.apache.org/protocol
"""

import base64
import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass

MECHANISM = "SCRAM-SHA-512"
USER = "lungline"
PASSWORD = "LUNGLINE_GATE_PASSWORD"  # noqa: S105 - the variable that hands it to the server
ITERATIONS = 4096
"""Kafka's minimum: the password is generated, so that nobody can guess it, and clients log in often."""

SASL_HANDSHAKE, SASL_AUTHENTICATE = 17, 36
NEWEST_HANDSHAKE, NEWEST_AUTHENTICATE, FLEXIBLE_AUTHENTICATE = 1, 2, 2
_UNSUPPORTED_MECHANISM, _FAILED = 33, 58


class LoginRefused(Exception):
    """The peer does not log in, or does not as the protocol demands."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a server needs to know a user: not the password itself."""

    user: str
    salt: bytes
    stored_key: bytes
    server_key: bytes

    @classmethod
    def of(cls, user: str, password: str) -> "Verifier":
        """The verifier of a password, with a new salt."""
        salt = secrets.token_bytes(24)
        salted = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
        client_key = _hmac(salted, b"Client Key")
        return cls(user, salt, hashlib.sha512(client_key).digest(), _hmac(salted, b"Server Key"))


class Scram:
    """One login; `answer` takes the client's messages in their order."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self._bare = self._first = ""
        self.is_done = False

    def answer(self, message: bytes) -> bytes:
        """The server's answer. Raises LoginRefused."""
        try:
            text = message.decode()
            return self._final(text) if self._first else self._begin(text)
        except (ValueError, KeyError) as exc:
            raise LoginRefused from exc

    def _begin(self, text: str) -> bytes:
        binding, _, self._bare = text.split(",", 2)
        fields = _fields(self._bare)
        if binding not in {"n", "y"} or fields["n"] != self._verifier.user:
            raise LoginRefused
        salt = base64.b64encode(self._verifier.salt).decode()
        self._first = f"r={fields['r']}{secrets.token_urlsafe(24)},s={salt},i={ITERATIONS}"
        return self._first.encode()

    def _final(self, text: str) -> bytes:
        without_proof, _, proof = text.rpartition(",p=")
        if _fields(without_proof)["r"] != _fields(self._first)["r"]:
            raise LoginRefused
        signed = f"{self._bare},{self._first},{without_proof}".encode()
        signature = _hmac(self._verifier.stored_key, signed)
        given = base64.b64decode(proof, validate=True)
        client_key = bytes(a ^ b for a, b in zip(given, signature, strict=True))
        if not hmac.compare_digest(hashlib.sha512(client_key).digest(), self._verifier.stored_key):
            raise LoginRefused
        self.is_done = True
        return b"v=" + base64.b64encode(_hmac(self._verifier.server_key, signed))


@dataclass(frozen=True, slots=True)
class Request:
    """A Kafka request before a login."""

    key: int
    version: int
    number: int
    """Its correlation id."""
    body: bytes

    @classmethod
    def parse(cls, frame: bytes) -> "Request":
        """The request in a frame, without its length. Raises LoginRefused."""
        try:
            key, version, number, length = struct.unpack_from(">hhih", frame)
        except struct.error as exc:
            raise LoginRefused from exc
        return cls(key, version, number, frame[10 + max(0, length) :])


def mechanism_of(request: Request) -> str:
    """The mechanism that a handshake proposes. Raises LoginRefused."""
    return _sized(request.body, ">h").decode(errors="replace")


def handshake_reply(request: Request) -> bytes:
    """The reply to a handshake: the one mechanism there is."""
    code = 0 if mechanism_of(request) == MECHANISM else _UNSUPPORTED_MECHANISM
    name = MECHANISM.encode()
    return _frame(request.number, struct.pack(">hih", code, 1, len(name)) + name)


def token_of(request: Request) -> bytes:
    """The SASL message in a request. Raises LoginRefused."""
    if request.version < FLEXIBLE_AUTHENTICATE:
        return _sized(request.body, ">i")
    length, start = _varint(request.body[1:])  # after the header's tagged fields, of which there are none
    return request.body[1 + start : start + length]


def authenticate_reply(request: Request, token: bytes | None) -> bytes:
    """The reply with the server's SASL message; None refuses the login."""
    code, text = (0, b"") if token is not None else (_FAILED, b"Authentication failed")
    token = token or b""
    if request.version >= FLEXIBLE_AUTHENTICATE:
        named = _uvarint(len(text) + 1) + text if text else b"\0"
        body = struct.pack(">h", code) + named + _uvarint(len(token) + 1) + token + struct.pack(">qb", 0, 0)
        return _frame(request.number, b"\0" + body)
    named = struct.pack(">h", len(text)) + text if text else struct.pack(">h", -1)
    body = struct.pack(">h", code) + named + struct.pack(">i", len(token)) + token
    return _frame(request.number, body + (struct.pack(">q", 0) if request.version else b""))


def _frame(number: int, body: bytes) -> bytes:
    return struct.pack(">ii", len(body) + 4, number) + body


def _sized(data: bytes, size: str) -> bytes:
    try:
        (length,) = struct.unpack_from(size, data)
    except struct.error as exc:
        raise LoginRefused from exc
    start = struct.calcsize(size)
    return data[start : start + max(0, length)]


def _uvarint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _varint(data: bytes) -> tuple[int, int]:
    """An unsigned number and how many bytes it takes."""
    value = 0
    for place, byte in enumerate(data[:5]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, place + 1
    raise LoginRefused


def _fields(text: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in text.split(",") if "=" in part)


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha512")
