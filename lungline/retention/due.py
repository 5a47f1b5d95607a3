"""What the retention rules make due, and its erasure, a group of uploads at a time."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from lungline.results import record_store
from lungline.retention.erasure import Eraser
from lungline.retention.holds import Holds
from lungline.retention.rules import EVERYWHERE, Kind, RetentionRules
from lungline.retention.subjects import Subject, of_identities, stored_uploads
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from lungline.wording import count

AT_ONCE = 500
"""Uploads of one plan."""

Kinds = tuple[Kind, ...]


@dataclass(slots=True)
class Retention:
    """What a run of the rules did: uploads that were due, those that a hold kept, what there was, and the proofs."""

    rules: int = 0
    dry_run: bool = False
    due: int = 0
    held: int = 0
    objects: dict[str, int] = field(default_factory=dict[str, int])
    proofs: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        """In words."""
        if not self.rules:
            return "There are no retention rules: nothing is erased."
        kept = f"; legal holds keep {self.held} more" if self.held else ""
        listed = ", ".join(f"{number} {name}" for name, number in sorted(self.objects.items()))
        verb = "would be erased" if self.dry_run else "were erased"
        what = f" {listed} {verb}." if listed else ""
        return f"Due by {count(self.rules, 'rule')}: {count(self.due, 'upload')}{kept}.{what}"


def run(eraser: Eraser, rules: RetentionRules, *, dry_run: bool = False, now: datetime | None = None) -> Retention:
    """Erase what is due, or only say what is; first what a crash has left. Raises what an erasure raises."""
    report = Retention(rules=len(rules.rules), dry_run=dry_run or rules.dry_run)
    if not report.dry_run:
        report.proofs += [proof.id for proof in eraser.finish()]
        eraser.sweep()
    if not rules.rules:
        return report
    now = now or datetime.now(UTC)
    groups, report.held = _groups(eraser.storage, eraser.settings, rules, now)
    counts = Counter[str]()
    for kinds, subjects in groups.items():
        for first in range(0, len(subjects), AT_ONCE):
            _erase(eraser, subjects[first : first + AT_ONCE], kinds, report, counts)
    report.objects = dict(counts)
    return report


def _erase(eraser: Eraser, part: list[Subject], kinds: Kinds, report: Retention, counts: Counter[str]) -> None:
    before = eraser.look(part, kinds)
    if not before.total():  # an earlier run has
        return
    counts.update(before)
    report.due += len(part)
    if not report.dry_run:
        plan = eraser.plan(
            part, by="retention rules", reason=f"older than the rules allow in {', '.join(kinds)}", kinds=kinds
        )
        report.proofs.append(eraser.carry_out(plan).id)


def _groups(
    storage: Storage, settings: Settings, rules: RetentionRules, now: datetime
) -> tuple[dict[Kinds, list[Subject]], int]:
    """The uploads that are due by the buckets that they are to leave, and how many a hold keeps."""
    groups: dict[Kinds, list[Subject]] = defaultdict(list)
    due = dict((*_judged(storage, settings, rules, now), *_never_judged(storage, settings, rules, now)))
    holds, held = Holds(storage, settings).every(), 0
    for subject in of_identities(due, storage, settings):
        if any(hold.is_on(subject) for hold in holds):
            held += 1
        else:
            groups[due[subject.identity]].append(subject)
    return groups, held


def _judged(storage: Storage, settings: Settings, rules: RetentionRules, now: datetime) -> Iterator[tuple[str, Kinds]]:
    bucket = settings.results_bucket
    for identity in record_store.identities_before(storage, bucket, now - timedelta(days=rules.least_days)):
        stored = record_store.find(storage, bucket, identity)
        if stored and (kinds := rules.kinds_due(stored, now)):
            yield identity, kinds


def _never_judged(
    storage: Storage, settings: Settings, rules: RetentionRules, now: datetime
) -> Iterator[tuple[str, Kinds]]:
    """X-rays without a result, by the rules that want no label and no task."""
    plain = [rule for rule in rules.rules if not rule.label and not rule.task and "uploads" in rule.bucket]
    for modified, upload in stored_uploads(storage, settings) if plain else ():
        due = {kind for rule in plain if now - modified >= timedelta(days=rule.days) for kind in rule.bucket}
        if due and not record_store.is_known(storage, settings.results_bucket, upload.identity):
            yield upload.identity, tuple(kind for kind in EVERYWHERE if kind in due)
