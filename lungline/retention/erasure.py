"""An erasure, place by place: written down first, then carried out, then proven.

Each step can be repeated. A process that dies leaves its plan, and the next erasure carries it out before its own. The
X-ray goes first, so that nothing judges it again; then the worklist, which could write its DICOM result again; then all
the rest. Work that was under way may add something afterwards: so all places are looked at again before the proof.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lungline.errors import LunglineError
from lungline.events.uploads import Upload
from lungline.results import record_store, returned
from lungline.results.records import OWED
from lungline.retention import plan as plans
from lungline.retention import tombstones
from lungline.retention.holds import Holds
from lungline.retention.plan import Plan
from lungline.retention.proof import Proof, Remainder, make_proof
from lungline.retention.rules import EVERYWHERE, Kind
from lungline.retention.subjects import Subject, of_identities
from lungline.settings import Settings
from lungline.site_key import site_key
from lungline.storage.s3 import Storage

ROUNDS, PAUSE_SECONDS = 5, 1.0
# The predictor copies an unsure image for research right after its answer; a copy that waits longer is not being made.
COPY_SECONDS, LOOK_SECONDS = 5.0, 0.2

_log = logging.getLogger(__name__)


class Place(Protocol):
    """Where something of an upload may lie."""

    def look(self, subjects: Sequence[Subject]) -> Counter[str]:
        """How much there is, by what it is called."""
        ...

    def erase(self, subjects: Sequence[Subject]) -> None:
        """Erase it; may be repeated."""
        ...


class Places(Protocol):
    """The places of a site."""

    def of(self, kinds: Sequence[Kind]) -> Sequence[Place]:
        """Those of some buckets, in the order in which they are erased."""
        ...

    def remains(self, plan: Plan) -> Sequence[Remainder]:
        """What an erasure does not reach."""
        ...

    def note(self, plan: Plan) -> None:
        """Say in the audit log what was erased."""
        ...


@dataclass(frozen=True, slots=True)
class Eraser:
    """Erases uploads. Every method raises StorageUnavailable, and what the places raise."""

    storage: Storage
    settings: Settings
    places: Places
    copy_seconds: float = COPY_SECONDS

    def look(self, subjects: Sequence[Subject], kinds: Sequence[Kind] = EVERYWHERE) -> Counter[str]:
        """How much there is of these uploads, by what it is called."""
        return _sum(place.look(subjects) for place in self.places.of(kinds))

    def plan(
        self,
        subjects: Sequence[Subject],
        *,
        by: str,
        reason: str,
        kinds: Sequence[Kind] = EVERYWHERE,
        patient_id: str | None = None,
    ) -> Plan:
        """What would be erased. Raises OnHold, LunglineError where nothing is stored of them or nobody can sign."""
        site_key(self.settings)
        Holds(self.storage, self.settings).require_none(subjects)
        before = self.look(subjects, kinds) if subjects else Counter[str]()
        if not before.total():
            raise LunglineError("Nothing is stored of this upload or patient: expected an identity as results have it.")
        return Plan.of(subjects, before, by=by, reason=reason, kinds=kinds, patient_id=patient_id)

    def carry_out(self, plan: Plan) -> Proof:
        """Erase what a plan says, and prove it; a plan that was left by a crash goes on.

        Raises OnHold, when a hold has come since, and LunglineError when something keeps coming back.
        """
        Holds(self.storage, self.settings).require_none(plan.subjects)
        plan.save(self.storage, self.settings)
        if "results" in plan.kinds:  # their X-rays go too, as rules and commands have it
            identities = (subject.identity for subject in plan.subjects)
            tombstones.put(identities, self.storage, self.settings, plan.kinds)
        self._await_copies(plan)
        self._erase(plan.subjects, plan.kinds, plan.id)
        after = dict.fromkeys(plan.before, 0)
        proof = make_proof(plan, after, self.places.remains(plan), self.settings)
        self.places.note(plan)
        data = proof.text().encode()
        self.storage.put(self.settings.results_bucket, proof.place, data, "application/json")
        self.storage.delete(self.settings.patients_bucket, plan.key)
        _log.info("erased", extra={"erasure": plan.id, "uploads": len(plan.subjects)})
        return proof

    def finish(self) -> list[Proof]:
        """Carry out what a crash has left, and delete what has come back of uploads since their erasure."""
        done = [self.carry_out(plan) for plan in plans.unfinished(self.storage, self.settings)]
        for identity in list(returned.noted(self.storage, self.settings.results_bucket)):
            self._erase_again(identity)
        return done

    def sweep(self) -> None:
        """Delete results of erased uploads that nobody took back: their predictor died, and no event came again.

        Lists all results, so it is for the run of the rules, not for each erasure.
        """
        recorded = sorted(record_store.every_identity(self.storage, self.settings.results_bucket))
        for identity in tombstones.erased_among(recorded, self.storage, self.settings):
            self._erase_again(identity)

    def _erase_again(self, identity: str) -> None:
        """Delete what came back of an upload, without its X-ray: what is there now was sent again.

        What a hold is on stays for now. Raises LunglineError when something keeps coming back.
        """
        (subject,) = of_identities([identity], self.storage, self.settings)
        if any(hold.is_on(subject) for hold in Holds(self.storage, self.settings).every()):
            return
        kinds = tombstones.kinds_erased(identity, self.storage, self.settings)
        if kinds and not _is_stored(subject, self.storage):
            self._erase([subject], [kind for kind in kinds if kind != "uploads"], "of what came back")
        returned.forget(self.storage, self.settings.results_bucket, identity)

    def _await_copies(self, plan: Plan) -> None:
        """Let research copies that are being made come to their end: nothing could tell their maker to stop."""
        deadline = time.monotonic() + self.copy_seconds
        bucket, prefixes = self.settings.results_bucket, [f"{OWED}{each.identity}-" for each in plan.subjects]
        while any(True for prefix in prefixes for _ in self.storage.list(bucket, prefix)):
            if time.monotonic() > deadline:
                return
            time.sleep(LOOK_SECONDS)

    def _erase(self, subjects: Sequence[Subject], kinds: Sequence[Kind], name: str) -> None:
        """Erase until a look finds nothing more."""
        places, left = self.places.of(kinds), Counter[str]()
        for attempt in range(ROUNDS):
            for place in places:
                place.erase(subjects)
            left = _sum(place.look(subjects) for place in places)
            if not left.total():
                return
            time.sleep(PAUSE_SECONDS * attempt)
        raise LunglineError(
            f"Of erasure {name} something comes back: {', '.join(sorted(+left))}. Its plan stays: run it again."
        )


def _is_stored(subject: Subject, storage: Storage) -> bool:
    place = (subject.bucket, subject.key, subject.version_id, subject.etag)
    return bool(subject.key) and tombstones.is_stored(Upload(*place), storage)


def _sum(counts: Iterable[Counter[str]]) -> Counter[str]:
    return sum(counts, Counter[str]())
