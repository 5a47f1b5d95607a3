"""A laptop stack under fire: parts are killed and the store is unavailable, while X-rays are uploaded all the time."""

import json
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from confluent_kafka import Message, Producer

from laptop import stack
from laptop.supervision.reconciler import is_handled
from lungline.datasets.phantom import jpeg
from lungline.errors import StorageUnavailable
from lungline.events.uploads import Upload, parse
from lungline.results import records as results
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.flaky_store import Door
from tests.support.kafka_tail import tail

PARTS = ("predictor", "trigger", "bridge", "broker", "store")
# Whom the X-rays are of: the names of objects tell it, nothing that the stack writes may.
PATIENT = "MUSTERMANN^Erika 1957-08-12/PID4471123"


def eventually(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


@dataclass
class Chaos:
    """One stack, its door, and what was sent to it."""

    settings: Settings
    door: Door
    scanner: Any
    sent: dict[str, Upload] = field(default_factory=dict)
    poison: set[str] = field(default_factory=set)
    garbage: set[bytes] = field(default_factory=set)
    tries: Counter[str] = field(default_factory=Counter)
    begun: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.begun:6.1f} s  {text}", flush=True)

    @property
    def connected(self) -> Settings:
        return stack.connect(self.settings)

    def upload(self, key: str, data: bytes, seconds: float = 120) -> Upload:
        """As a scanner does that tries again until the store has taken it."""
        deadline = time.monotonic() + seconds
        while True:
            self.tries[key] += 1
            try:
                answer = self.scanner.put_object(Bucket=self.settings.uploads_bucket, Key=key, Body=data)
            except (ClientError, BotoCoreError):
                assert time.monotonic() < deadline, "the store takes no upload"
                time.sleep(0.2)
            else:
                made = Upload(self.settings.uploads_bucket, key, etag=answer["ETag"].strip('"'))
                self.sent[key] = made
                return made

    def poison_it(self) -> None:
        """What can never be judged: three files that are no images, and two events that are none of ours."""
        for number, data in enumerate((b"not an image", b"", jpeg(1, opacities=True)[:700])):
            key = f"{PATIENT}/poison {number}.jpeg"
            self.poison.add(key)
            self.upload(key, data)
        elsewhere = {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "x-y"}, "object": {"key": "a"}}}
        self.garbage |= {b"garbage", json.dumps({"Records": [elsewhere]}).encode()}
        producer = Producer({"bootstrap.servers": self.connected.kafka_bootstrap, "log_level": 0})
        for value in self.garbage:
            producer.produce(self.settings.uploads_topic, value)
        assert producer.flush(60) == 0

    @contextmanager
    def uploading(self, count: int, seconds: float, name: str = "chest") -> Iterator[None]:
        """Upload pictures, all different, one after another over about so many seconds, while the context lasts."""
        failed: list[BaseException] = []

        def run() -> None:
            try:
                for number in range(count):
                    self.upload(key_of(name, number), picture(number))
                    time.sleep(seconds / count)
            except BaseException as exc:  # noqa: BLE001 - raised again in the test's own thread
                failed.append(exc)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            thread.join(seconds + 300)
            assert not thread.is_alive()
        if failed:
            raise failed[0]

    def kill(self, *names: str) -> None:
        """End parts with SIGKILL, at once, and wait until everything is ready again."""
        before = {name: stack.status(self.settings).service(name) for name in names}
        started = time.monotonic()
        for part in before.values():
            assert part.pid
            os.kill(part.pid, signal.SIGKILL)
        eventually(lambda: self._are_back(before), 120, f"{names} are back")
        self.say(f"killed {' and '.join(names):22} all ready after {time.monotonic() - started:.1f} s")

    def _are_back(self, before: dict[str, Any]) -> bool:
        now = stack.status(self.settings)
        again = all(now.service(name).restarts > part.restarts for name, part in before.items())
        return again and all(now.service(name).state == "ready" for name in PARTS)

    def go_on(self, count: int) -> None:
        """Wait until more X-rays are uploaded."""
        wanted = len(self.sent) + count
        eventually(lambda: len(self.sent) >= wanted, 300, f"{count} more uploads")

    def refuse(self, seconds: float) -> None:
        """Let the store answer 503 to everybody."""
        before = self.door.refused
        with self.door.shut():
            time.sleep(seconds)
        self.say(f"the store answered 503 for {seconds:.0f} s, to {self.door.refused - before} connections")

    def settle(self, seconds: float) -> None:
        """Wait until every upload has a result and nothing is on its way any more."""
        storage = Storage.from_settings(self.connected)
        bucket, left = self.settings.results_bucket, dict(self.sent)

        def all_known() -> bool:
            for key, upload in list(left.items()):
                try:
                    if not results.is_known(storage, bucket, upload.identity):
                        return False
                except StorageUnavailable:
                    return False
                del left[key]
            return True

        try:
            eventually(all_known, seconds, f"{len(left)} uploads have no result")
            eventually(
                lambda: is_handled(self.connected, datetime.now(UTC)), seconds, "the trigger has nothing left to do"
            )
        finally:
            storage.close()
        self.say(f"all {len(self.sent)} uploads have a result")

    def records(self) -> dict[str, list[results.ResultRecord]]:
        """All result records by the key of their upload."""
        storage = Storage.from_settings(self.connected)
        found: dict[str, list[results.ResultRecord]] = {}
        for record in results.every(storage, self.settings.results_bucket):
            found.setdefault(record.upload.key, []).append(record)
        storage.close()
        return found

    def notices(self, entries: int) -> Counter[str]:
        """How many notices the worklist has for each upload, once it has this many entries."""
        with closing(sqlite3.connect(f"file:{self.settings.home}/worklist/worklist.db?mode=ro", uri=True)) as database:
            asked = "SELECT count(*) FROM entries"
            eventually(lambda: database.execute(asked).fetchone()[0] >= entries, 60, "the worklist shows all")
            assert database.execute(asked).fetchone()[0] == entries
            return Counter(identity for (identity,) in database.execute("SELECT identity FROM notices"))

    def letters(self) -> list[Message]:
        """All dead letters."""
        with tail(self.connected, self.settings.dead_letters_topic) as letters:
            wanted = len(self.poison | self.garbage)
            letters.until(lambda records: len(self._buried(records)) >= wanted, 60)
            return letters.settled(1)

    def _buried(self, records: list[Message]) -> set[str | bytes]:
        return {name for record in records for name in named(record, self.garbage)}

    def check(self) -> str:
        """Every upload has exactly one result, and dead letters hold poison only; the counts, as a sentence."""
        found = self.records()
        assert set(found) == set(self.sent)
        assert {len(records) for records in found.values()} == {1}
        assert {key for key, (record,) in found.items() if record.outcome != "judged"} == self.poison
        assert {self.sent[key].etag for key in found} == {record.upload.etag for (record,) in found.values()}
        notices = self.notices(len(found))
        assert notices == {record.upload.identity: 1 for (record,) in found.values() if record.label == "Pneumonia"}
        letters = self.letters()
        assert self._buried(letters) == self.poison | self.garbage
        repeated = sum(count - 1 for count in self.tries.values())
        judged, poisoned = len(found) - len(self.poison), len(self.poison | self.garbage)
        return (
            f"{len(found)} uploads ({repeated} times tried again by the scanner): {judged} judged once each, "
            f"{len(self.poison)} refused; {len(notices)} notices for as many of Pneumonia; "
            f"{len(letters)} dead letters, all of {poisoned} poisoned"
        )


def key_of(name: str, number: int) -> str:
    return f"{PATIENT}/{name} {number}.jpeg"


def picture(number: int) -> bytes:
    return jpeg(number, opacities=bool(number % 2))


def named(record: Message, garbage: set[bytes]) -> list[str | bytes]:
    """What a dead letter is of: keys of uploads, or the value itself where it is no event."""
    value = record.value() or b""
    return [value] if value in garbage else [upload.key for upload in parse(value)]


def shuffled_pairs(seed: int) -> list[tuple[str, str]]:
    """Every pair of parts once, in an order that is the same each time."""
    pairs = [(one, other) for at, one in enumerate(PARTS) for other in PARTS[at + 1 :]]
    random.Random(seed).shuffle(pairs)
    return pairs
