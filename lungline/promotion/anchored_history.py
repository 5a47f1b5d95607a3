"""The promotion history with its anchors, before anything is changed: proven, or accepted where something is lost."""

from dataclasses import replace

from lungline.deployment.base import Deployment
from lungline.errors import PromotionRefused
from lungline.registry.verification import Anchor, VerifiedHistory
from lungline.registry.versions import Registry
from lungline.settings import Settings

PLACE = "the place where the champion serves"
"""The second anchor of the history: in the home folder, or in the InferenceService."""


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


def accept(*, by: str, reason: str, settings: Settings, deployment: Deployment) -> VerifiedHistory:
    """Accept the history as it is where something was lost: an anchor, or the public key of older entries.

    Writes an entry that says who and why, and anchors it. Raises PromotionRefused when nothing is lost, RegistryError
    when the history does not verify.
    """
    require_person(by, reason)
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


def require_person(by: str, reason: str) -> None:
    """Raise PromotionRefused for a change that does not say who made it, and why."""
    for what, value in (("by whom", by), ("why", reason)):
        if not value.strip():
            raise PromotionRefused(f"A change of the champion says {what}; nothing was given.")
