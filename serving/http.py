"""Requests and replies between the web server and the endpoints."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import orjson
from starlette.datastructures import Headers, QueryParams

from lungline.errors import LunglineError, Unavailable


class RequestMalformed(LunglineError):
    """A request does not have the form that its protocol asks for."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request with its whole body; `received` is when that was here."""

    headers: Headers
    query: QueryParams
    body: bytes
    received: datetime


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that is ready to be sent."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] | None = None


class BodyTooLarge(LunglineError):
    """A body has more bytes than are taken."""


class BodyTooSlow(LunglineError):
    """A body did not arrive in time."""


class Busy(Unavailable):
    """Too many requests are under way."""


Handler = Callable[[Request], Reply]


def json_reply(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """A value as a JSON answer."""
    return Reply(status, orjson.dumps(value), {"content-type": "application/json", **(headers or {})})
