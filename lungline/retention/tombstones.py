"""Tombstones: that an upload was erased, so that an event that comes late brings nothing of it back.

    erased/ab/abcdef....     an empty object in the results bucket; its name is a keyed hash of the upload's identity

Without it, an event whose object is gone would leave a record that names the key again. The same image that is sent
again is judged as ever: it is a new upload, and no X-ray may be lost.
"""

import logging
from collections.abc import Iterable

from lungline.deidentification.pseudonyms import Pseudonyms
from lungline.errors import LunglineError, Unavailable
from lungline.settings import Settings
from lungline.storage.s3 import Storage

PREFIX = "erased/"

_log = logging.getLogger(__name__)


def digest(identity: str, settings: Settings) -> str:
    """32 hexadecimal digits that stand for an upload in tombstones and proofs, and tell nothing without the secret."""
    return Pseudonyms.from_settings(settings).of("erased", identity)


def put(identities: Iterable[str], storage: Storage, settings: Settings) -> None:
    """Note that uploads are erased. Raises StorageUnavailable."""
    for identity in identities:
        storage.put(settings.results_bucket, _key(identity, settings), b"")


def is_erased(identity: str, storage: Storage, settings: Settings) -> bool:
    """Whether an upload was erased. Raises StorageUnavailable."""
    try:
        return storage.exists(settings.results_bucket, _key(identity, settings))
    except Unavailable:
        raise
    except LunglineError as exc:  # rights of an earlier release
        _log.warning("Upload %s: whether it was erased cannot be read: %s", identity, exc)
        return False


def _key(identity: str, settings: Settings) -> str:
    name = digest(identity, settings)
    return f"{PREFIX}{name[:2]}/{name}"
