"""Which upload a person means: by its identity, by the key of its object, or by an accession number."""

import contextlib
import re
from collections.abc import Callable, Iterable

from lungline.errors import LunglineError, Unavailable
from lungline.events.uploads import Upload
from lungline.settings import Settings
from lungline.storage.s3 import Storage

IDENTITY = re.compile(r"[0-9a-f]{32}")
Lookup = Callable[[str], Iterable[str]]
"""The identities of uploads with an accession number or an object key."""


def identity_of(name: str, settings: Settings, storage: Storage, lookup: Lookup | None = None) -> str:
    """The identity that a name stands for; of a key that is the object that lies there now, else any that did.

    Raises LunglineError for a name that stands for no upload, or for several; the message does not repeat the name,
    which may be a patient's. Raises StorageUnavailable.
    """
    if IDENTITY.fullmatch(name):
        return name
    if current := _by_key(name, settings.uploads_bucket, storage):
        return current
    identities: list[str] = []
    if lookup:
        with contextlib.suppress(LunglineError):  # a worklist that cannot be reached names nothing
            identities = sorted(lookup(name))
    if not identities:
        raise LunglineError(
            "No upload has this identity, accession number or object key; `lungline results --json` shows identities."
        )
    if len(identities) > 1:
        raise LunglineError(f"Several uploads have this name; give the identity of one: {', '.join(identities)}.")
    return identities[0]


def _by_key(key: str, bucket: str, storage: Storage) -> str | None:
    """The identity of the object at a key, as a listing of the bucket gives it too."""
    try:
        Upload(bucket, key)
        info = storage.head(bucket, key)
    except Unavailable:
        raise
    except LunglineError:  # no such object, or no key that a store can hold
        return None
    return Upload(bucket, key, info.version_id, info.etag).identity
