"""The inspection of a package before it may serve: it is the registered one, signed, passed the gate, and answers."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from lungline.datasets.phantom import jpeg
from lungline.diagnosis.diagnoser import Diagnoser
from lungline.errors import PackageError, PromotionRefused
from lungline.package.card import GateFacts
from lungline.package.package import Package
from lungline.promotion.shadow_rule import require_shadow
from lungline.registry.history import Facts, PromotionEntry
from lungline.registry.versions import Registry
from lungline.site_key import PublicKey


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a version's package must be, from where it was noted before."""

    sha256: str | None
    """The digest over the package; None where nothing knows it."""
    signed: bool
    """Whether it was signed; then it still must be."""
    gate: GateFacts | None = None
    without_gate: str | None = None
    served: bool = False
    """Whether it served before; then it has passed the gate already."""


def requirements(
    registry: Registry, version: str, entries: Sequence[PromotionEntry], without_gate: str | None
) -> Requirements:
    """What the package of a version must be, from the history and from MLflow."""
    if (served := served_before(entries, version)) is not None:
        return served
    tags = registry.noted(version)
    return Requirements(
        tags.get("package_sha256"), "signed_by" in tags, without_gate=(without_gate or "").strip() or None
    )


def served_before(entries: Sequence[PromotionEntry], version: str) -> Requirements | None:
    """What the package was when the version was last promoted; None when it never was."""
    facts = [entry.facts for entry in entries if entry.act == "promoted" and entry.version == version]
    if not facts:
        return None
    last = facts[-1]
    return Requirements(last.package, last.signed_by is not None, last.gate, last.without_gate, served=True)


def inspect(registry: Registry, version: str, wanted: Requirements, *, accepts_synthetic: bool) -> Facts:
    """Fetch the package of a version and prove that it may serve; one of an earlier release is signed now.

    Returns what the history says of it. Raises PromotionRefused for a version that may not serve here, and PackageError
    for a package that is not the registered one, or does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="lungline-") as temporary:
        package = registry.fetch(version, Path(temporary) / version)
        signer = _require_package(registry, package, wanted, version)
        if package.card.synthetic and not accepts_synthetic:
            raise PromotionRefused(
                f"Version {version} was trained on drawn phantoms, so it may serve on a laptop only."
            )
        wanted = _require_gate(registry, package, wanted, version)
        if not (wanted.served or wanted.without_gate):
            require_shadow(registry.storage, registry.settings, package, version)
        prove(package)
        if signer is None:
            signer = registry.sign(package, version)
    return _facts(package, wanted, signer)


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


def _require_package(registry: Registry, package: Package, wanted: Requirements, version: str) -> PublicKey | None:
    """The key that signed a package; raises PackageError when it is not the one that was noted."""
    if wanted.sha256 not in (None, package.sha256):
        raise PackageError(f"The package of version {version} is not the one that was registered.")
    signer = registry.signer_of(package)
    if signer is None and wanted.signed:
        raise PackageError(f"The package of version {version} was signed, and its signature is gone.")
    return signer


def _require_gate(registry: Registry, package: Package, wanted: Requirements, version: str) -> Requirements:
    """Raise PromotionRefused for a version that did not pass the gate, unless a person said why it may serve."""
    gate = wanted.gate or (None if wanted.served else registry.gate_of(package))
    if wanted.served or wanted.without_gate or (gate and gate.passed):
        return replace(wanted, gate=gate)
    fault = f"did not pass the gate ({gate.sentence})" if gate else "has no verdict of the gate"
    raise PromotionRefused(
        f"Version {version} {fault}. `--without-gate REASON` lets it serve; the reason stands in the history."
    )


def _facts(package: Package, wanted: Requirements, signer: PublicKey) -> Facts:
    card = package.card
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
