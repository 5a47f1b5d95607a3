"""The status of an InferenceService, its revisions and its pods."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from lungline.deployment.kubernetes_api import Json

VERSION = "lungline.org/version"
"""Annotation of an InferenceService; KServe and Knative copy it to the revision."""


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """The status of an InferenceService, as a promotion needs it."""

    ready: bool
    shares: dict[str | None, int]
    """Percent of the requests by version; the key None is a revision without a model."""
    failed: str | None = None
    """Why the newest revision will never be ready."""
    doubt: str | None = None
    """Why it may never be ready: a condition with status False."""

    def serves(self, version: str, share: int) -> bool:
        """Whether a version is ready and gets this percentage; for 0, whether other versions get all requests."""
        if share == 0:
            return sum(self.shares.values()) == 100 and not self.shares.get(version)
        return self.ready and self.shares.get(version, 0) == share

    def sentence(self, version: str) -> str:
        """The progress of a version's rollout."""
        others = [f"version {name} {share} %" for name, share in self.shares.items() if name not in (None, version)]
        beside = f" beside {', '.join(others)}" if others else ""
        return f"Version {version} takes {self.shares.get(version, 0)} % of the requests{beside}."


def status_of(service: Json, versions: dict[str, str | None]) -> RolloutStatus:
    """The status of an InferenceService; `versions` are the versions of its revisions by revision name."""
    status = part(service, "status")
    if int(status.get("observedGeneration") or 0) < int(part(service, "metadata").get("generation") or 0):
        return RolloutStatus(ready=False, shares={})
    shares: dict[str | None, int] = {}
    for target in parts(part(status, "components", "predictor"), "traffic"):
        version = versions.get(str(target.get("revisionName")))
        shares[version] = shares.get(version, 0) + int(target.get("percent") or 0)
    conditions = {str(condition["type"]): condition for condition in parts(status, "conditions")}
    ready = part(conditions, "Ready").get("status") == "True"
    return RolloutStatus(ready, shares, _failure(status), None if ready else _doubt(conditions))


def troubles(pod: Json) -> Iterator[str]:
    """Why the containers of a pod do not run, one sentence each."""
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in parts(part(pod, "status"), kind):
            state = part(container, "state")
            current = part(state, "waiting") or part(state, "terminated")
            ended = part(container, "lastState", "terminated")
            reason = current.get("reason")
            if reason and reason not in {"PodInitializing", "ContainerCreating", "Completed"}:
                yield _words(f"Container {container['name']}", reason, current.get("message") or ended.get("message"))


def uri_of(service: Json) -> str | None:
    """The storage URI of an InferenceService's model."""
    return part(service, "spec", "predictor", "model").get("storageUri")


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


def _failure(status: Json) -> str | None:
    """Why KServe has given up on the newest model."""
    model = part(status, "modelStatus")
    if model.get("transitionStatus") not in {"BlockedByFailedLoad", "InvalidSpec"}:
        return None
    info = part(model, "lastFailureInfo")
    return _words(info.get("reason") or model["transitionStatus"], info.get("message"))


def _doubt(conditions: dict[str, Json]) -> str | None:
    for kind, condition in conditions.items():
        if kind != "Ready" and condition.get("status") == "False":
            return _words(kind, condition.get("reason"), condition.get("message"))
    return None


def _words(*words: Any) -> str:
    return ": ".join(str(word).strip() for word in words if word).rstrip(".") + "."
