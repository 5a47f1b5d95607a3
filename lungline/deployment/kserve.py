"""Deployment on a cluster: a KServe InferenceService, changed by server-side apply.

manifests/base/inference/inference_service.yaml defines it and belongs to the platform team. A promotion owns five
fields: `spec.predictor.model.storageUri`, the package's digest in `spec.predictor.model.env`,
`spec.predictor.canaryTrafficPercent`, and the annotations with the version and the history's anchor.
Applying the manifests again, by hand or with Argo CD, leaves these as they are; a promotion leaves everything else.

The version of a revision is read from the revision itself, to which KServe copies the annotation. So the status of the
previous revision is never taken for that of the new one.
"""

import contextlib
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Self, TypeVar

from lungline.deployment.inference_service import ModelFields, render
from lungline.deployment.kubernetes_api import CALL_SECONDS, ClusterUnavailable, Json, KubernetesApi
from lungline.deployment.release import Release
from lungline.deployment.status import (
    FormerFailure,
    Revision,
    RolloutStatus,
    created_at,
    name_of,
    part,
    parts,
    revision_of,
    status_of,
    troubles,
)
from lungline.errors import LunglineError, ModelNotReady, PackageError, PromotionConflict
from lungline.settings import Settings

NAMESPACE = "lungline"
MANAGER, INSTALLER = "lungline-promotion", "lungline-install"
READY_SECONDS = 240
"""Longer than Knative's own limit in the manifest (200 s), so that Knative reports the cause first."""
POLL_SECONDS = 1.0
FAILED_SECONDS = 15
"""How long a failure must last: a new revision shows the previous one's for a moment, and its own while it starts."""
PATIENCE_SECONDS = 30
"""How long a change is tried again while the API server is away: it restarts when a control plane is upgraded."""
LONGEST_SECONDS = READY_SECONDS + 3 * PATIENCE_SECONDS + 8 * CALL_SECONDS
"""The longest that a change takes, with its revert; shorter than a promotion's lease."""

T = TypeVar("T")


class ClusterDeployment:
    """The InferenceService of the model; implements `lungline.deployment.Deployment`.

    Every call raises ClusterUnavailable and ClusterRefused. `on_progress` is called with a sentence on every change.
    """

    accepts_synthetic: bool = False

    def __init__(
        self,
        api: KubernetesApi,
        model_name: str,
        namespace: str = NAMESPACE,
        *,
        on_progress: Callable[[str], None] = lambda _: None,
        poll_seconds: float = POLL_SECONDS,
        ready_seconds: float = READY_SECONDS,
        failed_seconds: float = FAILED_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._api = api
        self._name = model_name
        self._namespace = namespace
        self._on_progress = on_progress
        self._poll = poll_seconds
        self._ready_seconds = ready_seconds
        self._failed_seconds = failed_seconds
        self._patience = patience_seconds
        self._path = f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices/{model_name}"

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        on_progress: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """The deployment of the settings' model, on this process's cluster or kubectl's."""
        api = KubernetesApi.connect(settings.kube_context)
        return cls(api, settings.model_name, on_progress=on_progress, poll_seconds=POLL_SECONDS)

    def deploy(self, package_uri: str, version: str, release: Release | None = None) -> str:
        """Route all requests to a package and wait until they are; completes a canary of the same version.

        Raises ModelNotReady with the reason, and PromotionConflict when somebody else changes the InferenceService
        meanwhile; the previous version, or the other's, then serves.
        """
        self._change(self._fields(package_uri, version, None, release), share=100)
        return f"Version {version} serves as {self._namespace}/{self._name}."

    def try_out(self, package_uri: str, version: str, percent: int, release: Release | None = None) -> str:
        """Route a percentage of the requests to a package. Raises like `deploy`."""
        if not 0 < percent < 100:
            raise PackageError(f"A canary takes 1 to 99 percent of the requests, not {percent}.")
        if self.serving() in (None, version):
            raise PackageError(f"No other version is in service, so version {version} cannot be a canary.")
        self._change(self._fields(package_uri, version, percent, release), share=percent)
        return f"Version {version} takes {percent} % of the requests of {self._namespace}/{self._name}."

    def _fields(self, package_uri: str, version: str, percent: int | None, release: Release | None) -> ModelFields:
        if release is None:
            return ModelFields(package_uri, version, percent)
        before = ModelFields.of(self._service())
        # The anchor may be behind; a new one would start the pods of a version that serves already once more.
        same = before.anchor and (before.uri, before.version, before.sha256) == (package_uri, version, release.sha256)
        return ModelFields(
            package_uri, version, percent, release.sha256, before.anchor if same else release.anchor or None
        )

    def intact(self, version: str, sha256: str) -> bool:
        """Whether a version serves; its package is fetched again whenever a pod starts."""
        fields = ModelFields.of(self._service())
        return self.serving() == version and (fields.version != version or fields.sha256 in (None, sha256))

    def anchor(self) -> str | None:
        """The entry of the promotion history that the InferenceService remembers."""
        return ModelFields.of(self._service()).anchor

    def keep_anchor(self, anchor: str) -> None:
        """Nothing: a change of the InferenceService would start its pods anew, so `deploy` writes the anchor."""

    def withdraw(self) -> str:
        """Route no requests to the canary; immediate, as the previous revision still runs. Raises ModelNotReady."""
        service = self._patiently(self._service)
        fields = ModelFields.of(service)
        version = fields.version
        if service is None or version is None or not 0 < (fields.canary or 0) < 100:
            raise PackageError(f"No canary of {self._name} is out; nothing was changed.")
        withdrawn = replace(fields, canary=0)
        self._patiently(lambda: self._apply(service, withdrawn))
        # Not waiting for readiness: a failing canary must go too.
        self._await(withdrawn, version, None, time.monotonic() + self._ready_seconds, FormerFailure(service))
        return f"Version {version} takes no more requests; version {self._patiently(self.serving)} serves."

    def arguments(self) -> tuple[str, ...]:
        """What the InferenceService adds to its predictor's command line; nothing where there is none."""
        return tuple(part(self._service() or {}, "spec", "predictor", "model").get("args") or ())

    def serving(self) -> str | None:
        """The version that gets most of the requests; None when there is none."""
        service = self._service()
        shares = self._status(service).shares if service else {}
        return next((version for version, share in shares.items() if version and share >= 50), None)

    def canary(self) -> tuple[str, int] | None:
        """The canary's version and percentage; None when there is none."""
        fields = ModelFields.of(self._service())
        share = fields.canary or 0
        return (fields.version, share) if fields.version and 0 < share < 100 else None

    def revisions(self) -> dict[str, str]:
        """Names of the revisions by version; the newest where several have the same version."""
        return {revision.version: name for name, revision in self._revisions().items() if revision.version}

    def _change(self, wanted: ModelFields, share: int) -> None:
        before = service = self._service()
        if service is None:
            # The manifests were not applied yet, or somebody deleted the object: create it from the manifest.
            service = self._api.apply(self._path, render(self._name, self._namespace), INSTALLER)
        deadline = time.monotonic() + self._ready_seconds
        steps = _steps(ModelFields.of(before), wanted)
        former = FormerFailure(before)
        try:
            for step in steps:
                self._patiently(lambda step=step: self._apply(service, step))
                self._await(step, str(wanted.version), share if step == wanted else 0, deadline, former)
        except BaseException as exc:
            # Also for Ctrl-C. Knative keeps the old revision serving; the specification must name it too.
            unreverted = self._revert(steps, ModelFields.of(before))
            if unreverted and isinstance(exc, ModelNotReady):
                raise ModelNotReady(f"{exc} {unreverted}") from exc
            raise

    def _revert(self, steps: list[ModelFields], before: ModelFields) -> str | None:
        """Restore the fields of a promotion, unless somebody else has changed them; why not, where that fails."""
        try:
            service = self._patiently(self._service)
            if service and ModelFields.of(service) in steps:
                self._patiently(lambda: self._apply(service, before))
        except LunglineError as exc:
            cure = f"`lungline promote {before.version}`" if before.version else "a later promotion"
            return f"The InferenceService still names {steps[-1]}, which {cure} undoes: {exc}"
        return None

    def _apply(self, service: Json, fields: ModelFields) -> None:
        document = fields.document(self._name, self._namespace, part(service, "metadata")["uid"])
        self._api.apply(self._path, document, MANAGER)

    def _await(
        self, wanted: ModelFields, version: str, share: int | None, deadline: float, former: FormerFailure
    ) -> None:
        """Wait until a version is ready and has a share; None waits until it has lost its own, ready or not."""
        doubtful_since: float | None = None
        last = ""
        while True:
            status, sentence = self._look(wanted, version, former)
            if status and (status.without(version) if share is None else status.serves(version, share)):
                return
            now = time.monotonic()
            doubt = status.doubt(version) if status and share is not None else None
            doubtful_since = (doubtful_since or now) if doubt else None
            if doubtful_since and now - doubtful_since > self._failed_seconds:
                raise ModelNotReady(f"Version {version} does not come up: {doubt}{self._trouble()}")
            if now > deadline:
                raise ModelNotReady(f"Not within {self._ready_seconds:.0f} s: {sentence}{self._trouble()}")
            if sentence != last:
                self._on_progress(sentence)
            last = sentence
            time.sleep(self._poll)

    def _look(self, wanted: ModelFields, version: str, former: FormerFailure) -> tuple[RolloutStatus | None, str]:
        """The status now and a sentence about it; no status while the API server is away.

        Raises PromotionConflict when the specification is no longer the one of this change.
        """
        try:
            service = self._service()
            status = self._status(service, former) if service else None
        except ClusterUnavailable as exc:
            return None, str(exc)
        if service is None or status is None or part(service, "metadata").get("deletionTimestamp"):
            raise PromotionConflict("Somebody deleted the InferenceService meanwhile.")
        if (current := ModelFields.of(service)) != wanted:
            raise PromotionConflict(f"Somebody else changed the InferenceService meanwhile: it names {current} now.")
        return status, status.sentence(version)

    def _service(self) -> Json | None:
        return self._api.get(self._path)

    def _status(self, service: Json, former: FormerFailure | None = None) -> RolloutStatus:
        return status_of(service, self._revisions(), former)

    def _revisions(self) -> dict[str, Revision]:
        """The predictor's revisions by name, oldest first."""
        resources = self._list(f"/apis/serving.knative.dev/v1/namespaces/{self._namespace}/revisions")
        revisions = {name_of(resource): revision_of(resource) for resource in resources}
        # Not by the beginning alone: the name of another task may begin like this, too.
        ours = re.compile(rf"{re.escape(self._name)}-predictor-\d+")
        return {name: rest for name, rest in revisions.items() if ours.fullmatch(name)}

    def _trouble(self) -> str:
        """Why the newest failing pod does not start, in its own words; empty when no pod reports a problem."""
        # An error here must not hide the one that is raised.
        with contextlib.suppress(LunglineError):
            for pod in reversed(self._list(f"/api/v1/namespaces/{self._namespace}/pods")):
                if part(pod, "metadata", "labels").get("serving.kserve.io/inferenceservice") == self._name:
                    for trouble in troubles(pod):
                        return f" {trouble}"
        return ""

    def _list(self, path: str) -> list[Json]:
        """Objects of a kind, oldest first."""
        return sorted(parts(self._api.get(path) or {}, "items"), key=created_at)

    def _patiently(self, call: Callable[[], T]) -> T:
        """The result of a call that may be repeated, for a while also over an API server that restarts."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return call()
            except ClusterUnavailable:
                if time.monotonic() > deadline:
                    raise
            time.sleep(self._poll)


def _steps(before: ModelFields, wanted: ModelFields) -> list[ModelFields]:
    """What a promotion applies, one after the other.

    After a trial the newest ready revision is the canary's, also when it was withdrawn, and until a new version is
    ready, Knative sends its share to that one. So the new version gets ready without a share first.
    """
    after_trial = before.canary is not None and before.version != wanted.version
    return [replace(wanted, canary=0), wanted] if after_trial else [wanted]
