"""A power cut under a laptop stack at work: `python -m tests.support.power_cut --seeds 10`, or `make power-cut`.

Scanners upload, a reader reads and acknowledges, versions are promoted in turn, and another gives second opinions of
what is uploaded and of what was. At a moment that the seed chooses
everything stops and the disk forgets what was not synced. Then the stack starts again, and all rules of the history
checker (tests/support/history) must hold: whatever was acknowledged is there, once.

The seed chooses the moment, and which files the system writes by itself before it; it does not choose how threads take
turns, so a run is like another with its seed, and not the same.
"""

import argparse
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path

from laptop import stack
from laptop.home.store_growth import LIST
from laptop.services.process import birth
from lungline.errors import LunglineError
from lungline.home import Home, read_json, write_json
from lungline.package.card import amend_card
from lungline.settings import Settings
from tests.support import once
from tests.support.chaos_run import image
from tests.support.chaos_stack import champion, install
from tests.support.forgetful_disk import ForgetfulDisk, fault, forgetful_disk
from tests.support.history.actors import Crew, Operator, Promoter, Scanner, reader
from tests.support.history.operations import Journal
from tests.support.history.proof import prove
from tests.support.history.receiver import notice_receiver
from tests.support.history.witness import Witness, witness
from tests.support.laptop_stack import s3_client
from tests.support.open_ports import family
from tests.support.tiny_package import write_tiny_package
from tests.support.worklist_site import wait

SCANNERS = 3
EARLIEST, LATEST = 0.2, 5.0
SETTLE_SECONDS = 180.0
STARTED = stack.ESSENTIAL | {"worklist"}
_LOGGED = re.compile("WARN|ERROR|lost uploads|sent again")
_ACKNOWLEDGED = {
    "uploads": "scanner put",
    "readings": "reader say",
    "acknowledgements": "reader acknowledge",
    "promotions": "promoter promote",
    "old uploads sent": "rejudger event",
}
CHALLENGER = "3"
"""The version that gives second opinions."""


@dataclass
class PowerCut:
    """One run: a stack on a disk that forgets."""

    disk: ForgetfulDisk
    seed: int
    settings: Settings
    journal: Journal
    lost: Counter[str] = field(default_factory=Counter)

    def begin(self) -> None:
        """Start the stack; all versions are in its store, the first serves, and the last judges beside it."""
        stack.up(self.settings, attached=True, wait_for=STARTED)
        promoter = Promoter(self.settings, self.journal)
        promoter.store("1", "2", CHALLENGER)
        for version in "21":
            promoter.promote(version)
        self._operator.begin_shadow()

    @property
    def _operator(self) -> Operator:
        return Operator(self.settings, self.journal, CHALLENGER)

    def work_and_cut(self) -> float:
        """Work until the moment that the seed chooses; returns after how many seconds the power went."""
        seconds, crew = random.Random(self.seed).uniform(EARLIEST, LATEST), Crew()
        with reader(self.settings, self.journal, self.seed) as doctor, self.disk.writing_back(self.seed):
            for number in range(SCANNERS):
                crew.repeat(self._scanning(number), 0.1)
            crew.repeat(doctor.look, 0.05)
            crew.repeat(self._promoting(), 0)
            crew.repeat(self._operator.rejudge, 0)
            try:
                at_work = ("scanner put", "reader say", "promoter promote", "rejudger event")
                wait(lambda: crew.failures or all(self.journal.of(name) for name in at_work), 90)
                assert not crew.failures, crew.failures
                time.sleep(seconds)
                self._cut()
            finally:
                crew.end()
        return seconds

    def _scanning(self, number: int) -> Callable[[], object]:
        client = s3_client(stack.env(self.settings, scanner=True))
        scanner = Scanner(client, self.settings.uploads_bucket, self.journal, number)
        images = count(number * 1000)
        return lambda: scanner.put(f"ward {number}/chest {(at := next(images))}.jpeg", image(at))

    def _promoting(self) -> Callable[[], None]:
        promoter, turns = Promoter(self.settings, self.journal), cycle("21")
        return lambda: promoter.promote(next(turns))

    def _cut(self) -> None:
        pids = family(stack.status(self.settings).pid or 0)
        with self.journal.attempt("chaos kill", services=["worklist", "all others"]) as attempt:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.disk.cut()
            attempt.answer("ok")
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

    def run(self) -> Mapping[str, object]:
        """The whole story; returns what was measured."""
        self.begin()
        with witness(stack.connect(self.settings), self.journal) as topics:
            return self._cut_and_prove(topics)

    def _cut_and_prove(self, topics: Witness) -> Mapping[str, object]:
        at = self.work_and_cut()
        acknowledged = {what: len(self.journal.of(name)) for what, name in _ACKNOWLEDGED.items()}
        measured = {"seed": self.seed, "cut": round(at, 2), "acknowledged": acknowledged}
        try:
            took = self.switch_on()
        except LunglineError as exc:
            self.lost["starts"] = 1
            return measured | {"start": str(exc)}
        started = time.monotonic()
        try:
            # First of what was sent before the cut: whoever sends old uploads again sends what was lost with them.
            verdict = prove(self.settings, self.journal, topics, SETTLE_SECONDS)
            if verdict.holds:
                self._operator.rejudge()
                verdict = prove(self.settings, self.journal, topics, SETTLE_SECONDS)
            log = Home(self.settings.home).log("supervisor").read_text(errors="replace")
        finally:
            stack.down(self.settings)
        self.lost = verdict.by_rule
        return measured | {
            "start": round(took, 1),
            "settled": round(time.monotonic() - started, 1),
            "history": verdict.history.counts(),
            "lost": dict(self.lost),
            "violations": [str(violation) for _, violation in verdict.violations],
            "log": [line[:200] for line in log.splitlines() if _LOGGED.search(line)],
        }


@contextmanager
def power_cut(folder: Path, package: tuple[Path, Path], seed: int) -> Iterator[PowerCut]:
    """A home on a new disk, with a champion; nothing is left afterwards."""
    journal = Journal()
    with notice_receiver(journal, folder) as rules, forgetful_disk(folder) as disk:
        settings = champion(disk.path / "home", package[0], worklist={"notice_rules": rules})
        install(settings.home, package[1], "2")
        install(settings.home, package[1], CHALLENGER)
        for version in ("1", "2", CHALLENGER):
            amend_card(Home(settings.home).package(version), version=version)
        os.sync()
        run = PowerCut(disk, seed, settings, journal)
        try:
            yield run
        finally:
            with suppress(LunglineError):
                stack.down(settings)


def main() -> int:
    """Run the seeds, print a line for each; 1 when anything acknowledged was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.power_cut", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    arguments = parser.parse_args()
    if reason := fault():
        sys.exit(f"There is no disk to cut: {reason}.")
    run = once.begin()
    try:
        return _run(range(arguments.first, arguments.first + arguments.seeds))
    finally:
        once.end(run)


def _run(seeds: range) -> int:
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="lungline-power-") as scratch:
        packages = (Path(scratch, "1"), Path(scratch, "2"))
        for seed, folder in enumerate(packages, 1):
            write_tiny_package(folder, seed=seed, version=None)
        for seed in seeds:
            with tempfile.TemporaryDirectory(dir=scratch) as folder, power_cut(Path(folder), packages, seed) as run:
                measured = run.run()
            print(json.dumps(measured), flush=True)
            total += run.lost
    print(f"Lost or repeated in {len(seeds)} power cuts: {dict(total) or 'nothing'}.")
    return int(bool(total))


if __name__ == "__main__":
    sys.exit(main())
