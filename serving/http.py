"""Requests and replies between the web server and the endpoints."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import orjson
from starlette.datastructures import Headers, QueryParams

from lungline.errors import Busy, LunglineError


class RequestMalformed(LunglineError):
    """A request does not have the form that its protocol requires."""


class RouteNotFound(LunglineError):
    """A path names no route, model or version that this predictor serves."""


class MethodNotAllowed(LunglineError):
    """A route exists, but not with this method."""


class MediaTypeUnsupported(LunglineError):
    """A body is compressed or formatted in a way that is not read."""


class BodyTooLarge(LunglineError):
    """A body has more bytes than the limit."""


class BodyTooSlow(LunglineError):
    """A body did not arrive in time."""


class NoRoom(Busy):
    """There is no memory for the rest of a body."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request with its whole body; `received` is when its last byte arrived."""

    headers: Headers
    query: QueryParams
    body: bytes
    received: datetime
    version: str | None = None
    """The model version that the path names."""
    model: str | None = None
    """The model that the path names, where it is not the first."""
    proved: bool = False
    """Whether its sender has proved to be the stack's own trigger."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete response."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] | None = None


Handler = Callable[[Request], Reply]


def json_reply(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """A JSON response."""
    return Reply(status, orjson.dumps(value), {"content-type": "application/json", **(headers or {})})
