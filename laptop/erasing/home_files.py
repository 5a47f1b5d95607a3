"""What a laptop's home has of uploads beside the store: notes of imports and of the gateway, and the broker's log."""

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from laptop.erasing import kafka_batches
from laptop.services.broker_log import BrokerLog, Change, log_file
from lungline.errors import StackError
from lungline.events.uploads import Upload, kafka_key
from lungline.home import Home
from lungline.retention.subjects import Subject
from lungline.scrubbing import scrub

_BUSY_SECONDS = 10.0
_BATCHES = "clusters/"


@dataclass(frozen=True, slots=True)
class Journal:
    """A table of a SQLite file, and which of its rows are of an upload."""

    path: Path
    name: str
    column: str
    value_of: Callable[[Subject], str]

    def look(self, subjects: Sequence[Subject]) -> Counter[str]:
        """How many rows there are. Raises StackError."""
        rows = self._execute("SELECT COUNT(*)", subjects)
        return +Counter({self.name: int(rows[0][0]) if rows else 0})

    def erase(self, subjects: Sequence[Subject]) -> None:
        """Delete them, and what the file keeps of them, also after a crash in between. Raises StackError."""
        self._execute("DELETE", subjects)
        _scrub(self.path)

    def _execute(self, verb: str, subjects: Sequence[Subject]) -> list[Any]:
        chosen = f"{self.column} IN (SELECT value FROM json_each(?))"  # noqa: S608 - our own names
        statement = f"{verb} FROM stored WHERE {chosen}"
        values = [value for subject in subjects if (value := self.value_of(subject))]
        if not values or not self.path.exists():
            return []
        try:
            with closing(sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)) as database:
                return database.execute(statement, (json.dumps(values),)).fetchall()
        except sqlite3.Error as exc:
            raise StackError(f"The file {self.path} cannot be changed: {exc}.") from exc


def journals(home: Home) -> list[Journal]:
    """The journal of imports by key, and the gateway's ledger by the digest of the instance."""
    return [
        Journal(home.file("imports", "journal.db"), "notes of imports", "key", lambda subject: subject.key),
        Journal(home.file("gateway", "ledger.db"), "notes of the DICOM gateway", "instance", _instance),
    ]


def _instance(subject: Subject) -> str:
    return hashlib.sha256(subject.instance_uid.encode()).hexdigest() if subject.instance_uid else ""


@dataclass(frozen=True, slots=True)
class BrokerEvents:
    """Events of uploads in the log of the laptop's broker, of all topics, dead letters among them.

    Kafka forgets by age alone. This broker's log is a database of the home, so what an event says is taken out of it;
    its offset stays.
    """

    home: Home

    def look(self, subjects: Sequence[Subject]) -> Counter[str]:
        """How many there are. Raises StackError."""
        marks = _marks(subjects)
        return +Counter({"events in the broker's log": sum(count for _, count in self._marked(marks))})

    def erase(self, subjects: Sequence[Subject]) -> None:
        """Take out what they say, also after a crash in between. Raises StackError."""
        if not self._path.exists():
            return
        marks = _marks(subjects)
        batches = [key for key, _ in self._marked(marks)]
        try:
            with closing(BrokerLog(self._path)) as log:
                for key in batches:
                    stored = log.get(key)
                    if stored:
                        # The broker never changes a batch; one that is pruned meanwhile stays away.
                        log.write([Change(key, kafka_batches.redacted(stored.data, marks), stored.version)])
        except sqlite3.Error as exc:
            raise StackError(f"The broker's log cannot be changed: {exc}.") from exc
        _scrub(self._path)

    @property
    def _path(self) -> Path:
        return log_file(self.home.file("broker"))

    def _marked(self, marks: Sequence[bytes]) -> Iterator[tuple[str, int]]:
        """The batches that have a mark, with how many of their records."""
        if not marks or not self._path.exists():
            return
        try:
            with closing(BrokerLog(self._path)) as log:
                for listed in log.listed(_BATCHES):
                    stored = log.get(listed.key) if listed.key.endswith(".batch") else None
                    if stored and (count := _count(stored.data, marks)):
                        yield listed.key, count
        except sqlite3.Error as exc:
            raise StackError(f"The broker's log cannot be read: {exc}.") from exc


def _count(batch: bytes, marks: Sequence[bytes]) -> int:
    try:
        return kafka_batches.count_marked(batch, marks)
    except kafka_batches.Unreadable:
        return 0


def _marks(subjects: Sequence[Subject]) -> list[bytes]:
    """What tells the events of uploads: identity, Kafka's key, and the object's key in each way of writing it.

    With its quotation marks: a short key is a part of many other words.
    """
    marks: set[str] = set()
    for subject in subjects:
        marks.add(subject.identity)
        if subject.key:
            marks.add(kafka_key(Upload(subject.bucket, subject.key)))
            for written in (subject.key, quote_plus(subject.key, safe=""), quote(subject.key)):
                forms = (json.dumps(written)[1:], json.dumps(written, ensure_ascii=False)[1:])
                marks |= {start + form for form in forms for start in ('"', f'"{subject.bucket}/')}
    return [mark.encode("utf-8", "surrogatepass") for mark in marks]


def _scrub(path: Path) -> None:
    try:
        if path.exists():
            scrub(path)
    except sqlite3.Error as exc:
        raise StackError(f"The file {path} cannot be written anew: {exc}.") from exc
