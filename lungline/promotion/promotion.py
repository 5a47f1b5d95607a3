"""Promotion and rollback: the only way to put a version into service.

The order of the steps determines what a crash leaves behind:

    1. prove the package: it loads, its files are the registered ones, and it answers
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
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import numpy as np

from lungline.datasets.phantom import jpeg
from lungline.deployment.base import Deployment
from lungline.diagnosis.diagnoser import Diagnoser
from lungline.errors import LunglineError, PackageError, PromotionConflict, PromotionRefused, RegistryUnavailable
from lungline.package.package import Package
from lungline.registry.history import Act, Facts, Kind, PromotionEntry, sentence_of
from lungline.registry.versions import Registry
from lungline.settings import Settings

LEASE = timedelta(minutes=8)
"""How long a promotion may take; longer than any deployment waits for its predictor and for its revert."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """The outcome of a promotion; `changed` is False when the version was the champion already."""

    version: str
    replaced: str | None
    changed: bool
    sentence: str


def promote(version: str | None, *, by: str, reason: str, settings: Settings, deployment: Deployment) -> Promotion:
    """Put a version into service; None means the challenger.

    Raises PromotionRefused for a version that may not serve here, PackageError for a package that does not answer,
    PromotionConflict when somebody else promotes, and Unavailable when a service is down; the old champion then serves.
    """
    _require_person(by, reason)
    registry = Registry(settings)
    target = registry.resolve(version)
    change = _Change("promotion", target, by, reason, registry, deployment)
    return change.run(expected=registry.package_sha256(target))


def rollback(*, by: str, reason: str, settings: Settings, deployment: Deployment) -> Promotion:
    """Put the previous champion back into service; raises what `promote` raises."""
    _require_person(by, reason)
    registry = Registry(settings)
    entries = registry.history.entries()
    served = _served(entries)
    if len(served) < 2:
        raise PromotionRefused(f"There is no earlier champion of {settings.model_name} to roll back to.")
    # The history knows the package that served then; an incident must not wait for MLflow.
    (*_, expected) = (entry.facts.package for entry in entries if entry.version == served[-2])
    return _Change("rollback", served[-2], by, reason, registry, deployment).run(expected)


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


def _served(entries: list[PromotionEntry]) -> list[str]:
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

    def run(self, expected: str | None) -> Promotion:
        """Make the change; `expected` is the sha256 that the package's card had when it was registered."""
        head = self._free_head()
        if head and head.champion == self.version:
            return self._already()
        facts = self._proven(expected)
        before = head.champion if head else None
        began = self._append(head, "began", before, facts)
        try:
            sentence = self.deployment.deploy(self.registry.package_uri(self.version), self.version)
        except BaseException as exc:
            # Also for Ctrl-C: the next promoter should not have to wait for the lease.
            with contextlib.suppress(LunglineError):
                self._append(began, "failed", before, facts, outcome=str(exc) or type(exc).__name__)
            raise
        try:
            promoted = self._append(began, "promoted", self.version, facts)
        except LunglineError:
            self._bring_back(before)
            raise
        self._follow(promoted)
        return Promotion(self.version, before, changed=True, sentence=sentence)

    def _free_head(self) -> PromotionEntry | None:
        """The end of the history, once no other change is in progress."""
        head = self.registry.history.head()
        if head is None or head.act != "began":
            return head
        if datetime.now(UTC) - head.at < LEASE:
            raise PromotionConflict(f"{sentence_of(head)}; nothing was changed by this call.")
        closed = self.registry.history.append(
            head,
            act="failed",
            outcome=f"Nobody finished it; closed by {self.by}.",
            **head.model_dump(include={"kind", "version", "champion", "by", "reason", "facts"}),
        )
        self._bring_back(closed.champion)
        return closed

    def _proven(self, expected: str | None) -> Facts:
        with tempfile.TemporaryDirectory(prefix="lungline-") as temporary:
            package = self.registry.fetch(self.version, Path(temporary) / self.version)
            if expected not in (None, package.sha256):
                raise PackageError(f"The package of version {self.version} is not the one that was registered.")
            prove(package)
        card = package.card
        if card.synthetic and not self.deployment.accepts_synthetic:
            raise PromotionRefused(
                f"Version {self.version} was trained on drawn phantoms, so it may serve on a laptop only."
            )
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
        )

    def _append(
        self, after: PromotionEntry | None, act: Act, champion: str | None, facts: Facts, outcome: str = ""
    ) -> PromotionEntry:
        values = {"kind": self.kind, "version": self.version, "by": self.by, "reason": self.reason}
        return self.registry.history.append(after, act=act, champion=champion, facts=facts, outcome=outcome, **values)

    def _already(self) -> Promotion:
        """The outcome when the version is the champion already; completes what a crash left unfinished."""
        sentence = f"Version {self.version} is the champion already."
        if self.deployment.serving() != self.version:
            sentence = self.deployment.deploy(self.registry.package_uri(self.version), self.version)
        (*_, promoted) = (entry for entry in self.registry.history.entries() if entry.act == "promoted")
        self._follow(promoted)
        return Promotion(self.version, self.version, changed=False, sentence=sentence)

    def _bring_back(self, champion: str | None) -> None:
        # Best effort: the error that led here is the one to tell, and the next change deploys again.
        if champion is not None:
            with contextlib.suppress(LunglineError):
                self.deployment.deploy(self.registry.package_uri(champion), champion)

    def _follow(self, promoted: PromotionEntry) -> None:
        try:
            self.registry.follow(promoted)
        except LunglineError as exc:
            raise RegistryUnavailable(
                f"Version {self.version} is in service, but MLflow's alias champion could not follow: {exc} "
                f"`lungline promote {self.version}` moves it."
            ) from exc
