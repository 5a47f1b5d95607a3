"""Bodies of requests: decompression, JSON, base64, and a name for what was sent instead of what was expected."""

import binascii
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson
from starlette.datastructures import Headers

from lungline.imaging.decoding import is_image, unsupported_format
from serving.http import BodyTooLarge, MediaTypeUnsupported, RequestMalformed

# zlib's window sizes: 31 reads gzip, 15 zlib (HTTP's deflate), -15 raw deflate, which some clients send instead.
_GZIP, _ZLIB, _RAW_DEFLATE = 31, 15, -15
_MAX_ENCODINGS = 2
_UNICODE_MARKS = (b"\xff\xfe", b"\xfe\xff")  # UTF-16
# Each member costs a copy of what follows it.
_MAX_MEMBERS = 16

_ALPHABET = re.compile(r"[A-Za-z0-9+/]*")
_URL_SAFE = str.maketrans("-_", "+/")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}){16,}")
_URL = re.compile(r"(?:[a-zA-Z][a-zA-Z0-9+.-]{1,15}://|/[^/]*/[^/]*\.\w{2,5}$)")
_DATA_URL = re.compile(r"data:[^,]{0,200},", re.IGNORECASE)
# How the base64 text of a JPEG, a PNG and a data: URL begins, in lower case.
BASE64_IMAGES = (b"/9j/", b"ivborw0kggo", b"data:image/")


def decompress(body: bytes, headers: Headers, max_bytes: int) -> bytes:
    """The body without its Content-Encoding, at most `max_bytes` long.

    Raises MediaTypeUnsupported for encodings other than gzip and deflate, RequestMalformed for damaged data, and
    BodyTooLarge.
    """
    names = [name.strip().lower() for name in headers.get("content-encoding", "").split(",")]
    encodings = [name for name in names if name not in {"", "identity"}]
    unsupported = [name for name in encodings if name not in {"gzip", "x-gzip", "deflate"}]
    if unsupported:
        name = unsupported[0][:20]
        raise MediaTypeUnsupported(f"The body is compressed with {name!r}; expected gzip, deflate or no compression.")
    if len(encodings) > _MAX_ENCODINGS:
        raise MediaTypeUnsupported(f"The body is compressed {len(encodings)} times; expected at most {_MAX_ENCODINGS}.")
    for name in reversed(encodings):
        body = _inflate(body, name, max_bytes)
    return body


def _inflate(body: bytes, name: str, max_bytes: int) -> bytes:
    windows = [_ZLIB, _RAW_DEFLATE] if name == "deflate" else [_GZIP]
    for window in windows:
        try:
            return b"".join(_members(body, window, max_bytes))
        except zlib.error:
            continue
    raise RequestMalformed(f"The body is not {name.removeprefix('x-')}, or it is damaged or cut off.")


def _members(body: bytes, window: int, max_bytes: int) -> Iterator[bytes]:
    """Decompressed members: gzip allows several, one after the other, and padding with zeros. Raises zlib.error."""
    left = max_bytes
    for _ in range(_MAX_MEMBERS):
        stream = zlib.decompressobj(window)
        data = stream.decompress(body, left + 1)
        left -= len(data)
        if left < 0:
            raise BodyTooLarge(f"The body has more than {max_bytes} bytes when it is decompressed.")
        if not stream.eof:
            raise zlib.error
        yield data
        body = stream.unused_data
        if not body.strip(b"\0"):
            return
    raise RequestMalformed(f"The body is compressed in more than {_MAX_MEMBERS} members.")


def decode_json(body: bytes, headers: Headers, expected: str, most_values: int) -> Any:
    """The JSON value of a body.

    Raises RequestMalformed with a sentence that names what was sent instead, and where that belongs; `expected`
    completes it: "Expected ...". JSON of more than `most_values` is not parsed: each takes up to 60 bytes of memory.
    """
    if len(body) > most_values and sum(body.count(mark) for mark in b",[{") > most_values:
        sent = describe(body, headers) or f"The JSON has more than {most_values:,} values."
        raise RequestMalformed(f"{sent} Expected {expected}.")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    else:
        _require_media_type(headers)
        return value
    sent = describe(body, headers)
    if sent is None:
        try:
            # The standard parser accepts what orjson does not: UTF-16, a byte order mark, NaN.
            return json.loads(body)
        except (ValueError, RecursionError) as exc:
            # Without its cause: the decoder's error carries the whole body.
            sent = _json_error(exc)
    raise RequestMalformed(f"{sent} Expected {expected}.")


def _require_media_type(headers: Headers) -> None:
    """Raise for JSON that is sent as text: pages of other sites can do that unasked, and no client of a protocol does.

    A urlencoded type, which they can send as well, is what `curl -d` sends.
    """
    if headers.get("content-type", "").partition(";")[0].strip().lower() == "text/plain":
        raise MediaTypeUnsupported("The JSON is sent as text/plain; expected application/json.")


def _json_error(exc: Exception) -> str:
    if isinstance(exc, json.JSONDecodeError):
        return f"The body is not JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}."
    if isinstance(exc, UnicodeDecodeError):
        return "The body is not JSON: it is not UTF-8 text."
    return "The body is not JSON: it is nested too deeply."


def describe(body: bytes, headers: Headers) -> str | None:
    """A sentence that names a body that is certainly no JSON, and where it belongs; None for text that may be JSON."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    start = body[:256].lstrip()
    is_form = media_type == "application/x-www-form-urlencoded" and re.match(rb"[\w.%+-]+=", start)
    unsupported = unsupported_format(body)
    is_binary = b"\0" in start and not start.startswith(_UNICODE_MARKS)
    sentences = (
        (not body, "The body is empty."),
        (body.startswith(b"\x1f\x8b"), "The body is gzip data without the header `Content-Encoding: gzip`."),
        (
            media_type == "multipart/form-data" or start.startswith(b"--"),
            "The body is a form; post an image as a form to /predict.",
        ),
        (is_image(body), "The body is an image file; post it to /predict."),
        (is_form, "The body is a URL-encoded form, as `curl -d name=value` sends it."),
        (unsupported is not None, f"The body is {unsupported}; post a JPEG, PNG or DICOM file to /predict."),
        (start.startswith(b"<"), "The body is XML or HTML."),
        (start[:16].lower().startswith(BASE64_IMAGES), "The body is base64 text without JSON around it."),
        (is_binary and b'\0"' not in start, "The body is binary data; post an image file to /predict."),
    )
    return next((sentence for applies, sentence in sentences if applies), None)


def decode_base64(text: str, name: str) -> bytes:
    """The bytes of base64 text: standard or URL-safe, in lines, without padding, as a data: URL, percent-encoded.

    `name` is the subject of the sentence of RequestMalformed, which says what is wrong.
    """
    payload = _payload(text.strip("\ufeff \t\r\n"), name)
    # Line breaks and the indentation after them are layout (MIME); a space within a line is a `+` that was lost.
    payload = "".join(line.strip(" \t") for line in payload.splitlines())
    if " " in payload:
        raise RequestMalformed(
            f"{name} has spaces in its base64: `+` becomes a space where text is decoded as a form; send it as %2B."
        )
    if not payload.isascii():
        position = next(at for at, character in enumerate(payload) if not character.isascii())
        raise RequestMalformed(f"{name} is not base64: character {position + 1} is not ASCII.")
    # Each step copies only what it changes: the text may have tens of megabytes.
    digits = payload.translate(_URL_SAFE) if "-" in payload or "_" in payload else payload
    digits = digits.rstrip("=")
    valid = _ALPHABET.match(digits)
    if valid is not None and valid.end() < len(digits):
        raise RequestMalformed(_wrong_character(digits, valid.end(), name))
    if len(digits) % 4 == 1:
        raise RequestMalformed(f"{name} is not base64: it is cut off, after {len(digits)} characters.")
    if _HEX.fullmatch(payload):
        raise RequestMalformed(f"{name} is hexadecimal; expected base64.")
    try:
        missing = -len(digits) % 4
        decoded = binascii.a2b_base64(digits + "=" * missing if missing else digits, strict_mode=True)
    except (binascii.Error, ValueError):
        raise RequestMalformed(f"{name} is not base64.") from None
    if decoded[:16].lower().startswith(BASE64_IMAGES):
        raise RequestMalformed(f"{name} is base64 of base64 text; encode the file once.")
    return decoded


def _payload(text: str, name: str) -> str:
    """The text without what surrounds base64: a data: URL, Python's b'...', percent-encoding."""
    if len(text) > 2 and text[:2] in {"b'", 'b"'} and text[-1] == text[1]:
        text = text[2:-1]
    if prefix := _DATA_URL.match(text):
        head = prefix.group().lower()
        text = text[prefix.end() :]
        if not head.rstrip(", ").endswith("base64"):
            raise RequestMalformed(f"{name} is a data: URL without base64; expected `data:image/jpeg;base64,...`.")
    elif _URL.match(text[:2048]):
        raise RequestMalformed(f"{name} is a URL or a path; expected the image itself as base64 text.")
    if re.search(r"%[0-9a-fA-F]{2}", text):
        text = unquote_to_bytes(text).decode("latin-1")
    return text


def _wrong_character(digits: str, position: int, name: str) -> str:
    if digits[position] == "=":
        return f"{name} is not base64: it has padding (=) before its end, as joined texts have."
    return f"{name} is not base64: character {position + 1} is {digits[position]!r}."
