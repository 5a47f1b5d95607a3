"""The broker's log of a home that an earlier release wrote: it was a bucket of the object store.

The first start copies it and then empties the bucket. What a start that is killed in between leaves there is not read
again.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from laptop.services.broker_log import fill, log_file
from laptop.services.store import BROKER_BUCKET
from lungline.errors import LunglineError, ObjectGone
from lungline.home import Home, sync_folder
from lungline.settings import Settings
from lungline.storage.s3 import Storage

log = logging.getLogger("lungline.broker")


def is_in_store(home: Home) -> bool:
    """Whether a home's log is still in its object store."""
    volumes = home.file("store", "data").glob(f"{BROKER_BUCKET}_*.dat")
    return not log_file(home.file("broker")).exists() and any(volumes)


def move_from_store(path: Path, settings: Settings) -> None:
    """Move a log to a file. Raises StorageUnavailable; then nothing has changed."""
    with contextlib.closing(Storage.from_settings(settings)) as storage:
        keys = [info.key for info in storage.list(BROKER_BUCKET)]
        count = fill(path, _objects(storage, keys), sync_folder)
        log.warning("The broker's log is now a file of the home: %d objects came from the store.", count)
        try:
            for key in keys:
                storage.delete(BROKER_BUCKET, key)
        except LunglineError as exc:
            log.warning("The old log stays in the store: %s", exc)


def _objects(storage: Storage, keys: list[str]) -> Iterator[tuple[str, bytes]]:
    for key in keys:
        with contextlib.suppress(ObjectGone):
            yield key, storage.get(BROKER_BUCKET, key).data
