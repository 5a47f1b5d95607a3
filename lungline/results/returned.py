"""What was written of an upload while it was being erased, and so came back: deleted by whoever wrote it.

    returned/abcdef...     an empty object: the writer had no right to delete, so the next erasure does it

On a cluster only the identity of the job `retention` may delete results; the others leave it this note.
"""

import logging
from collections.abc import Iterable, Iterator

from lungline.errors import LunglineError, Unavailable
from lungline.storage.s3 import Storage

PREFIX = "returned/"

_log = logging.getLogger(__name__)


def delete_or_note(storage: Storage, results_bucket: str, identity: str, places: Iterable[tuple[str, str]]) -> None:
    """Delete objects of an erased upload, given as bucket and key, or note the upload. Raises StorageUnavailable."""
    try:
        for bucket, key in places:
            storage.delete(bucket, key)
    except Unavailable:
        raise
    except LunglineError:  # no right to: another identity has it
        storage.put(results_bucket, PREFIX + identity, b"")
    _log.info("taken back: the upload was erased meanwhile", extra={"identity": identity})


def noted(storage: Storage, results_bucket: str) -> Iterator[str]:
    """Identities of the uploads that were noted. Raises StorageUnavailable."""
    return (info.key.removeprefix(PREFIX) for info in storage.list(results_bucket, PREFIX))


def forget(storage: Storage, results_bucket: str, identity: str) -> None:
    """Remove the note of an upload. Raises StorageUnavailable."""
    storage.delete(results_bucket, PREFIX + identity)
