"""Finds uploads without a result and sends their events again.

An event may be lost when the store is killed before it reported an upload, or when a broker is wiped. The store still
has the object, and the names in the results bucket say whether it has a result. Both are listed, never read: a listing
gives the version id or ETag that the upload's event had, so if the first event arrives after
all, the second is recognised as a duplicate.

Safe at any time, any number of times. An upload younger than the grace period is skipped: its first event may still be
on its way.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

from eventing.producer import PATIENCE_SECONDS, Sender
from lungline import bounds
from lungline.errors import EventMalformed
from lungline.events.uploads import Upload, kafka_key, minio_record
from lungline.litter import is_litter
from lungline.results import record_store
from lungline.results.records import OWED
from lungline.settings import Settings
from lungline.storage.objects import ObjectInfo
from lungline.storage.s3 import Storage

# A page of a listing names a thousand results.
PAGE = 1000
SHARDS = 256

Send = Callable[[Upload], None]


@dataclass(slots=True)
class Reconciliation:
    """What a reconciliation counted, in uploads; `str()` of it is a sentence.

    `older` and `recent` were stored outside the given time; `unusable` have keys that no event can carry; `litter` are
    files of operating systems and sync programs, such as `.DS_Store`, which are not predicted; `research` are unsure
    images that are now kept for research and could not be kept when they were predicted.
    """

    uploads: int = 0
    with_result: int = 0
    sent: int = 0
    older: int = 0
    recent: int = 0
    unusable: int = 0
    litter: int = 0
    research: int = 0

    def __str__(self) -> str:
        """The counts that matter."""
        lost = f"those without a result were sent again: {self.sent}" if self.sent else "none was lost"
        late = f"; too recent to be checked: {self.recent}" if self.recent else ""
        kept = f"; unsure images now kept for research: {self.research}" if self.research else ""
        unusable = f"; with keys that no event can carry, never predicted: {self.unusable}" if self.unusable else ""
        litter = f"; files of operating systems, left out: {self.litter}" if self.litter else ""
        return f"Of {self.uploads} uploads {lost}{late}{unusable}{litter}{kept}."


def resend(
    settings: Settings,
    *,
    since: datetime | None = None,
    grace_seconds: float = 30.0,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Reconciliation:
    """Send the events of uploads without a result again, except those of the last `grace_seconds`.

    Also keeps for research what could not be kept earlier. `patience_seconds` is how long Kafka may take to accept an
    event. Raises StorageUnavailable or KafkaUnavailable; repeating it does no harm.
    """
    storage = Storage.from_settings(settings)
    sender = Sender(settings, patience_seconds)

    def send(upload: Upload) -> None:
        event = json.dumps(minio_record(upload), ensure_ascii=False)
        sender.send(settings.uploads_topic, event, kafka_key(upload))

    try:
        until = datetime.now(UTC) - timedelta(seconds=grace_seconds)
        report = reconcile(storage, settings, send, since=since, until=until)
        sender.flush()
        report.research = _keep_for_research(storage, settings)
    finally:
        storage.close()
    return report


def _keep_for_research(storage: Storage, settings: Settings) -> int:
    """Keep the images that research is owed; returns how many."""
    if not any(True for _ in storage.list(settings.results_bucket, OWED, page_size=1)):
        return 0
    from lungline.deidentification import research  # its libraries are seldom needed here

    return research.catch_up(storage, settings).kept


def reconcile(
    storage: Storage, settings: Settings, send: Send, *, since: datetime | None = None, until: datetime | None = None
) -> Reconciliation:
    """Call `send` for each upload without a result that was stored from `since` to `until`.

    Lists both buckets in pages and reads no object; memory does not grow with them. Raises StorageUnavailable; events
    already sent stay sent, and repeating it does no harm.
    """
    report = Reconciliation()
    with Candidates() as candidates:
        candidates.add(
            _candidates(storage.latest(settings.uploads_bucket), settings.uploads_bucket, report, since, until)
        )
        for shard, count in candidates.shards():
            # One by one where that takes fewer requests than the pages of the whole shard.
            few = count <= report.uploads // SHARDS // PAGE + 1
            uploads = candidates.of(shard)
            without = _without_result if few else _missing_from_listing
            for upload in without(storage, settings, uploads, shard):
                send(upload)
                report.sent += 1
        report.with_result = len(candidates) - report.sent
    return report


def _candidates(
    listing: Iterator[ObjectInfo],
    bucket: str,
    report: Reconciliation,
    since: datetime | None,
    until: datetime | None,
) -> Iterator[Upload]:
    for info in listing:
        if info.key.endswith("/") and info.size == 0:
            continue  # how consoles make folders
        if is_litter(info.key):
            report.litter += 1
            continue
        report.uploads += 1
        if since and info.modified < since:
            report.older += 1
        elif until and until < info.modified <= bounds.latest():  # later only where the clock was set back
            report.recent += 1
        elif upload := _upload(bucket, info):
            yield upload
        else:
            report.unusable += 1


def _upload(bucket: str, info: ObjectInfo) -> Upload | None:
    """The upload as its event named it, except for the sequencer, which is not used when there is an ETag."""
    try:
        return Upload(bucket, info.key, info.version_id, info.etag, None, info.size, info.modified)
    except EventMalformed:
        return None


def _without_result(storage: Storage, settings: Settings, uploads: Iterator[Upload], _shard: str) -> Iterator[Upload]:
    """Uploads without a result, looked up one by one."""
    return (
        upload for upload in uploads if not record_store.is_known(storage, settings.results_bucket, upload.identity)
    )


def _missing_from_listing(
    storage: Storage, settings: Settings, uploads: Iterator[Upload], shard: str
) -> Iterator[Upload]:
    """Uploads that the list of results does not name; both come in the order of their identities."""
    identities = record_store.identities(storage, settings.results_bucket, shard)
    current = next(identities, None)
    for upload in uploads:
        while current is not None and current < upload.identity:
            current = next(identities, None)
        if current != upload.identity:
            yield upload


_ADD = "INSERT OR IGNORE INTO upload VALUES (?, ?, ?, ?, ?, ?, ?)"
_COUNT_BY_SHARD = "SELECT substr(identity, 1, 2), count(*) FROM upload GROUP BY 1 ORDER BY 1"
_OF_SHARD = "SELECT bucket, key, version, etag, size, at FROM upload WHERE identity BETWEEN ? AND ? ORDER BY identity"


class Candidates:
    """Uploads in the order of their identities, kept on disk so that memory does not grow with them."""

    def __init__(self) -> None:
        # Without a name SQLite makes a temporary file, readable for its owner only, and unlinks it at once.
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
        """Keep uploads, without their sequencers: a listing has none."""
        self._database.executemany(_ADD, (_row(upload) for upload in uploads))

    def shards(self) -> Iterator[tuple[str, int]]:
        """The first two digits of identities, in order, with the number of uploads that have them."""
        yield from self._database.execute(_COUNT_BY_SHARD).fetchall()

    def of(self, shard: str) -> Iterator[Upload]:
        """The uploads whose identities begin with these digits, in the order of their identities."""
        with closing(self._database.execute(_OF_SHARD, (shard, shard + "g"))) as rows:
            while chunk := rows.fetchmany(PAGE):
                for bucket, key, version, etag, size, at in chunk:
                    yield Upload(bucket, key, version, etag, None, size, at and datetime.fromtimestamp(at, UTC))


def _row(upload: Upload) -> tuple[object, ...]:
    at = upload.uploaded_at and upload.uploaded_at.timestamp()
    return upload.identity, upload.bucket, upload.key, upload.version_id, upload.etag, upload.size, at
