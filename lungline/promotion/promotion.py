"""Promotion and rollback: the only way to put a version into service.

The order of the steps determines what a crash leaves behind:

    0. verify the history: its chain, its signatures, its anchors in MLflow and where the champion serves
    1. prove the package: it loads, its files are the registered ones, it is signed, passed the gate, and it answers
    2. write `began` to the history: the conditional put is the lock between concurrent promotions
    3. deploy, which ends with the new version serving, or with the old one
    4. write `promoted`: from here on the version is the champion
    5. move MLflow's alias

A crash in 1 changes nothing. A crash after 2 or 3 leaves an unfinished `began`: it blocks other promotions for LEASE;
then the next promotion closes it as failed and restores the champion before it starts. After 4 only the alias is out of
date; promoting or rolling back again moves it.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lungline.deployment.base import Deployment
from lungline.deployment.release import Release
from lungline.errors import LunglineError, PromotionConflict, PromotionRefused, RegistryUnavailable
from lungline.promotion.anchored_history import require_person, verified
from lungline.promotion.inspection import Requirements, inspect, requirements, served_before
from lungline.registry.history import Act, Facts, Kind, PromotionEntry, sentence_of
from lungline.registry.verification import VerifiedHistory
from lungline.registry.versions import Registry
from lungline.settings import Settings
from lungline.task.overrides import task_option

LEASE = timedelta(minutes=8)
"""How long a promotion may take; longer than any deployment waits for its predictor and for its revert."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """The outcome of a promotion; `changed` is False when the version was the champion already."""

    version: str
    replaced: str | None
    changed: bool
    sentence: str


def promote(
    version: str | None,
    *,
    by: str,
    reason: str,
    settings: Settings,
    deployment: Deployment,
    without_gate: str | None = None,
) -> Promotion:
    """Put a version into service; None means the challenger.

    `without_gate` is why one may serve that did not pass the gate. Raises RegistryError for a history that does not
    verify, PromotionRefused for a version that may not serve here, PackageError for a package that does not answer,
    PromotionConflict when somebody else promotes, and Unavailable when a service is down; the old champion then serves.
    """
    require_person(by, reason)
    registry = Registry(settings)
    target = registry.resolve(version)
    history = verified(registry, deployment)
    change = _Change("promotion", target, by, reason, registry, deployment)
    return change.run(history, requirements(registry, target, history.entries, without_gate))


def rollback(*, by: str, reason: str, settings: Settings, deployment: Deployment) -> Promotion:
    """Put the previous champion back into service; raises what `promote` raises."""
    require_person(by, reason)
    registry = Registry(settings)
    history = verified(registry, deployment)
    served = _served(history.entries)
    if len(served) < 2:
        return _repaired(registry, deployment, history)
    change = _Change("rollback", served[-2], by, reason, registry, deployment)
    # The history knows the package that served then; an incident must not wait for MLflow.
    return change.run(history, served_before(history.entries, served[-2]) or Requirements(None, signed=False))


def _repaired(registry: Registry, deployment: Deployment, history: VerifiedHistory) -> Promotion:
    """Where there is no earlier champion a rollback can only mend the one that serves."""
    promoted = [entry for entry in history.entries if entry.act == "promoted"]
    name = registry.name
    if not promoted or deployment.intact(promoted[-1].version, promoted[-1].facts.package):
        raise PromotionRefused(f"There is no earlier champion of {name} to roll back to.")
    last = promoted[-1]
    sentence = deployment.deploy(registry.package_uri(last.version), last.version, release_of(last))
    repaired = (
        f"There is no earlier champion of {name}; the package of version {last.version} was damaged and replaced."
    )
    return Promotion(last.version, last.version, changed=False, sentence=f"{repaired} {sentence}")


def release_of(entry: PromotionEntry) -> Release:
    """What the predictor must find in the package of an entry."""
    return Release(entry.facts.package, entry.facts.signed_by is not None, entry.anchor)


def _served(entries: Sequence[PromotionEntry]) -> list[str]:
    """The stack of champions; a rollback removes the last one."""
    served: list[str] = []
    for entry in entries:
        if entry.act == "promoted":
            if entry.kind == "rollback" and served:
                served.pop()
            if served[-1:] != [entry.version]:
                served.append(entry.version)
    return served


@dataclass(frozen=True, slots=True)
class _Change:
    kind: Kind
    version: str
    by: str
    reason: str
    registry: Registry
    deployment: Deployment

    def run(self, history: VerifiedHistory, wanted: Requirements) -> Promotion:
        """Make the change; `wanted` is what is known about the package from before."""
        head = self._free_head(history.entries)
        if head and head.champion == self.version:
            return self._already(history.entries)
        facts = self._inspect(wanted)
        before = head.champion if head else None
        began = self._append(head, "began", before, facts)
        self.deployment.keep_anchor(began.anchor)
        try:
            sentence = self._deploy(began)
        except BaseException as exc:
            # Also for Ctrl-C: the next promoter should not have to wait for the lease.
            with contextlib.suppress(LunglineError):
                self._append(began, "failed", before, facts, outcome=str(exc) or type(exc).__name__)
            raise
        try:
            promoted = self._append(began, "promoted", self.version, facts)
        except LunglineError:
            self._bring_back(before, history.entries)
            raise
        self.deployment.keep_anchor(promoted.anchor)
        self._follow(promoted)
        return Promotion(self.version, before, changed=True, sentence=sentence)

    def _free_head(self, entries: Sequence[PromotionEntry]) -> PromotionEntry | None:
        """The end of the history, once no other change is in progress."""
        head = entries[-1] if entries else None
        if head is None or head.act != "began":
            return head
        # The store's clock as well: whoever wrote the entry may have had a clock that is a day ahead.
        if datetime.now(UTC) - min(head.at, self.registry.history.written(head)) < LEASE:
            raise PromotionConflict(f"{sentence_of(head)}; nothing was changed by this call.")
        closed = self.registry.append(
            head,
            act="failed",
            outcome=f"Nobody finished it; closed by {self.by}.",
            **head.model_dump(include={"kind", "version", "champion", "by", "reason"}),
            facts=head.facts,
        )
        self._bring_back(closed.champion, entries)
        return closed

    def _inspect(self, wanted: Requirements) -> Facts:
        synthetic = self.deployment.accepts_synthetic
        return inspect(self.registry, self.version, wanted, accepts_synthetic=synthetic)

    def _append(
        self, after: PromotionEntry | None, act: Act, champion: str | None, facts: Facts, outcome: str = ""
    ) -> PromotionEntry:
        values = {"kind": self.kind, "version": self.version, "by": self.by, "reason": self.reason}
        return self.registry.append(after, act=act, champion=champion, facts=facts, outcome=outcome, **values)

    def _already(self, entries: Sequence[PromotionEntry]) -> Promotion:
        """The outcome when the version is the champion already; completes what a crash left unfinished."""
        sentence = f"Version {self.version} is the champion already."
        (*_, promoted) = (entry for entry in entries if entry.act == "promoted")
        unsigned = promoted.facts.signed_by is None
        if unsigned:
            return self._signed_now(entries[-1], promoted)
        if not self.deployment.intact(self.version, promoted.facts.package):
            sentence = self._deploy(promoted)
        self.deployment.keep_anchor(entries[-1].anchor)
        self._follow(promoted, entries[-1])
        return Promotion(self.version, self.version, changed=False, sentence=sentence)

    def _signed_now(self, head: PromotionEntry, promoted: PromotionEntry) -> Promotion:
        """Sign the champion of an earlier release, and say so in the history."""
        former = promoted.facts
        facts = self._inspect(Requirements(former.package, signed=False, gate=former.gate, served=True))
        began = self._append(head, "began", self.version, facts)
        self.deployment.keep_anchor(began.anchor)
        sentence = self._deploy(began)
        signed = self._append(began, "promoted", self.version, facts)
        self.deployment.keep_anchor(signed.anchor)
        self._follow(signed)
        sentence = f"Version {self.version} is the champion already; its package is signed now. {sentence}"
        return Promotion(self.version, self.version, changed=False, sentence=sentence)

    def _deploy(self, entry: PromotionEntry) -> str:
        return self.deployment.deploy(self.registry.package_uri(self.version), self.version, release_of(entry))

    def _bring_back(self, champion: str | None, entries: Sequence[PromotionEntry]) -> None:
        # Best effort: the error that led here is the one to tell, and the next change deploys again.
        promoted = [entry for entry in entries if entry.act == "promoted" and entry.version == champion]
        if champion is not None:
            release = release_of(promoted[-1]) if promoted else None
            with contextlib.suppress(LunglineError):
                self.deployment.deploy(self.registry.package_uri(champion), champion, release)

    def _follow(self, promoted: PromotionEntry, head: PromotionEntry | None = None) -> None:
        try:
            self.registry.follow(promoted, head)
        except LunglineError as exc:
            raise RegistryUnavailable(
                f"Version {self.version} is in service, but MLflow's alias champion could not follow: {exc} "
                f"`lungline promote {self.version}{task_option(self.registry.settings)}` moves it."
            ) from exc
