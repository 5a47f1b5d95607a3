"""A power cut under a laptop stack at work: `python -m tests.support.power_cut --seeds 10`, or `make power-cut`.

Scanners upload, a reader reads and acknowledges, and versions are promoted in turn. At a moment that the seed chooses
everything stops and the disk forgets what was not synced. Then the stack starts again, and whatever was acknowledged
before must be there: uploads with their results, notices, readings, acknowledgements and promotions.

The seed chooses the moment, and which files the system writes by itself before it; it does not choose how threads take
turns, so a run is like another with its seed, and not the same.
"""

import argparse
import json
import os
import random
import re
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from cli.stack import sign_in_link
from laptop import stack
from laptop.home.store_growth import LIST
from laptop.services.process import birth
from lungline.deployment.laptop import LaptopDeployment
from lungline.deployment.release import Release
from lungline.errors import LunglineError
from lungline.home import Home, read_json, write_json
from lungline.package.card import amend_card
from lungline.package.package import Package
from lungline.registry.history import Facts, History, PromotionEntry
from lungline.results import records as results
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.chaos_run import image
from tests.support.chaos_stack import champion, install
from tests.support.forgetful_disk import ForgetfulDisk, fault, forgetful_disk
from tests.support.laptop_stack import s3_client
from tests.support.open_ports import family
from tests.support.own_host import LoopbackTransport
from tests.support.tiny_package import write_tiny_package
from tests.support.worklist_site import wait

SCANNERS = 3
EARLIEST, LATEST = 0.2, 5.0
SETTLE_SECONDS = 180.0
_SAID = re.compile("WARN|ERROR|lost uploads|sent again")
STARTED = stack.ESSENTIAL | {"worklist"}


@dataclass
class Acknowledged:
    """What the stack has said yes to."""

    uploads: dict[str, str] = field(default_factory=dict)
    """ETag by key."""
    readings: dict[str, str] = field(default_factory=dict)
    """Verdict by the id of the form."""
    notices: set[str] = field(default_factory=set)
    """Uploads whose notices were acknowledged."""
    promotions: list[PromotionEntry] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """How many of each."""
        return {name: len(getattr(self, name)) for name in ("uploads", "readings", "notices", "promotions")}


class Work:
    """Actors on threads of their own, until the power is cut."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self.acknowledged = Acknowledged()
        self.failures: list[BaseException] = []

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """All actors at once; what they raise once the power is off is theirs to expect."""
        actors = [self._scan] * SCANNERS + [self._read, self._promote]
        threads = [threading.Thread(target=self._until_cut, args=(actor, n)) for n, actor in enumerate(actors)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(90)

    def _until_cut(self, actor: Callable[[int], None], number: int) -> None:
        try:
            actor(number)
        except Exception as exc:  # noqa: BLE001 - expected once the power is off, and before that looked at
            self.failures.append(exc)

    def _scan(self, scanner: int) -> None:
        client = s3_client(stack.env(self._settings, scanner=True))
        number = 0
        while not self._stop.is_set():
            key = f"ward {scanner}/chest {number}.jpeg"
            answer = client.put_object(
                Bucket=self._settings.uploads_bucket, Key=key, Body=image(scanner * 1000 + number)
            )
            self.acknowledged.uploads[key] = answer["ETag"].strip('"')
            number += 1
            time.sleep(0.1)

    def _read(self, _: int) -> None:
        with _reader(self._settings) as (client, address):
            seen: set[str] = set()
            while not self._stop.is_set():
                shown = set(re.findall(r'href="/x/([0-9a-f]+)', client.get(f"{address}/?view=all").text)) - seen
                for identity in sorted(shown)[:3]:
                    seen.add(identity)
                    self._judge(client, address, identity)
                time.sleep(0.05)

    def _judge(self, client: httpx.Client, address: str, identity: str) -> None:
        """Acknowledge the notice of every second one, and read the others."""
        page = client.get(f"{address}/x/{identity}").text
        form = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
        if int(identity[-1], 16) % 2 and f"/x/{identity}/acknowledge" in page:
            if client.post(f"{address}/x/{identity}/acknowledge", data=form).status_code == 200:
                self.acknowledged.notices.add(identity)
        elif client.post(f"{address}/x/{identity}/readings", data=form | {"say": "Normal"}).status_code == 200:
            self.acknowledged.readings[form["id"]] = "Normal"

    def _promote(self, _: int) -> None:
        connected = stack.connect(self._settings)
        history, number = History.from_settings(connected), 1
        while not self._stop.is_set():
            number = 3 - number
            self.acknowledged.promotions.append(promoted(connected, history, str(number)))


def promoted(connected: Settings, history: History, version: str) -> PromotionEntry:
    """Promote a stored version as `lungline promote` does, without MLflow."""
    storage = Storage.from_settings(connected)
    deployment = LaptopDeployment.from_settings(connected)
    uri = f"s3://{connected.models_bucket}/{connected.model_name}/{version}/"
    folder = Home(connected.home).file("imports", version)
    storage.download_folder(connected.models_bucket, f"{connected.model_name}/{version}", folder)
    sha256 = Package.load(folder).sha256
    values = {"version": version, "kind": "promotion", "by": "Ada", "reason": "better", "facts": Facts(package=sha256)}
    head = history.head()
    began = history.append(head, act="began", champion=head and head.champion, **values)
    deployment.deploy(uri, version, Release(sha256, signed=False, anchor=began.anchor))
    entry = history.append(began, act="promoted", champion=version, **values)
    deployment.keep_anchor(entry.anchor)
    return entry


@contextmanager
def _reader(settings: Settings) -> Iterator[tuple[httpx.Client, str]]:
    address = str(stack.status(settings).service("worklist").address)
    headers = {"accept": "text/html"}
    with httpx.Client(transport=LoopbackTransport(), follow_redirects=True, timeout=20, headers=headers) as client:
        assert client.get(sign_in_link(settings)).status_code == 200
        yield client, address


@dataclass
class PowerCut:
    """One run: a stack on a disk that forgets."""

    disk: ForgetfulDisk
    seed: int
    settings: Settings
    acknowledged: Acknowledged = field(default_factory=Acknowledged)
    lost: Counter[str] = field(default_factory=Counter)

    def begin(self) -> None:
        """Start the stack; both versions are in its store, and the first serves."""
        stack.up(self.settings, attached=True, wait_for=STARTED)
        connected = stack.connect(self.settings)
        storage, history = Storage.from_settings(connected), History.from_settings(connected)
        for version in "12":
            folder = Home(self.settings.home).package(version)
            storage.upload_folder(folder, connected.models_bucket, f"{connected.model_name}/{version}")
        for version in "21":
            self.acknowledged.promotions.append(promoted(connected, history, version))

    def work_and_cut(self) -> float:
        """Work until the moment that the seed chooses; returns after how many seconds the power went."""
        seconds = random.Random(self.seed).uniform(EARLIEST, LATEST)
        work = Work(self.settings)
        first = self.acknowledged.promotions
        with work.going_on(), self.disk.writing_back(self.seed):
            wait(lambda: work.failures or (work.acknowledged.uploads and work.acknowledged.readings), 90)
            assert not work.failures, work.failures
            time.sleep(seconds)
            self._cut()
        self.acknowledged = work.acknowledged
        self.acknowledged.promotions[:0] = first
        return seconds

    def _cut(self) -> None:
        pids = family(stack.status(self.settings).pid or 0)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.disk.cut()
        deadline = time.monotonic() + 30
        while any(birth(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.05)
        stack._reap()  # noqa: SLF001 - it was this process that started the supervisor

    def switch_on(self) -> float:
        """Start again, as on a machine that has booted; returns how many seconds the stack took."""
        self.disk.unmount()
        self.disk.mount()
        grown = Home(self.settings.home).file("store", "data", LIST)
        if isinstance(value := read_json(grown), dict):
            write_json(grown, value | {"place": "another boot"})
        started = time.monotonic()
        stack.up(self.settings, attached=True, wait_for=STARTED)
        return time.monotonic() - started

    def count_lost(self) -> float:
        """Count what was acknowledged and is not there, until nothing is missing; returns after how many seconds.

        Uploads whose events were on their way are found by the search for lost uploads, which takes its time.
        """
        counting = (self._uploads, self._results, self._notices, self._readings, self._promotions)
        started = time.monotonic()
        while True:
            lost: Counter[str] = Counter()
            for count in counting:
                try:
                    lost.update(count())
                except (sqlite3.OperationalError, LunglineError) as exc:  # a service that is not ready yet
                    lost[f"unknown: {exc}"] += 1
            seconds = time.monotonic() - started
            if not lost.total() or seconds > SETTLE_SECONDS:
                self.lost = lost
                return seconds
            time.sleep(1)

    def _uploads(self) -> dict[str, int]:
        connected = stack.connect(self.settings)
        storage = Storage.from_settings(connected)
        there = {key: _etag(storage, connected.uploads_bucket, key) for key in self.acknowledged.uploads}
        return {"uploads": sum(there[key] != etag for key, etag in self.acknowledged.uploads.items())}

    def _results(self) -> dict[str, int]:
        connected = stack.connect(self.settings)
        every = results.every(Storage.from_settings(connected), connected.results_bucket)
        judged = {record.upload.key for record in every if record.outcome == "judged"}
        with self._database() as database:
            listed = {key for (key,) in database.execute("SELECT key FROM entries WHERE outcome = 'judged'")}
        uploads = self.acknowledged.uploads.keys()
        return {"results": len(uploads - judged), "listed": len(uploads & judged - listed)}

    def _notices(self) -> dict[str, int]:
        with self._database() as database:
            due = {row[0] for row in database.execute("SELECT identity FROM entries WHERE label = 'Pneumonia'")}
            queued = {row[0] for row in database.execute("SELECT identity FROM notices")}
            done = {row[0] for row in database.execute("SELECT identity FROM notices WHERE acknowledged IS NOT NULL")}
        return {"notices": len(due - queued), "acknowledgements": len(self.acknowledged.notices - done)}

    def _readings(self) -> dict[str, int]:
        with self._database() as database:
            there = dict(database.execute("SELECT id, verdict FROM readings").fetchall())
        return {"readings": sum(there.get(name) != verdict for name, verdict in self.acknowledged.readings.items())}

    def _promotions(self) -> dict[str, int]:
        connected = stack.connect(self.settings)
        try:
            entries = {entry.number: entry.hash for entry in History.from_settings(connected).verify()}
            serving = LaptopDeployment.from_settings(connected).serving()
        except LunglineError:
            return {"promotions": len(self.acknowledged.promotions)}
        missing = sum(entries.get(entry.number) != entry.hash for entry in self.acknowledged.promotions)
        return {"promotions": missing, "champions": int(serving not in {"1", "2"})}

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        place = f"file:{self.settings.home}/worklist/worklist.db?mode=ro"
        with closing(sqlite3.connect(place, uri=True, timeout=10)) as database:
            yield database

    def run(self) -> dict[str, object]:
        """The whole story; returns what was measured."""
        self.begin()
        at = self.work_and_cut()
        try:
            took = self.switch_on()
        except LunglineError as exc:
            self.lost["starts"] = 1
            return {"seed": self.seed, "cut": at, "acknowledged": self.acknowledged.counts(), "start": str(exc)}
        try:
            settled = self.count_lost()
            log = Home(self.settings.home).log("supervisor").read_text(errors="replace")
        finally:
            stack.down(self.settings)
        counts = {"acknowledged": self.acknowledged.counts(), "lost": dict(+self.lost)}
        return {
            "seed": self.seed,
            "cut": round(at, 2),
            "start": round(took, 1),
            "settled": round(settled, 1),
            **counts,
            "said": _warnings(log),
        }


@contextmanager
def power_cut(folder: Path, package: tuple[Path, Path], seed: int) -> Iterator[PowerCut]:
    """A home on a new disk, with a champion; nothing is left afterwards."""
    with forgetful_disk(folder) as disk:
        settings = champion(disk.path / "home", package[0])
        install(settings.home, package[1], "2")
        for version in "12":
            amend_card(Home(settings.home).package(version), version=version)
        os.sync()
        run = PowerCut(disk, seed, settings)
        try:
            yield run
        finally:
            with suppress(LunglineError):
                stack.down(settings)


def _etag(storage: Storage, bucket: str, key: str) -> str | None:
    try:
        return storage.get(bucket, key).etag
    except LunglineError:
        return None


def _warnings(log: str) -> list[str]:
    return [line[:200] for line in log.splitlines() if _SAID.search(line)]


def main() -> int:
    """Run the seeds, print a line for each; 1 when anything acknowledged was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.power_cut", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    arguments = parser.parse_args()
    if reason := fault():
        sys.exit(f"There is no disk to cut: {reason}.")
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="lungline-power-") as scratch:
        packages = (Path(scratch, "1"), Path(scratch, "2"))
        for seed, folder in enumerate(packages, 1):
            write_tiny_package(folder, seed=seed, version=None)
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            with tempfile.TemporaryDirectory(dir=scratch) as folder, power_cut(Path(folder), packages, seed) as run:
                measured = run.run()
            print(json.dumps(measured), flush=True)
            total += run.lost
    print(f"Lost in {arguments.seeds} power cuts: {dict(total) or 'nothing'}.")
    return int(bool(total))


if __name__ == "__main__":
    sys.exit(main())
