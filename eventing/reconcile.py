"""Finds uploads without a result and sends their events again.

An event may be lost where the store was killed before it told of an upload, or where a broker was wiped. The store
itself then still knows the object, and the results bucket knows by name whether it was judged. Both are listed, never
read: each upload is named by what a listing gives (version id or ETag), exactly as its event named it, so an event
that is sent although the first one arrives after all is a duplicate, and is recognised as one.

Safe at any time and as often as one likes. An upload younger than `grace` is left for the next time: its first event
may well be on its way.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

from eventing.producer import Sender
from lungline.errors import EventMalformed
from lungline.events.uploads import Upload, kafka_key, minio_record
from lungline.results import records
from lungline.results.records import OWED
from lungline.settings import Settings
from lungline.storage.objects import ObjectInfo
from lungline.storage.s3 import Storage

CHUNK = 1000

_ADD = "INSERT OR IGNORE INTO upload VALUES (?, ?, ?, ?, ?, ?, ?)"
_OF_SHARD = "SELECT bucket, key, version, etag, size, at FROM upload WHERE identity BETWEEN ? AND ? ORDER BY identity"


class Candidates:
    """Uploads by identity; memory stays the same however many there are."""

    def __init__(self) -> None:
        # No name: SQLite makes a temporary file, readable for its owner, and unlinks it at once.
        self._database = sqlite3.connect("")
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE upload (identity TEXT PRIMARY KEY, bucket TEXT, key TEXT, version TEXT, etag TEXT,"
            " size INTEGER, at REAL) WITHOUT ROWID"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self._database.close()

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM upload").fetchone()[0])

    def add(self, uploads: Iterable[Upload]) -> None:
        """Keep uploads; their sequencers are not kept, a listing knows none."""
        self._database.executemany(_ADD, (_row(upload) for upload in uploads))

    def shards(self) -> Iterator[tuple[str, int]]:
        """The first two digits of identities, in their order, and how many uploads have them."""
        asked = "SELECT substr(identity, 1, 2), count(*) FROM upload GROUP BY 1 ORDER BY 1"
        yield from self._database.execute(asked).fetchall()

    def of(self, shard: str) -> Iterator[Upload]:
        """The uploads whose identities begin so, in the order of their identities."""
        with closing(self._database.execute(_OF_SHARD, (shard, shard + "g"))) as rows:
            while chunk := rows.fetchmany(CHUNK):
                for bucket, key, version, etag, size, at in chunk:
                    yield Upload(bucket, key, version, etag, None, size, at and datetime.fromtimestamp(at, UTC))


def _row(upload: Upload) -> tuple[object, ...]:
    at = upload.uploaded_at and upload.uploaded_at.timestamp()
    return upload.identity, upload.bucket, upload.key, upload.version_id, upload.etag, upload.size, at


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
    return (one for one in uploads if not records.is_known(storage, settings.results_bucket, one.identity))


def _compared(storage: Storage, settings: Settings, uploads: Iterator[Upload], shard: str) -> Iterator[Upload]:
    """Uploads that are not in the list of results; both come in the order of their identities."""
    known = records.identities(storage, settings.results_bucket, shard)
    here = next(known, None)
    for upload in uploads:
        while here is not None and here < upload.identity:
            here = next(known, None)
        if here != upload.identity:
            yield upload


@dataclass(frozen=True, slots=True)
class Resent:
    """What a reconciliation came to, in uploads; `str()` of it is a sentence.

    `older` and `recent` were stored outside the time that was asked for; `unusable` lie under keys that no event can
    carry; `research` are unsure images that are now kept for research and were not when they were judged.
    """

    uploads: int
    with_result: int
    sent: int
    older: int
    recent: int
    unusable: int
    research: int

    def __str__(self) -> str:
        """The counts that matter."""
        lost = f"those without a result were sent again: {self.sent}" if self.sent else "none was lost"
        late = f"; {self.recent} are too recent to be asked for" if self.recent else ""
        kept = f"; {self.research} unsure images went to research" if self.research else ""
        return f"Of {self.uploads} uploads {lost}{late}{kept}."


def resend(settings: Settings, *, since: datetime | None = None, grace_seconds: float = 30.0) -> Resent:
    """Send the events of uploads without a result again, but for those of the last `grace_seconds`.

    Also keeps for research what could not be kept. Raises StorageUnavailable or KafkaUnavailable; doing it again does
    no harm.
    """
    storage = Storage.from_settings(settings)
    sender = Sender(settings)

    def send(upload: Upload) -> None:
        event = json.dumps(minio_record(upload), ensure_ascii=False)
        sender.send(settings.uploads_topic, event, kafka_key(upload))

    try:
        until = datetime.now(UTC) - timedelta(seconds=grace_seconds)
        found = reconcile(storage, settings, send, since=since, until=until)
        sender.flush()
        kept = _keep_for_research(storage, settings)
    finally:
        storage.close()
    return Resent(found.uploads, found.with_result, found.sent, found.older, found.recent, found.unusable, kept)


def _keep_for_research(storage: Storage, settings: Settings) -> int:
    """Keep the images that are owed to research; how many."""
    if not any(True for _ in storage.list(settings.results_bucket, OWED, page_size=1)):
        return 0
    from lungline.deidentification import research  # with libraries that are seldom needed here

    return research.catch_up_owed(storage, settings).kept
