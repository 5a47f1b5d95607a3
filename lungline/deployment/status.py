"""The status of an InferenceService, its revisions and its pods."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from lungline.deployment.kubernetes_api import Json

VERSION = "lungline.org/version"
"""Annotation of an InferenceService; KServe and Knative copy it to the revision."""
FORMER_SECONDS = 60.0
"""For how long KServe may repeat a former failure: it looks at the pods of a revision once they exist."""


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision of the predictor: one model with one configuration."""

    name: str
    version: str | None
    """None for a revision without a model."""
    starting: bool = False
    """Knative does not know yet whether it will be ready."""
    failure: str | None = None
    """Why it is not ready, in Knative's words; it may recover."""


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """The status of an InferenceService, as a promotion needs it."""

    ready: bool
    shares: dict[str | None, int]
    """Percent of the requests by version; the key None is a revision without a model."""
    newest: str | None = None
    """The version of the newest revision. It is the previous version until KServe has acted on a change."""
    failure: str | None = None
    """Why the newest revision is not ready; it may be passing, or left from the revision before."""
    refusal: str | None = None
    """Why KServe makes no revision of the specification."""

    def serves(self, version: str, share: int) -> bool:
        """Whether a version is ready and gets this percentage, and other versions the rest."""
        whole = sum(self.shares.values()) == 100
        return self.ready and self.newest == version and self.shares.get(version, 0) == share and whole

    def without(self, version: str) -> bool:
        """Whether other versions get all requests."""
        return sum(self.shares.values()) == 100 and not self.shares.get(version)

    def doubt(self, version: str) -> str | None:
        """Why a version may never be ready; None for a failure that belongs to another version's revision."""
        return self.refusal or (self.failure if self.newest == version else None)

    def sentence(self, version: str) -> str:
        """The progress of a version's rollout."""
        others = [
            f"version {name} {share} %" for name, share in self.shares.items() if share and name not in (None, version)
        ]
        beside = f" beside {', '.join(others)}" if others else ""
        waits = "" if self.newest == version else " KServe has not made its revision yet."
        return f"Version {version} takes {self.shares.get(version, 0)} % of the requests{beside}.{waits}"


class FormerFailure:
    """What KServe said of a model that failed before a change; it repeats that until it has looked at the new pods."""

    def __init__(self, service: Json | None, seconds: float = FORMER_SECONDS) -> None:
        self._info = _load_failure(service) if service else {}
        self._until = time.monotonic() + seconds

    def is_repeated(self, service: Json) -> bool:
        """Whether KServe still says the same; once it has said anything else, or for long, it is a new failure."""
        if _load_failure(service) != self._info or time.monotonic() > self._until:
            self._info = {}
        return bool(self._info)


def status_of(service: Json, revisions: dict[str, Revision], former: FormerFailure | None = None) -> RolloutStatus:
    """The status of an InferenceService; `revisions` are the predictor's by name.

    A failure that was there before a change, `former`, is none of the new revision.

    Nothing is concluded from `observedGeneration`: KServe copies it from the Knative Service, which counts its own
    changes. The version in the newest revision's annotation says what the status is about.
    """
    predictor = part(service, "status", "components", "predictor")
    shares: dict[str | None, int] = {}
    for target in parts(predictor, "traffic"):
        revision = revisions.get(str(target.get("revisionName")))
        version = revision.version if revision else None
        shares[version] = shares.get(version, 0) + int(target.get("percent") or 0)
    newest = revisions.get(str(predictor.get("latestCreatedRevision")))
    ready = conditions_of(service).get("Ready", {}).get("status") == "True"
    return RolloutStatus(
        ready,
        shares,
        newest.version if newest else None,
        None if ready else _failure(service, newest, has_former=former is not None and former.is_repeated(service)),
        None if ready else _refusal(service),
    )


def revision_of(resource: Json) -> Revision:
    """A Knative Revision of the API."""
    starting = conditions_of(resource).get("Ready", {}).get("status") not in {"True", "False"}
    return Revision(name_of(resource), version_of(resource), starting, failed(resource, "Ready"))


def troubles(pod: Json) -> Iterator[str]:
    """Why a pod or its containers do not run, one sentence each."""
    unscheduled = conditions_of(pod).get("PodScheduled", {})
    if unscheduled.get("status") == "False":
        yield _words("The pod finds no node", unscheduled.get("reason"), unscheduled.get("message"))
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in parts(part(pod, "status"), kind):
            state = part(container, "state")
            current = part(state, "waiting") or part(state, "terminated")
            ended = part(container, "lastState", "terminated")
            reason = current.get("reason")
            if reason and reason not in {"PodInitializing", "ContainerCreating", "Completed"}:
                yield _words(f"Container {container['name']}", reason, current.get("message") or ended.get("message"))


def conditions_of(resource: Json) -> dict[str, Json]:
    """The conditions in a resource's status by type."""
    return {str(condition["type"]): condition for condition in parts(part(resource, "status"), "conditions")}


def failed(resource: Json, kind: str) -> str | None:
    """What a condition says when it is False; None when it is not, or when it only informs.

    Knative and KServe give a condition on which readiness does not depend a severity, Info or Warning. It is False in
    healthy objects too: `Stopped`, for one, in every InferenceService that runs.
    """
    condition = conditions_of(resource).get(kind, {})
    if condition.get("status") != "False" or condition.get("severity") in {"Info", "Warning"}:
        return None
    return _words(condition.get("reason") or kind, condition.get("message"))


def version_of(resource: Json) -> str | None:
    """The version in the annotation of an InferenceService or a revision."""
    return part(resource, "metadata", "annotations").get(VERSION)


def name_of(resource: Json) -> str:
    """The name of a Kubernetes object."""
    return str(part(resource, "metadata")["name"])


def created_at(resource: Json) -> str:
    """The creation time of a Kubernetes object, as text that sorts."""
    return str(part(resource, "metadata").get("creationTimestamp") or "")


def part(value: Json, *names: str) -> Json:
    """The object at a path of names; empty when a name is missing, because a status is filled step by step."""
    for name in names:
        value = cast("Json", value.get(name) or {})
    return value


def parts(value: Json, name: str) -> list[Json]:
    """The list of objects under a name; empty when it is missing."""
    return cast("list[Json]", value.get(name) or [])


def _load_failure(service: Json) -> Json:
    """What KServe says of a model that was not loaded; empty where it was, or where it says no reason."""
    model = part(service, "status", "modelStatus")
    return part(model, "lastFailureInfo") if model.get("transitionStatus") == "BlockedByFailedLoad" else {}


def _failure(service: Json, newest: Revision | None, *, has_former: bool) -> str | None:
    """Why the newest revision is not ready: what KServe says of its model, Knative of it, or of the way to it."""
    info = {} if has_former else _load_failure(service)
    blocked = not has_former and part(service, "status", "modelStatus").get("transitionStatus") == "BlockedByFailedLoad"
    if info:
        return _words(info.get("reason") or "BlockedByFailedLoad", info.get("message"))
    if newest is None or newest.starting:
        # The conditions of the whole are the previous revision's for a while.
        return None
    reason = newest.failure or failed(service, "PredictorReady") or failed(service, "IngressReady")
    return reason or ("BlockedByFailedLoad." if blocked else None)


def _refusal(service: Json) -> str | None:
    model, conditions = part(service, "status", "modelStatus"), conditions_of(service)
    if conditions.get("Stopped", {}).get("status") == "True":
        return "the InferenceService is stopped by its annotation serving.kserve.io/stop."
    if model.get("transitionStatus") == "InvalidSpec":
        info = part(model, "lastFailureInfo")
        return _words(info.get("reason") or "InvalidSpec", info.get("message"))
    if conditions.get("PredictorReady", {}).get("reason") == "ReconcileFailed":
        return failed(service, "PredictorReady")
    return None


def _words(*words: Any) -> str:
    return ": ".join(str(word).strip() for word in words if word).rstrip(".") + "."
