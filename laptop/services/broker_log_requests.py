"""Requests of the broker to its log: heads, conditions, and the keys to delete."""

from dataclasses import dataclass
from urllib.parse import parse_qs, unquote
from xml.etree import ElementTree as ET

BUCKET = "log"
MOST_BODY = 64 * 2**20
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


class Refused(Exception):
    """A request that is answered with a status and nothing else."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """A request; header names are lower case."""

    method: str
    key: str
    query: dict[str, str]
    headers: dict[bytes, bytes]
    length: int

    @classmethod
    def parse(cls, head: bytes) -> "Request":
        """From its head without the empty line. Raises Refused."""
        first, *lines = head.split(b"\r\n")
        try:
            method, target, _ = first.decode("ascii").split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
            length = int(headers.get(b"content-length", b"0"))
            path, _, query = target.partition("?")
            bucket, _, key = unquote(path.removeprefix("/"), errors="strict").partition("/")
            fields = {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}
        except ValueError as exc:
            raise Refused(400) from exc
        if b"transfer-encoding" in headers or length < 0:
            raise Refused(400)
        if length > MOST_BODY:
            raise Refused(413)
        if bucket != BUCKET:
            raise Refused(404)
        return cls(method, key, fields, headers, length)

    def version(self, header: bytes) -> int | None:
        """The version that a condition names; None where there is no such condition."""
        value = self.headers.get(header)
        if value is None:
            return None
        try:
            return int(value.strip(b'"'), 16)
        except ValueError:
            return -1


def keys_of(body: bytes) -> list[str]:
    """The keys in a request to delete several. Raises Refused."""
    try:
        keys = [each.text or "" for each in ET.fromstring(body).iter(f"{{{NAMESPACE}}}Key")]  # noqa: S314 - of the broker, which has shown its key
    except ET.ParseError as exc:
        raise Refused(400) from exc
    return keys
