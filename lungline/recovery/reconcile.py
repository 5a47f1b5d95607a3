"""Finds uploads without a result and sends their events again.

An event may be lost where the store was killed before it told of an upload, or where a broker was wiped. The store
itself then still knows the object, and the results bucket knows by name whether it was judged. Both are listed, never
read: each upload is named by what a listing gives (version id or ETag), exactly as its event named it, so an event
that is sent although the first one arrives after all is a duplicate, and is recognised as one.

Safe at any time and as often as one likes. An upload younger than `grace` is left for the next time: its first event
may well be on its way.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from lungline import results
from lungline.errors import EventMalformed
from lungline.events import Upload
from lungline.recovery.candidates import Candidates
from lungline.settings import Settings
from lungline.storage import ObjectInfo, Storage

# A page of a listing tells of a thousand results.
PAGE = 1000
SHARDS = 256

Send = Callable[[Upload], None]


@dataclass(slots=True)
class Reconciled:
    """What a reconciliation came to, in uploads.

    `unusable` are those under keys that no event can carry (control characters); `recent` were too young to ask for.
    """

    uploads: int = 0
    older: int = 0
    recent: int = 0
    unusable: int = 0
    with_result: int = 0
    sent: int = 0


def reconcile(
    storage: Storage, settings: Settings, send: Send, *, since: datetime | None = None, until: datetime | None = None
) -> Reconciled:
    """Call `send` for each upload without a result that was stored from `since` to `until`.

    Lists both buckets in pages and reads no object; memory does not grow with them. Raises StorageUnavailable, after
    which what was sent was sent, and doing it all again does no harm.
    """
    found = Reconciled()
    with Candidates() as candidates:
        candidates.add(
            _candidates(storage.latest(settings.uploads_bucket), settings.uploads_bucket, found, since, until)
        )
        for shard, count in candidates.shards():
            # One by one where that takes fewer requests than the pages of the whole shard.
            few = count <= found.uploads // SHARDS // PAGE + 1
            uploads = candidates.of(shard)
            missing = _asked(storage, settings, uploads) if few else _compared(storage, settings, uploads, shard)
            for upload in missing:
                send(upload)
                found.sent += 1
        found.with_result = len(candidates) - found.sent
    return found


def _candidates(
    listed: Iterator[ObjectInfo], bucket: str, found: Reconciled, since: datetime | None, until: datetime | None
) -> Iterator[Upload]:
    for info in listed:
        if info.key.endswith("/") and info.size == 0:
            continue  # how consoles make folders
        found.uploads += 1
        if since and info.modified < since:
            found.older += 1
        elif until and info.modified > until:
            found.recent += 1
        elif upload := _upload(bucket, info):
            yield upload
        else:
            found.unusable += 1


def _upload(bucket: str, info: ObjectInfo) -> Upload | None:
    """The upload as its event named it, but for the sequencer, which does not count beside an ETag."""
    try:
        return Upload(bucket, info.key, info.version_id, info.etag, None, info.size, info.modified)
    except EventMalformed:
        return None


def _asked(storage: Storage, settings: Settings, uploads: Iterator[Upload]) -> Iterator[Upload]:
    """Uploads without a result, each asked for."""
    return (one for one in uploads if not results.is_known(storage, settings.results_bucket, one.identity))


def _compared(storage: Storage, settings: Settings, uploads: Iterator[Upload], shard: str) -> Iterator[Upload]:
    """Uploads that are not in the list of results; both come in the order of their identities."""
    known = results.identities(storage, settings.results_bucket, shard)
    here = next(known, None)
    for upload in uploads:
        while here is not None and here < upload.identity:
            here = next(known, None)
        if here != upload.identity:
            yield upload
