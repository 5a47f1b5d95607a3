"""Chaos on a laptop stack: services are killed and the store is unavailable, while X-rays are uploaded."""

import itertools
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from confluent_kafka import Message, Producer

from eventing.kafka import client_options
from laptop import stack
from laptop.supervision.reconciler import is_handled
from lungline.datasets.phantom import jpeg
from lungline.errors import StorageUnavailable
from lungline.events.uploads import Upload, parse
from lungline.results import record_store
from lungline.results import records as results
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.flaky_store import FlakyProxy
from tests.support.history.actors import Scanner
from tests.support.history.checker import Verdict
from tests.support.history.modality import Modality
from tests.support.history.operations import Journal
from tests.support.history.proof import prove
from tests.support.history.witness import Witness
from tests.support.kafka_tail import tail

SERVICES = ("predictor", "trigger", "bridge", "broker", "store")
SUPERVISOR = "supervisor"
PASSING = ("rejudged-predictor", "rejudged-trigger")
"""Services that are there only while old uploads are judged again."""
# The patient: object keys name them, and nothing that the stack writes may.
PATIENT = "MUSTERMANN^Erika 1957-08-12/PID4471123"


def eventually(condition: Callable[[], object], seconds: float, expected: str) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {expected}"
        time.sleep(0.05)


@dataclass
class Chaos:
    """One stack, the proxy in front of its store, and what was sent to it."""

    settings: Settings
    proxy: FlakyProxy
    scanner: Scanner
    journal: Journal
    topics: Witness
    restart: Callable[[], None]
    """Kills the supervisor with everything that it started, and starts the stack again."""
    sent: dict[str, Upload] = field(default_factory=dict)
    poison: set[str] = field(default_factory=set)
    garbage: set[bytes] = field(default_factory=set)
    tries: Counter[str] = field(default_factory=Counter)
    begun: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Print a line of the protocol."""
        print(f"{time.monotonic() - self.begun:6.1f} s  {text}", flush=True)

    @property
    def connected(self) -> Settings:
        """The settings with the stack's addresses."""
        return stack.connect(self.settings)

    def upload(self, key: str, data: bytes, seconds: float = 120) -> Upload:
        """Upload as a scanner does: retry until the store has the object."""
        deadline = time.monotonic() + seconds
        while True:
            self.tries[key] += 1
            try:
                upload = self.scanner.put(key, data)
            except (ClientError, BotoCoreError):
                assert time.monotonic() < deadline, "the store accepts no upload"
                time.sleep(0.2)
            else:
                self.sent[key] = upload
                return upload

    def send_dicom(self, modality: Modality, data: bytes, seconds: float = 120) -> None:
        """Send to the gateway as a modality does: repeat it until the answer is a yes."""
        deadline = time.monotonic() + seconds
        while (upload := modality.send(data)) is None:
            assert time.monotonic() < deadline, "the gateway accepts no upload"
            time.sleep(0.2)
        self.sent[upload.key] = upload

    def send_poison(self) -> None:
        """Send what can never be predicted: three files that are no images, and two events that are none of ours."""
        for number, data in enumerate((b"not an image", b"", jpeg(1, opacities=True)[:700])):
            key = f"{PATIENT}/poison {number}.jpeg"
            self.poison.add(key)
            self.upload(key, data)
        elsewhere = {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "x-y"}, "object": {"key": "a"}}}
        self.garbage |= {b"garbage", json.dumps({"Records": [elsewhere]}).encode()}
        producer = Producer(client_options(self.connected) | {"log_level": 0})
        for value in self.garbage:
            producer.produce(self.settings.uploads_topic, value)
        assert producer.flush(60) == 0

    @contextmanager
    def uploading(self, count: int, seconds: float, name: str = "chest") -> Iterator[None]:
        """Upload different images, one after another over about `seconds`, while the context lasts."""
        failed: list[BaseException] = []

        def run() -> None:
            try:
                for number in range(count):
                    self.upload(key_of(name, number), image(number))
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
        """Kill services at once, and wait until every service is ready again."""
        started = time.monotonic()
        if SUPERVISOR in names:
            with self.journal.attempt("chaos kill", services=[SUPERVISOR, "worklist", "all others"]) as attempt:
                self.restart()
                attempt.answer("ok")
        else:
            self._kill(names)
        self.say(f"killed {' and '.join(names):35} all ready after {time.monotonic() - started:.1f} s")

    def _kill(self, names: Sequence[str]) -> None:
        before = {name: stack.status(self.settings).service(name) for name in names}
        with self.journal.attempt("chaos kill", services=list(names)) as attempt:
            for name, service in before.items():
                assert service.pid or name in PASSING
                with suppress(*((ProcessLookupError,) if name in PASSING else ())):
                    if service.pid:
                        os.kill(service.pid, signal.SIGKILL)
            attempt.answer("ok")
        eventually(lambda: self._are_back(before), 120, f"{names} are back")

    def _are_back(self, before: dict[str, Any]) -> bool:
        now = stack.status(self.settings)
        lasting = {name: service for name, service in before.items() if name not in PASSING}
        again = all(now.service(name).restarts > service.restarts for name, service in lasting.items())
        return again and all(now.service(name).state == "ready" for name in {*SERVICES, *lasting})

    def await_uploads(self, count: int) -> None:
        """Wait until `count` more X-rays are uploaded."""
        total = len(self.sent) + count
        eventually(lambda: len(self.sent) >= total, 300, f"{count} more uploads")

    def refuse(self, seconds: float) -> None:
        """Let the store answer 503 for a while."""
        before = self.proxy.refused
        with self.proxy.refusing():
            time.sleep(seconds)
        self.say(f"the store answered 503 for {seconds:.0f} s, to {self.proxy.refused - before} connections")

    def settle(self, seconds: float) -> None:
        """Wait until every upload has a result and the trigger has processed everything."""
        storage = Storage.from_settings(self.connected)
        bucket, left = self.settings.results_bucket, dict(self.sent)

        def all_have_results() -> bool:
            for key, upload in list(left.items()):
                try:
                    if not record_store.is_known(storage, bucket, upload.identity):
                        return False
                except StorageUnavailable:
                    return False
                del left[key]
            return True

        try:
            eventually(all_have_results, seconds, f"{len(left)} uploads have no result")
            eventually(
                lambda: is_handled(self.connected, datetime.now(UTC)), seconds, "the trigger has nothing left to do"
            )
        finally:
            storage.close()
        self.say(f"all {len(self.sent)} uploads have a result")

    def records(self) -> dict[str, list[results.ResultRecord]]:
        """All result records by the key of their upload."""
        storage = Storage.from_settings(self.connected)
        by_key: dict[str, list[results.ResultRecord]] = {}
        for record in record_store.every(storage, self.settings.results_bucket):
            by_key.setdefault(record.upload.key, []).append(record)
        storage.close()
        return by_key

    def letters(self) -> list[Message]:
        """All dead letters."""
        with tail(self.connected, self.settings.dead_letters_topic) as letters:
            expected = len(self.poison | self.garbage)
            letters.until(lambda records: len(self._names(records)) >= expected, 60)
            return letters.settled(1)

    def _names(self, records: list[Message]) -> set[str | bytes]:
        return {name for record in records for name in names_of(record, self.garbage)}

    def prove(self) -> Verdict:
        """All rules hold over everything that all actors did."""
        verdict = prove(self.settings, self.journal, self.topics)
        self.say(f"{verdict}")
        assert verdict.holds, verdict
        return verdict

    def check(self) -> str:
        """All rules hold, and dead letters are of poison only; the counts, as a sentence."""
        self.prove()
        records = self.records()
        assert set(records) == set(self.sent)
        refused = {key for key, each in records.items() if {record.outcome for record in each} != {"judged"}}
        assert refused == self.poison
        letters = self.letters()
        assert self._names(letters) == self.poison | self.garbage
        repeated = sum(count - 1 for count in self.tries.values())
        predicted, poisoned = len(records) - len(self.poison), len(self.poison | self.garbage)
        return (
            f"{len(records)} uploads (retries of the scanner: {repeated}): {predicted} predicted, "
            f"{len(self.poison)} refused; {len(letters)} dead letters, all of the {poisoned} poisoned"
        )


def key_of(name: str, number: int) -> str:
    """An object key that names the patient."""
    return f"{PATIENT}/{name} {number}.jpeg"


def image(number: int) -> bytes:
    """An X-ray, with pneumonia for odd numbers."""
    return jpeg(number, opacities=bool(number % 2))


def names_of(record: Message, garbage: set[bytes]) -> list[str | bytes]:
    """The upload keys of a dead letter, or its value where it is no event."""
    value = record.value() or b""
    return [value] if value in garbage else [upload.key for upload in parse(value)]


def shuffled_pairs(seed: int) -> list[tuple[str, str]]:
    """Every pair of services once, shuffled by the seed."""
    pairs: list[tuple[str, str]] = [*itertools.combinations(SERVICES, 2)]
    random.Random(seed).shuffle(pairs)
    return pairs
