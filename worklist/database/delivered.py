"""What has been delivered, kept in the results bucket, so that a rebuilt database neither repeats nor forgets.

    deliveries/ab/<identity>/<version>/<destination>/preliminary.json     the destination has had the model's finding
    deliveries/ab/<identity>/<version>/<destination>/reading-<id>.json    and a reader's verdict
    destinations/<destination>.json                                       the rule of a destination, and since when

A rebuild takes up the first two as sent. What a rule has asked for since then and nothing says was sent is queued: it
was waiting when the database was lost. Results of before the rule are left alone: most were never to be sent.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from lungline import bounds
from lungline.errors import ObjectGone, ObjectTooLarge
from lungline.results import returned
from lungline.results.readings import ReadingRecord
from lungline.results.records import ResultRecord
from lungline.storage.s3 import Storage
from worklist.database import deliveries, erased
from worklist.database.models import Delivery, ReadingRow, ResultRow
from worklist.database.readings import record_of
from worklist.database.session import Database
from worklist.destinations import Destination

PREFIX, RULES = "deliveries/", "destinations/"
READERS, _PAGE = 8, 200
AT_ONCE = 100


class Delivered(BaseModel):
    """That a destination has had a result, with the verdict of `reading` or none. Nothing in it describes a patient."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1] = 1
    identity: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    record: str = Field(max_length=512)
    destination: str = Field(max_length=64)
    reading: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{1,64}$")
    sent: AwareDatetime

    @property
    def key(self) -> str:
        """Where it lies in the results bucket."""
        version = self.record.removeprefix(f"{self.identity}-")
        name = f"reading-{self.reading}" if self.reading else "preliminary"
        return f"{PREFIX}{self.identity[:2]}/{self.identity}/{version}/{self.destination}/{name}.json"


class _KeptRule(BaseModel):
    """Since when a destination has had its present rule; the rule is a digest, empty when no file names it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1] = 1
    rule: str
    since: AwareDatetime


@dataclass(slots=True)
class Keeper:
    """Keeps in the bucket what the database says was delivered, and the rules of the destinations; for one thread."""

    database: Database
    storage: Storage
    bucket: str
    destinations: Sequence[Destination]
    _has_rules: bool = False

    def keep(self) -> None:
        """Store what is new. Raises StorageUnavailable and DatabaseUnavailable, after which another call goes on."""
        while rows := self._unkept():
            for number, fact in rows:
                self.storage.put_once(self.bucket, fact.key, fact.model_dump_json().encode(), "application/json")
                with self.database.writing() as session:
                    # Not of a row that was sent once more in the meantime.
                    same = (Delivery.number == number) & (Delivery.sent == fact.sent)
                    session.execute(update(Delivery).where(same).values(kept=1))
                    is_erased = bool(erased.among(session, [fact.identity]))
                if is_erased:  # meanwhile
                    returned.delete_or_note(self.storage, self.bucket, fact.identity, [(self.bucket, fact.key)])
        if not self._has_rules:
            self._keep_rules()
            self._has_rules = True

    def _unkept(self) -> list[tuple[int, Delivered]]:
        with self.database.reading() as session:
            unkept = select(Delivery).where(Delivery.kept == 0).order_by(Delivery.number).limit(AT_ONCE)
            return [(row.number, _fact(row)) for row in session.scalars(unkept)]

    def _keep_rules(self) -> None:
        """Note rules that are new, from now on or since their first delivery, and that others hold no more."""
        with self.database.reading() as session:
            grouped = select(Delivery.destination, func.min(Delivery.created)).group_by(Delivery.destination)
            first = {row[0]: row[1] for row in session.execute(grouped)}
        if not self.destinations and not first:
            return  # nothing has ever been delivered, nor is to be
        before = _rules(self.storage, self.bucket)
        named = {each.name: _digest(each) for each in self.destinations}
        now = datetime.now(UTC)
        for name in named.keys() | before.keys():
            earlier, rule = before.get(name), named.get(name, "")
            if earlier and earlier.rule == rule:
                continue
            since = now if earlier else first.get(name, now)
            content = _KeptRule(rule=rule, since=since).model_dump_json().encode()
            self.storage.put(self.bucket, _rule_key(name), content, "application/json")


def restore(database: Database, storage: Storage, bucket: str) -> int:
    """Take up as sent what the bucket says was delivered; returns how many deliveries. Raises StorageUnavailable."""
    restored = 0
    facts = _stored(storage, bucket)
    while batch := list(islice(facts, _PAGE)):
        with database.writing() as session:
            restored += sum(_take_up(session, fact) for fact in batch)
    return restored


def queue_missing(database: Database, storage: Storage, bucket: str, destinations: Sequence[Destination]) -> int:
    """Queue what rules ask for and nobody has sent; returns how many deliveries. Raises StorageUnavailable."""
    rules = _rules(storage, bucket) if destinations else {}
    since = {
        each: rules[each.name].since
        for each in destinations
        if each.name in rules and rules[each.name].rule == _digest(each)
    }
    if not since:
        return 0
    return sum(_queue(database, since, batch) for batch in _records_since(database, min(since.values())))


def _queue(database: Database, since: dict[Destination, datetime], records: Sequence[str]) -> int:
    queued = 0
    with database.writing() as session:
        for body in session.scalars(select(ResultRow.body).where(ResultRow.id.in_(records))):
            record = ResultRecord.model_validate_json(body)
            new = deliveries.queue(session, [each for each in since if record.times.done >= since[each]], record)
            for reading in _readings(session, record):
                current = [each for each in since if reading.at >= since[each]]
                new += deliveries.queue(session, current, record, reading.action)
            queued += new if deliveries.names_patient(record) else 0
    return queued


def _readings(session: Session, record: ResultRecord) -> list[ReadingRecord]:
    """The last reading of the result, if any."""
    last = select(ReadingRow).where(ReadingRow.record == record.id).order_by(ReadingRow.at.desc()).limit(1)
    return [record_of(row) for row in session.scalars(last)]


def _records_since(database: Database, moment: datetime) -> Iterator[list[str]]:
    """Ids of the results that were made or read since a moment."""
    read = select(ReadingRow.record).where(ReadingRow.at >= moment)
    statement = select(ResultRow.id).where((ResultRow.done >= moment) | ResultRow.id.in_(read)).order_by(ResultRow.id)
    last = ""
    while True:
        with database.reading() as session:
            batch = list(session.scalars(statement.where(ResultRow.id > last).limit(_PAGE)))
        if not batch:
            return
        last = batch[-1]
        yield batch


def _take_up(session: Session, fact: Delivered) -> bool:
    """Note in the database that something was sent; False when it knows this, or something later."""
    place = (Delivery.record == fact.record) & (Delivery.destination == fact.destination)
    row = session.scalar(select(Delivery).where(place).with_for_update())
    if row is None:
        row = Delivery(identity=fact.identity, record=fact.record, destination=fact.destination, attempts=1)
        row.due = row.created = fact.sent
        session.add(row)
    elif row.sent is not None and row.sent >= fact.sent:
        return False
    row.state, row.error, row.kept = "sent", None, 1
    row.sent, row.reading = fact.sent, fact.reading
    session.flush()
    return True


def _fact(row: Delivery) -> Delivered:
    fields = ("identity", "record", "destination", "reading", "sent")
    return Delivered.model_validate({name: getattr(row, name) for name in fields})


def _stored(storage: Storage, bucket: str) -> Iterator[Delivered]:
    """What the bucket says was delivered, in no order; foreign objects are passed over."""
    keys = (info.key for info in storage.list(bucket, PREFIX))

    def load(key: str) -> Delivered | None:
        try:
            fact = Delivered.model_validate_json(storage.get(bucket, key, max_bytes=bounds.MAX_RECORD_BYTES).data)
        except (ObjectGone, ObjectTooLarge, ValidationError):
            return None
        return fact if fact.key == key else None

    with ThreadPoolExecutor(READERS) as pool:
        while page := list(islice(keys, _PAGE)):
            yield from filter(None, pool.map(load, page))


def _rules(storage: Storage, bucket: str) -> dict[str, _KeptRule]:
    kept: dict[str, _KeptRule] = {}
    for info in storage.list(bucket, RULES):
        name = info.key.removeprefix(RULES).removesuffix(".json")
        try:
            kept[name] = _KeptRule.model_validate_json(
                storage.get(bucket, info.key, max_bytes=bounds.MAX_RECORD_BYTES).data
            )
        except (ObjectGone, ObjectTooLarge, ValidationError):
            continue
    return kept


def _rule_key(name: str) -> str:
    return f"{RULES}{name}.json"


def _digest(destination: Destination) -> str:
    """Of what decides which results a destination gets; its address may change."""
    rule = destination.model_dump_json(include={"name", "label", "risk", "prefix", "after"})
    return hashlib.sha256(rule.encode()).hexdigest()[:32]
