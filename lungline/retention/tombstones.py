"""Tombstones: that an upload was erased, so that an event that comes late brings nothing of it back.

    erased/ab/abcdef....     an object in the results bucket; its name is a keyed hash of the upload's identity

It is empty, or names the kinds of buckets that the upload has left where it has not left all. Without it, an event
whose object is gone would leave a record that names the key again. The same image that is sent again is judged as ever:
it is a new upload, and no X-ray may be lost.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence

from lungline.deidentification.pseudonyms import Pseudonyms
from lungline.errors import LunglineError, ObjectGone, Unavailable
from lungline.events.uploads import Upload
from lungline.retention.rules import EVERYWHERE, Kind
from lungline.settings import Settings
from lungline.storage.s3 import Storage

PREFIX = "erased/"
_MOST_BYTES = 1024

_log = logging.getLogger(__name__)


def digest(identity: str, settings: Settings) -> str:
    """32 hexadecimal digits that stand for an upload in tombstones and proofs, and tell nothing without the secret."""
    return Pseudonyms.from_settings(settings).of("erased", identity)


def put(identities: Iterable[str], storage: Storage, settings: Settings, kinds: Sequence[Kind] = EVERYWHERE) -> None:
    """Note that uploads are erased from buckets of these kinds. Raises StorageUnavailable."""
    whole = set(kinds) == set(EVERYWHERE)
    data = b"" if whole else ",".join(kinds).encode()
    for identity in identities:
        storage.put(settings.results_bucket, _key(identity, settings), data)


def is_erased(identity: str, storage: Storage, settings: Settings) -> bool:
    """Whether an upload was erased. Raises StorageUnavailable."""
    return bool(kinds_erased(identity, storage, settings))


def kinds_erased(identity: str, storage: Storage, settings: Settings) -> tuple[Kind, ...]:
    """The kinds of buckets that an upload was erased from; none of another. Raises StorageUnavailable."""
    try:
        data = storage.get(settings.results_bucket, _key(identity, settings), max_bytes=_MOST_BYTES).data
    except ObjectGone:
        return ()
    except Unavailable:
        raise
    except LunglineError as exc:  # rights of an earlier release
        _log.warning("Upload %s: whether it was erased cannot be read: %s", identity, exc)
        return ()
    return tuple(kind for kind in EVERYWHERE if not data or kind in data.decode("ascii", "replace").split(","))


def erased_among(identities: Iterable[str], storage: Storage, settings: Settings) -> Iterator[str]:
    """Those of many uploads that were erased once, for the price of a listing. Raises StorageUnavailable."""
    keys = {info.key for info in storage.list(settings.results_bucket, PREFIX)}
    return (identity for identity in identities if _key(identity, settings) in keys) if keys else iter(())


def has_left(upload: Upload, storage: Storage, settings: Settings) -> tuple[Kind, ...]:
    """The kinds of buckets that an upload was erased from, unless its X-ray is there: then it was sent again.

    Asked in this order, because an erasure sets the tombstone, then deletes the X-ray, then looks for all the rest:
    what was written before this is asked is either named here, or seen by the erasure. Raises StorageUnavailable.
    """
    kinds = kinds_erased(upload.identity, storage, settings)
    return () if kinds and is_stored(upload, storage) else kinds


def is_stored(upload: Upload, storage: Storage) -> bool:
    """Whether the object of an upload is there, and no other in its place. Raises StorageUnavailable."""
    try:
        info = storage.head(upload.bucket, upload.key, upload.version_id)
    except ObjectGone:
        return False
    return bool(upload.version_id) or upload.etag in (None, info.etag)


def _key(identity: str, settings: Settings) -> str:
    name = digest(identity, settings)
    return f"{PREFIX}{name[:2]}/{name}"
