"""A run of a stack in which an integer decides what is uploaded, read, promoted and killed, and in which order.

The seed chooses the moves of every actor; it does not choose how processes take turns, so a run is like another with
its seed, and not the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from random import Random

from laptop import stack
from lungline.errors import LunglineError
from lungline.package.card import amend_card
from tests.support.chaos_run import PASSING, SERVICES, SUPERVISOR, Chaos, eventually, image, key_of
from tests.support.chaos_stack import install
from tests.support.history.actors import AWAY, Crew, Operator, Promoter, reader
from tests.support.history.checker import Verdict
from tests.support.history.modality import modality, radiograph
from tests.support.history.officer import Officer
from tests.support.history.proof import prove

VERSIONS = ("11", "12")
"""Versions that are promoted in turn."""
CHALLENGER = "13"
"""The version that gives second opinions, where a plan has them."""
_KILLED = (*SERVICES, "worklist", "gateway", SUPERVISOR)
_OPINIONS = ("shadow-predictor", "shadow-trigger", *PASSING)
# Of the X-rays, those that come over the gateway, and those that are erased.
_DICOM_EVERY = 5
_ERASED_EVERY = 8
# A back-fill that has begun ends by itself, or gives up after two minutes.
_END_SECONDS = 180.0
_UPLOAD_SECONDS = 300
# The reader looks at no second page of the list.
_FIRST_PAGE = 30


@dataclass(frozen=True)
class Plan:
    """What a seed decides."""

    seed: int
    images: Sequence[int]
    """The X-rays, in the order of their uploads."""
    kills: Sequence[Sequence[str]]
    """Services that are killed at once, one group after another."""
    pause: float
    """Seconds between promotions."""
    second_opinions: bool
    """Whether a shadow judges beside the uploads, and old uploads are judged again afterwards."""

    @classmethod
    def of(cls, seed: int, uploads: int, kills: int, *, second_opinions: bool = False) -> "Plan":
        """The plan of a seed."""
        chance = Random(seed)
        images = chance.sample(range(10 * uploads), uploads)
        services = (*_KILLED, *_OPINIONS) if second_opinions else _KILLED
        return cls(seed, images, [*_groups(chance, services, kills)], chance.uniform(0.5, 3), second_opinions)

    @property
    def erasures(self) -> int:
        """How many of the uploads are erased."""
        return len(self.images) // _ERASED_EVERY

    @property
    def repeat(self) -> str:
        """The command that runs the plan again."""
        sizes = f"--uploads {len(self.images)} --kills {len(self.kills)}"
        more = " --second-opinions" * self.second_opinions
        return f".venv/bin/python -m tests.support.history --seed {self.seed} {sizes}{more}"


def _groups(chance: Random, services: Sequence[str], count: int) -> Iterator[Sequence[str]]:
    """Services that are killed at once: each is killed before any is killed again, the supervisor alone."""
    left: list[str] = []
    for _ in range(count):
        left = left or chance.sample(services, len(services))
        size = 1 if SUPERVISOR in left[:2] else chance.choice((1, 1, 2))
        killed, left = left[:size], left[size:]
        yield killed


def install_versions(home: Path, packages: Sequence[Path]) -> None:
    """Put packages into a home as the versions that are promoted in turn."""
    for version, package in zip((*VERSIONS, CHALLENGER), (*packages, packages[1]), strict=True):
        amend_card(install(home, package, version), version=version)


def run(chaos: Chaos, plan: Plan) -> Verdict:
    """Let everybody work while services are killed; what all rules say once everything has arrived."""
    stack.wait(chaos.settings, "worklist")
    promoter = Promoter(chaos.settings, chaos.journal)
    promoter.store(*VERSIONS, CHALLENGER)
    operator = Operator(chaos.settings, chaos.journal, CHALLENGER)
    officer = Officer(chaos.settings, chaos.journal, plan.seed, chaos.sent, plan.erasures)
    turns, crew, left = cycle(VERSIONS), Crew(), list(reversed(plan.images))
    # Once there is a history, the worklist shows no result of a version that it does not name.
    promoter.promote(next(turns))
    if plan.second_opinions:
        operator.begin_shadow()

    def scan() -> None:
        while left and not crew.stop.is_set():
            number = left.pop()
            if len(left) % _DICOM_EVERY:
                chaos.upload(key_of(f"seed {plan.seed}", number), image(number))
            else:
                chaos.send_dicom(room, radiograph(number))
            crew.stop.wait(0.1)

    with (
        reader(chaos.settings, chaos.journal, plan.seed) as doctor,
        modality(chaos.settings, chaos.journal) as room,
    ):
        crew.start(scan)
        if plan.second_opinions:
            crew.repeat(operator.rejudge, plan.pause, AWAY)
        crew.repeat(doctor.look, 0.1, AWAY)
        crew.repeat(officer.work, plan.pause, AWAY)
        crew.repeat(lambda: promoter.promote(next(turns)), plan.pause, AWAY)
        try:
            for names in plan.kills:
                chaos.kill(*names)
                crew.stop.wait(plan.pause)
            eventually(lambda: not left or crew.failures, _UPLOAD_SECONDS, "all X-rays are uploaded")
            eventually(lambda: officer.is_done or crew.failures, 120, "all uploads are erased that were to be")
            chaos.settle(120)
            enough = min(len(plan.images) - plan.erasures, _FIRST_PAGE)
            eventually(lambda: len(doctor.seen) >= enough, 60, "the reader has looked at as many")
        finally:
            crew.end(_END_SECONDS)
    assert not crew.failures, crew.failures
    eventually(lambda: _promotes(promoter, next(turns)), 120, "a version is promoted")
    if plan.second_opinions:
        operator.rejudge()
    return prove(chaos.settings, chaos.journal, chaos.topics)


def _promotes(promoter: Promoter, version: str) -> bool:
    """Whether a promotion succeeds now that nothing is killed: the last word is said by somebody."""
    try:
        promoter.promote(version)
    except LunglineError:
        return False
    return True
