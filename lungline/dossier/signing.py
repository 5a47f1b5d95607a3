"""Signatures of documents that leave the system: a JSON value, and the HTML page that shows it.

A JSON document is signed as an entry of the promotion history is: over its canonical text without the signature. A page
ends with a comment that signs every byte before it, and holds the JSON document too. Both need nothing but a public key
of the site to be verified.
"""

import base64
import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from lungline.errors import LunglineError
from lungline.site_key import PublicKey, SiteKey

MOST_BYTES = 64 * 2**20

_TRAILER = re.compile(rb"<!-- key ([0-9a-f]{64}) signature ([A-Za-z0-9+/=]{1,200}) -->\n")
_DOCUMENT = re.compile(r'<script type="application/json" id="document">(.*?)</script>', re.DOTALL)


@dataclass(frozen=True, slots=True)
class SignedDocument:
    """A document whose signature holds; `content` is its JSON value."""

    content: dict[str, Any]
    key: PublicKey

    @property
    def sentence(self) -> str:
        """What it is, and who signed it."""
        about = f"{self.content.get('kind', 'document')} {self.content.get('subject', '')}".strip()
        return f"The {about} is as it was signed, with the key {self.key.id[:12]}… of this site."


def sign_document(document: dict[str, Any], key: SiteKey | None) -> dict[str, Any]:
    """The document with key and signature; both are empty without a key."""
    named = document | {"key": key.public.id if key else ""}
    return named | {"signature": key.sign(_canonical(named)) if key else ""}


def sign_page(page: str, key: SiteKey | None) -> str:
    """The page with its signature as the last line; unchanged without a key."""
    if key is None:
        return page
    return f"{page}<!-- key {key.public.id} signature {key.sign(page.encode())} -->\n"


def written(document: dict[str, Any]) -> str:
    """A signed document as the text of a file."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def embedded(document: dict[str, Any]) -> str:
    """A signed document as part of a page."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="document">{text}</script>'


def verify(data: bytes, keys: Sequence[PublicKey]) -> SignedDocument:
    """The document in the content of a file, once its signature holds for one of the keys.

    Raises LunglineError, which says what is wrong: it was changed, it is not signed, or with another key.
    """
    return _verified_document(data, keys) if data.lstrip()[:1] == b"{" else _verified_page(data, keys)


def _verified_page(data: bytes, keys: Sequence[PublicKey]) -> SignedDocument:
    start = data.rstrip(b"\n").rfind(b"\n") + 1
    trailer = _TRAILER.fullmatch(data[start:])
    shown = _DOCUMENT.search(data.decode(errors="replace"))
    if trailer is None or shown is None:
        _refuse("has no signature at its end" if shown else "is no page of a dossier or a promotion")
    key = _verified(data[:start], trailer[1].decode(), trailer[2].decode(), keys)
    return SignedDocument(_parsed(shown[1]), key)


def _verified_document(data: bytes, keys: Sequence[PublicKey]) -> SignedDocument:
    document = _parsed(data.decode(errors="replace"))
    signature, key = document.get("signature"), document.get("key")
    if not isinstance(signature, str) or not isinstance(key, str) or not signature:
        _refuse("is not signed")
    content = {name: value for name, value in document.items() if name != "signature"}
    return SignedDocument(document, _verified(_canonical(content), key, signature, keys))


def _verified(data: bytes, key_id: str, signature: str, keys: Sequence[PublicKey]) -> PublicKey:
    key = next((key for key in keys if key.id == key_id), None)
    if key is None:
        _refuse(f"is signed with the key {key_id[:12]}…, which this site does not trust")
    if not _is_canonical(signature) or not key.verifies(data, signature):
        _refuse("was changed after it was signed")
    return key


def _is_canonical(signature: str) -> bool:
    """Whether no other text stands for the same signature: its last letter has bits that decoding drops."""
    try:
        return base64.b64encode(base64.b64decode(signature, validate=True)).decode() == signature
    except (binascii.Error, ValueError):
        return False


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as exc:
        raise LunglineError("The file is no dossier: it cannot be read as JSON, or was changed.") from exc
    if not isinstance(value, dict):
        _refuse("is no dossier")
    return cast("dict[str, Any]", value)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's values; a name that comes twice would show different readers different values."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name comes twice")
    return values


def _canonical(document: dict[str, Any]) -> bytes:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def _refuse(reason: str) -> NoReturn:
    raise LunglineError(f"The file {reason}.")
