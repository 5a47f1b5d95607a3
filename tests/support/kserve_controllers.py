"""KServe and Knative as a promotion sees them: what they make of an InferenceService, and when.

Statuses have the fields, reasons and severities of KServe 0.20 in Knative mode (a status of a real service stands in
kserve/kserve#5458). As there, `observedGeneration` is the Knative Service's, a revision takes over the previous one's
failure for a moment, and traffic stays on the last ready revision.
"""

import json
import time
from dataclasses import dataclass, field
from typing import Any, Literal

Object = dict[str, Any]
Play = Literal["ready", "failing", "crashing", "refused", "stuck"]
"""What becomes of a pod: ready, its model cannot be fetched, it crashes, Pod Security refuses it, nothing."""
STAMP = "2026-11-21T00:00:00Z"
PODS = (
    'pods "x" is forbidden: violates PodSecurity "restricted:v1.34": seccompProfile (container "storage-initializer")'
)
FAILURES = {
    "crashing": ("ExitCode137", "Container failed with: out of memory"),
    "refused": ("FailedCreate", PODS),
}
LOAD_FAILURE = {"reason": "ModelLoadFailed", "message": "No objects found in s3://lungline-models", "exitCode": 1}
DEPENDENTS = ("PredictorReady", "IngressReady", "Ready")


@dataclass
class PlayedRevision:
    """A Knative revision; `ready_at` is a moment of the monotonic clock."""

    name: str
    number: int
    annotations: Object
    uri: str | None
    plays: Play
    ready_at: float

    @property
    def state(self) -> Literal["True", "False", "Unknown"]:
        """The status of its condition Ready."""
        if self.uri is None or self.plays in FAILURES:
            return "False"
        return "True" if self.plays == "ready" and time.monotonic() >= self.ready_at else "Unknown"

    def failure(self) -> tuple[str, str]:
        """Reason and message of its condition Ready."""
        return FAILURES.get(self.plays, ("ProgressDeadlineExceeded", "Initial scale was never achieved"))

    def resource(self) -> Object:
        """The Revision, as the API lists it."""
        stamp = f"2026-11-21T00:{self.number // 60:02}:{self.number % 60:02}Z"
        metadata = {"name": self.name, "annotations": self.annotations, "creationTimestamp": stamp}
        inactive = _condition("Active", "False", "NoTraffic", "The target is not receiving traffic.") | {
            "severity": "Info"
        }
        ready = _condition("Ready", self.state, *(self.failure() if self.state == "False" else ("Deploying",)))
        return {"metadata": metadata, "status": {"conditions": [inactive, ready]}}


@dataclass
class Controllers:
    """The controllers of one InferenceService; `reconcile` writes its status when they run.

    `starts` is how long the pods of new revisions take, `reacts` how long the controllers take to act on a change, and
    `stale` how long the previous revision's failure stays in the status, `stale_load` how long that to load its model
    does; all in seconds.
    """

    runs: bool = True
    plays: Play = "ready"
    starts: float = 0.0
    reacts: float = 0.0
    stale: float = 0.05
    stale_load: float = 0.0
    revisions: list[PlayedRevision] = field(default_factory=list)
    _generation: int = 0
    _template: str = ""
    _canary: int | None = None
    _rolled_out: str | None = None
    _changed_at: float = 0.0
    _pending: tuple[str, float] = ("", 0.0)
    _was_failed: bool = False
    _had_load_failure: bool = False

    def reconcile(self, service: Object) -> None:
        """Act on the specification, then write the status."""
        if not self.runs:
            return
        if self._is_due(service):
            if service["metadata"].get("annotations", {}).get("serving.kserve.io/stop") == "true":
                self._stop(service)
                return
            self._update_knative(service)
        if self.revisions:
            service["status"] = self._status()

    def forget(self) -> None:
        """Knative collects the revisions of a service that is deleted."""
        self.revisions.clear()
        self._generation, self._template, self._rolled_out = 0, "", None

    def _stop(self, service: Object) -> None:
        """Delete the Knative service with its revisions, and clear the status; so KServe's predictor.go."""
        self.forget()
        off = [_condition(kind, "False", "Stopped") for kind in DEPENDENTS]
        service["status"] = {"deploymentMode": "Knative", "conditions": [*off, _condition("Stopped", "True")]}

    def _is_due(self, service: Object) -> bool:
        wish = json.dumps([service["spec"], service["metadata"].get("annotations")], sort_keys=True)
        if self._pending[0] != wish:
            self._pending = (wish, time.monotonic() + self.reacts)
        return time.monotonic() >= self._pending[1]

    def _update_knative(self, service: Object) -> None:
        predictor = dict(service["spec"]["predictor"])
        canary = predictor.pop("canaryTrafficPercent", None) if self._rolled_out else None
        predictor.pop("canaryTrafficPercent", None)
        annotations = dict(service["metadata"].get("annotations", {}))
        template = json.dumps([predictor, annotations], sort_keys=True)
        if (template, canary) == (self._template, self._canary):
            return
        self._generation += 1
        self._canary = canary
        if template != self._template:
            self._template = template
            self._was_failed = bool(self.revisions) and self.revisions[-1].state == "False"
            self._had_load_failure = self._repeats() or (bool(self.revisions) and self.revisions[-1].plays == "failing")
            self._changed_at = time.monotonic()
            number = max((revision.number for revision in self.revisions), default=0) + 1
            name = f"{service['metadata']['name']}-predictor-{number:05}"
            uri = predictor.get("model", {}).get("storageUri")
            ready_at = self._changed_at + self.starts
            self.revisions.append(PlayedRevision(name, number, annotations, uri, self.plays, ready_at))

    def _status(self) -> Object:
        newest = self.revisions[-1]
        ready = next((revision for revision in reversed(self.revisions) if revision.state == "True"), None)
        traffic = self._traffic(ready.name) if ready else []
        if ready and traffic[0]["percent"] == 100:
            self._rolled_out = ready.name
        configuration = _condition("", newest.state)
        if newest.state == "False":
            message = f'Revision "{newest.name}" failed with message: {newest.failure()[1]}.'
            configuration = _condition("", "False", "RevisionFailed", message)
        route = self._route(newest, ready)
        whole = min(configuration, route, key=lambda condition: ("False", "Unknown", "True").index(condition["status"]))
        predictor: Object = {"latestCreatedRevision": newest.name, "traffic": traffic}
        if ready:
            predictor |= {"latestReadyRevision": ready.name, "latestRolledoutRevision": self._rolled_out or ready.name}
        return {
            "observedGeneration": self._generation,
            "deploymentMode": "Knative",
            "components": {"predictor": predictor},
            "conditions": _conditions(whole, configuration, route),
            "modelStatus": self._model_status(newest, whole),
        }

    def _traffic(self, ready: str) -> list[Object]:
        canary = self._canary
        traffic: list[Object] = [
            {"revisionName": ready, "latestRevision": True, "percent": 100 if canary is None else canary}
        ]
        if canary is not None and canary < 100:
            previous = {"revisionName": self._rolled_out, "latestRevision": False, "percent": 100 - canary}
            traffic.append(previous | {"tag": "prev"})
        return traffic

    def _route(self, newest: PlayedRevision, ready: PlayedRevision | None) -> Object:
        if ready:
            return _condition("", "True")
        stale = self._was_failed and time.monotonic() < self._changed_at + self.stale
        if stale or newest.state == "False":
            message = f'Configuration "{newest.name.rpartition("-")[0]}" does not have any ready Revision.'
            return _condition("", "False", "RevisionMissing", message)
        return _condition("", "Unknown", "RevisionMissing")

    def _model_status(self, newest: PlayedRevision, whole: Object) -> Object:
        if (newest.plays == "failing" and newest.uri) or self._repeats():
            return _model("BlockedByFailedLoad", "FailedToLoad") | {"lastFailureInfo": LOAD_FAILURE}
        if newest.state == "True":
            return _model("UpToDate", "Loaded")
        # Without a pod, KServe takes any False condition for a failure to load, also the previous revision's.
        return _model("BlockedByFailedLoad", "FailedToLoad") if whole["status"] == "False" else _model()

    def _repeats(self) -> bool:
        return self._had_load_failure and time.monotonic() < self._changed_at + self.stale_load


def _conditions(whole: Object, configuration: Object, route: Object) -> list[Object]:
    ingress = whole if whole["status"] == "True" else _condition("", whole["status"], "Predictor ingress not created")
    named = {
        "IngressReady": ingress,
        "LatestDeploymentReady": configuration,
        "PredictorConfigurationReady": configuration,
        "PredictorReady": whole,
        "PredictorRouteReady": route,
        "Ready": whole,
        "RoutesReady": route,
        "Stopped": _condition("", "False"),
    }
    return [
        condition | {"type": kind} | ({} if kind in DEPENDENTS else {"severity": "Info"})
        for kind, condition in named.items()
    ]


def _condition(kind: str, status: str, reason: str = "", message: str = "") -> Object:
    condition = {"type": kind, "status": status, "lastTransitionTime": STAMP}
    return condition | ({"reason": reason} if reason else {}) | ({"message": message} if message else {})


def _model(transition: str = "InProgress", target: str = "Pending") -> Object:
    states = {"activeModelState": "Loaded" if target == "Loaded" else "", "targetModelState": target}
    return {"transitionStatus": transition, "states": states}
