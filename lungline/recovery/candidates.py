"""Uploads that may have no result, kept beside memory while the results are asked for.

A bucket may hold more uploads than fit into memory, listed by key, while results lie by identity. So the uploads go
into a database file that has no name and ends with the process: it holds object keys, which nobody else may read.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from lungline.events import Upload

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
