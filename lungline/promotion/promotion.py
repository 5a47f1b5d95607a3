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
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import numpy as np

from lungline.datasets.phantom import jpeg
from lungline.deployment.base import Deployment
from lungline.deployment.release import Release
from lungline.diagnosis.diagnoser import Diagnoser
from lungline.errors import LunglineError, PackageError, PromotionConflict, PromotionRefused, RegistryUnavailable
from lungline.package.card import GateFacts
from lungline.package.package import Package
from lungline.promotion.shadow_rule import require_shadow
from lungline.registry.history import Act, Facts, Kind, PromotionEntry, sentence_of
from lungline.registry.verification import Anchor, VerifiedHistory
from lungline.registry.versions import Registry
from lungline.settings import Settings
from lungline.site_key import PublicKey
from lungline.task.overrides import task_option

LEASE = timedelta(minutes=8)
"""How long a promotion may take; longer than any deployment waits for its predictor and for its revert."""


PLACE = "the place where the champion serves"
"""The second anchor of the history: in the home folder, or in the InferenceService."""


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
    _require_person(by, reason)
    registry = Registry(settings)
    target = registry.resolve(version)
    history = verified(registry, deployment)
    change = _Change("promotion", target, by, reason, registry, deployment)
    return change.run(history, inspection(registry, target, history.entries, without_gate))


def rollback(*, by: str, reason: str, settings: Settings, deployment: Deployment) -> Promotion:
    """Put the previous champion back into service; raises what `promote` raises."""
    _require_person(by, reason)
    registry = Registry(settings)
    history = verified(registry, deployment)
    served = _served(history.entries)
    if len(served) < 2:
        return _repaired(registry, deployment, history)
    change = _Change("rollback", served[-2], by, reason, registry, deployment)
    # The history knows the package that served then; an incident must not wait for MLflow.
    return change.run(history, _served_before(history.entries, served[-2]) or Inspection(None, signed=False))


def accept(*, by: str, reason: str, settings: Settings, deployment: Deployment) -> VerifiedHistory:
    """Accept the history as it is where something was lost: an anchor, or the public key of older entries.

    Writes an entry that says who and why, and anchors it. Raises PromotionRefused when nothing is lost, RegistryError
    when the history does not verify.
    """
    _require_person(by, reason)
    registry = Registry(settings)
    history = _examined(registry, deployment)
    if not history.lost:
        raise PromotionRefused("Nothing of the promotion history is lost; there is nothing to accept.")
    head = history.entries[-1]
    registry.trust(history.keys)
    values = {
        "version": head.version,
        "champion": head.champion,
        "facts": head.facts,
        "outcome": " ".join(history.lost),
    }
    entry = registry.append(head, act="accepted", kind="acceptance", by=by, reason=reason, **values)
    deployment.keep_anchor(entry.anchor)
    registry.keep_anchor(entry)
    return replace(history, entries=(*history.entries, entry), lost=())


def verified(registry: Registry, deployment: Deployment) -> VerifiedHistory:
    """The history, once it is proven; raises RegistryError or PromotionRefused where no change may build on it."""
    history = _examined(registry, deployment)
    history.require_whole()
    return history


def examined(settings: Settings, deployment: Deployment | None) -> VerifiedHistory:
    """The history with what is lost of it; raises RegistryError where it does not verify.

    Without a deployment, where none can be reached, its anchor is not compared.
    """
    return _examined(Registry(settings), deployment)


def _examined(registry: Registry, deployment: Deployment | None) -> VerifiedHistory:
    return registry.verified({PLACE: Anchor(deployment.anchor()) if deployment else Anchor(None, reachable=False)})


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a version's package must be, from where it was noted before."""

    sha256: str | None
    """The digest over the package; None where nothing knows it."""
    signed: bool
    """Whether it was signed; then it still must be."""
    gate: GateFacts | None = None
    without_gate: str | None = None
    served: bool = False
    """Whether it served before; then the gate was asked at that time."""


def inspection(
    registry: Registry, version: str, entries: Sequence[PromotionEntry], without_gate: str | None
) -> Inspection:
    """What the package of a version must be, from the history and from MLflow."""
    if (served := _served_before(entries, version)) is not None:
        return served
    tags = registry.noted(version)
    return Inspection(
        tags.get("package_sha256"), "signed_by" in tags, without_gate=(without_gate or "").strip() or None
    )


def _served_before(entries: Sequence[PromotionEntry], version: str) -> Inspection | None:
    facts = [entry.facts for entry in entries if entry.act == "promoted" and entry.version == version]
    if not facts:
        return None
    last = facts[-1]
    return Inspection(last.package, last.signed_by is not None, last.gate, last.without_gate, served=True)


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


def require_gate(registry: Registry, package: Package, wanted: Inspection, version: str) -> Inspection:
    """Raise PromotionRefused for a version that did not pass the gate, unless a person said why it may serve."""
    gate = wanted.gate or (None if wanted.served else registry.gate_of(package))
    if wanted.served or wanted.without_gate or (gate and gate.passed):
        return replace(wanted, gate=gate)
    fault = f"did not pass the gate ({gate.sentence})" if gate else "has no verdict of the gate"
    raise PromotionRefused(
        f"Version {version} {fault}. `--without-gate REASON` lets it serve; the reason stands in the history."
    )


def require_package(registry: Registry, package: Package, wanted: Inspection, version: str) -> PublicKey | None:
    """The key that signed a package; raises PackageError when it is not the one that was noted."""
    if wanted.sha256 not in (None, package.sha256):
        raise PackageError(f"The package of version {version} is not the one that was registered.")
    signer = registry.signer_of(package)
    if signer is None and wanted.signed:
        raise PackageError(f"The package of version {version} was signed, and its signature is gone.")
    return signer


def prove(package: Package) -> None:
    """Show that a package answers: finite probabilities and heatmaps for drawn chests, with and without opacities.

    Raises PackageError.
    """
    diagnoser = Diagnoser(package)
    for seed, opacities in product(range(2), (False, True)):
        diagnosis = diagnoser.diagnose(jpeg(seed, opacities=opacities), statistics=False)
        prediction, probability = diagnosis.prediction, diagnosis.probability
        finite = prediction is not None and bool(np.isfinite(prediction.cam).all())
        if not finite or probability is None or not 0 <= probability <= 1:
            raise PackageError(
                f"The package of version {package.card.version} does not answer: its probability for a drawn chest "
                f"is {probability}."
            )


def _require_person(by: str, reason: str) -> None:
    for what, value in (("by whom", by), ("why", reason)):
        if not value.strip():
            raise PromotionRefused(f"A change of the champion says {what}; nothing was given.")


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

    def run(self, history: VerifiedHistory, wanted: Inspection) -> Promotion:
        """Make the change; `wanted` is what is known about the package from before."""
        head = self._free_head(history.entries)
        if head and head.champion == self.version:
            return self._already(history.entries)
        facts = self._proven(wanted)
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

    def _proven(self, wanted: Inspection) -> Facts:
        registry, version = self.registry, self.version
        with tempfile.TemporaryDirectory(prefix="lungline-") as temporary:
            package = registry.fetch(version, Path(temporary) / version)
            signer = require_package(registry, package, wanted, version)
            card = package.card
            if card.synthetic and not self.deployment.accepts_synthetic:
                raise PromotionRefused(
                    f"Version {version} was trained on drawn phantoms, so it may serve on a laptop only."
                )
            wanted = require_gate(registry, package, wanted, version)
            if not (wanted.served or wanted.without_gate):
                require_shadow(registry.storage, registry.settings, package, version)
            prove(package)
            if signer is None:
                signer = registry.sign(package, version)
        return Facts(
            package=package.sha256,
            metrics=card.metrics,
            data=card.data.name,
            data_digest=card.data.digest,
            synthetic=card.synthetic,
            code_version=card.code.version,
            commit=card.code.commit,
            mlflow_run=card.mlflow_run_id,
            pipeline_run=card.pipeline_run,
            prior=card.prior and card.prior.share,
            site=card.site and card.site.name,
            parent=card.site and card.site.parent,
            signed_by=signer.id,
            gate=wanted.gate,
            without_gate=wanted.without_gate,
        )

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
        facts = self._proven(Inspection(former.package, signed=False, gate=former.gate, served=True))
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
