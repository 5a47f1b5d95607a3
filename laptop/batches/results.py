"""The labels of a batch, as they are saved."""

import time
from collections.abc import Callable, Sequence

from laptop.batches.importing import Row
from lungline.errors import ObjectGone, StackError
from lungline.events.uploads import Upload
from lungline.results import record_store
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from lungline.wording import count

PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.25
# How many are looked at that have no record yet, before waiting again.
_MISSES = 20


def await_results(
    settings: Settings,
    rows: Sequence[Row],
    on_result: Callable[[int], None],
    check: Callable[[int], None],
    patience_seconds: float = PATIENCE_SECONDS,
) -> dict[str, ResultRecord]:
    """The latest record of every upload of a batch, by key; an upload that is gone from the bucket has none.

    `check` is called while results are missing and may raise. Raises StackError when none arrives for
    `patience_seconds`.
    """
    storage = Storage.from_settings(settings)
    try:
        waiting = _uploads(storage, settings.uploads_bucket, {row.key for row in rows if row.key})
        results: dict[str, ResultRecord] = {}
        end = time.monotonic() + patience_seconds
        while waiting:
            arrived = _arrived(storage, settings.results_bucket, waiting)
            if arrived:
                results |= arrived
                waiting = [upload for upload in waiting if upload.key not in results]
                on_result(len(results))
                end = time.monotonic() + patience_seconds
                continue
            check(len(waiting))
            if time.monotonic() > end:
                missing = count(len(waiting), "upload")
                raise StackError(
                    f"{missing} had no result for {patience_seconds:.0f} s; `lungline status` may say why."
                )
            time.sleep(_POLL_SECONDS)
        return results
    finally:
        storage.close()


def _uploads(storage: Storage, bucket: str, keys: set[str]) -> list[Upload]:
    """The uploads with the ETags that the bucket has: an earlier sender may have written another file header."""
    uploads: list[Upload] = []
    for key in sorted(keys):
        try:
            info = storage.head(bucket, key)
        except ObjectGone:
            continue
        uploads.append(Upload(bucket, key, info.version_id, info.etag))
    return uploads


def _arrived(storage: Storage, bucket: str, waiting: Sequence[Upload]) -> dict[str, ResultRecord]:
    """Records of the uploads from the first on, up to one without: they arrive in about this order."""
    arrived: dict[str, ResultRecord] = {}
    misses = 0
    for upload in waiting:
        if stored := record_store.find(storage, bucket, upload.identity):
            arrived[upload.key] = max(stored, key=lambda record: record.times.done)
        elif (misses := misses + 1) > _MISSES:
            break
    return arrived
