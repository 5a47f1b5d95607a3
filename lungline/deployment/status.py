"""What an InferenceService, its revisions and its pods say of themselves."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from lungline.deployment.kubernetes_api import Json

VERSION = "lungline.org/version"
"""Annotation of an InferenceService, which KServe and Knative hand on to the revision that it makes."""


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """What an InferenceService says of itself, as far as a promotion cares."""

    ready: bool
    shares: dict[str | None, int]
    """Percent of the requests by version; None is a revision without a model."""
    failed: str | None = None
    """Why the newest revision will never be ready."""
    doubt: str | None = None
    """Why it may not be; a condition that says False."""

    def gives(self, version: str, share: int) -> bool:
        """Whether a version takes this share, and is ready for it; with 0, whether others take everything."""
        if share == 0:
            return sum(self.shares.values()) == 100 and not self.shares.get(version)
        return self.ready and self.shares.get(version, 0) == share

    def sentence(self, version: str) -> str:
        """How far a version has come."""
        others = [f"version {one} {share} %" for one, share in self.shares.items() if one not in (None, version)]
        beside = f" beside {', '.join(others)}" if others else ""
        return f"Version {version} takes {self.shares.get(version, 0)} % of the requests{beside}."


def status_of(found: Json, versions: dict[str, str | None]) -> RolloutStatus:
    """The standing of an InferenceService whose revisions have these versions."""
    status = part(found, "status")
    if int(status.get("observedGeneration") or 0) < int(part(found, "metadata").get("generation") or 0):
        return RolloutStatus(ready=False, shares={})
    shares: dict[str | None, int] = {}
    for target in parts(part(status, "components", "predictor"), "traffic"):
        version = versions.get(str(target.get("revisionName")))
        shares[version] = shares.get(version, 0) + int(target.get("percent") or 0)
    conditions = {str(one["type"]): one for one in parts(status, "conditions")}
    ready = part(conditions, "Ready").get("status") == "True"
    return RolloutStatus(ready, shares, _failure(status), None if ready else _doubt(conditions))


def troubles(pod: Json) -> Iterator[str]:
    """What keeps the containers of a pod from running, a sentence each."""
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in parts(part(pod, "status"), kind):
            state = part(container, "state")
            said = part(state, "waiting") or part(state, "terminated")
            ended = part(container, "lastState", "terminated")
            reason = said.get("reason")
            if reason and reason not in {"PodInitializing", "ContainerCreating", "Completed"}:
                yield _words(f"Container {container['name']}", reason, said.get("message") or ended.get("message"))


def uri_of(found: Json) -> str | None:
    """The package that an InferenceService is told to serve."""
    return part(found, "spec", "predictor", "model").get("storageUri")


def version_of(found: Json) -> str | None:
    """The version that an InferenceService or a revision has."""
    return part(found, "metadata", "annotations").get(VERSION)


def name(found: Json) -> str:
    """The name of an object."""
    return str(part(found, "metadata")["name"])


def made(found: Json) -> str:
    """When an object was made, in a form that sorts."""
    return str(part(found, "metadata").get("creationTimestamp") or "")


def part(value: Json, *names: str) -> Json:
    """What lies at the end of a way of names; empty where the way ends, for a status is filled bit by bit."""
    for one in names:
        value = cast("Json", value.get(one) or {})
    return value


def parts(value: Json, one: str) -> list[Json]:
    """A list of objects; empty where there is none."""
    return cast("list[Json]", value.get(one) or [])


def _failure(status: Json) -> str | None:
    """Why KServe has given up on the newest model."""
    model = part(status, "modelStatus")
    if model.get("transitionStatus") not in {"BlockedByFailedLoad", "InvalidSpec"}:
        return None
    info = part(model, "lastFailureInfo")
    return _words(info.get("reason") or model["transitionStatus"], info.get("message"))


def _doubt(conditions: dict[str, Json]) -> str | None:
    for kind, one in conditions.items():
        if kind != "Ready" and one.get("status") == "False":
            return _words(kind, one.get("reason"), one.get("message"))
    return None


def _words(*words: Any) -> str:
    return ": ".join(str(word).strip() for word in words if word).rstrip(".") + "."
