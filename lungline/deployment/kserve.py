"""Deployment on a cluster: a KServe InferenceService, changed by server-side apply.

manifests/base/inference/inference_service.yaml defines it and belongs to the platform team. A promotion owns three
fields: `spec.predictor.model.storageUri`, `spec.predictor.canaryTrafficPercent`, and the annotation with the version.
Applying the manifests again, by hand or with Argo CD, leaves these as they are; a promotion leaves everything else.

The version of a revision is read from the revision itself, to which KServe copies the annotation. So the status of the
previous revision is never taken for that of the new one.
"""

import contextlib
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import cast

from lungline.deployment.kubernetes_api import ClusterUnavailable, Json, KubernetesApi
from lungline.deployment.status import (
    VERSION,
    RolloutStatus,
    created_at,
    name_of,
    part,
    parts,
    status_of,
    troubles,
    uri_of,
    version_of,
)
from lungline.errors import LunglineError, ModelNotReady, PackageError
from lungline.settings import Settings

NAMESPACE = "lungline"
MANAGER, INSTALLER = "lungline-promotion", "lungline-install"
READY_SECONDS = 240
"""Shorter than a promotion's lease (five minutes), longer than Knative's own limit in the manifest (200 s)."""
POLL_SECONDS = 1.0
FAILED_SECONDS = 15
"""How long a condition must be False: it may be for a moment while a revision starts."""


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
    ) -> None:
        self._api = api
        self._name = model_name
        self._namespace = namespace
        self._on_progress = on_progress
        self._poll = poll_seconds
        self._ready_seconds = ready_seconds
        self._failed_seconds = failed_seconds
        self._path = f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices/{model_name}"

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        on_progress: Callable[[str], None] = lambda _: None,
    ) -> "ClusterDeployment":
        """The deployment of the settings' model, on this process's cluster or kubectl's."""
        api = KubernetesApi.connect(settings.kube_context)
        return cls(api, settings.model_name, on_progress=on_progress, poll_seconds=POLL_SECONDS)

    def deploy(self, package_uri: str, version: str) -> str:
        """Route all requests to a package and wait until they are; completes a canary of the same version.

        Raises ModelNotReady with the reason; the previous version then keeps serving.
        """
        self._change(package_uri, version, canary=None, share=100)
        return f"Version {version} serves as {self._namespace}/{self._name}."

    def try_out(self, package_uri: str, version: str, percent: int) -> str:
        """Route a percentage of the requests to a package. Raises like `deploy`."""
        if not 0 < percent < 100:
            raise PackageError(f"A canary takes 1 to 99 percent of the requests, not {percent}.")
        if self.serving() in (None, version):
            raise PackageError(f"No other version is in service, so version {version} cannot be a canary.")
        self._change(package_uri, version, canary=percent, share=percent)
        return f"Version {version} takes {percent} % of the requests of {self._namespace}/{self._name}."

    def withdraw(self) -> str:
        """Route no requests to the canary; immediate, as the previous revision still runs. Raises ModelNotReady."""
        service = self._service()
        version = version_of(service) if service else None
        if service is None or version is None or self.canary() is None:
            raise PackageError(f"No canary of {self._name} is out; nothing was changed.")
        self._apply(uri_of(service), version, 0)
        self._await(version, share=0)  # not waiting for readiness: a failing canary must go too
        return f"Version {version} takes no more requests; version {self.serving()} serves."

    def serving(self) -> str | None:
        """The version that gets most of the requests; None when there is none."""
        service = self._service()
        shares = self._status(service).shares if service else {}
        return next((version for version, share in shares.items() if version and share >= 50), None)

    def canary(self) -> tuple[str, int] | None:
        """The canary's version and percentage; None when there is none."""
        service = self._service()
        percent = part(service, "spec", "predictor").get("canaryTrafficPercent") if service else None
        version = version_of(service) if service else None
        return (version, int(percent)) if version and percent not in (None, 0, 100) else None

    def revisions(self) -> dict[str, str]:
        """Names of the revisions by version; the newest where several have the same version."""
        return {version: name for name, version in self._versions().items() if version}

    def _change(self, uri: str, version: str, *, canary: int | None, share: int) -> None:
        before = self._service()
        if before is None:
            # The manifests were not applied yet, or somebody deleted the object: create it from the manifest.
            self._api.apply(self._path, render(self._name, self._namespace), INSTALLER)
        self._apply(uri, version, canary)
        try:
            self._await(version, share)
        except BaseException:
            # Also for Ctrl-C. Knative keeps the old revision serving; the specification must name it too.
            with contextlib.suppress(LunglineError):
                percent = part(before or {}, "spec", "predictor").get("canaryTrafficPercent")
                self._apply(uri_of(before or {}), version_of(before or {}), percent)
            raise

    def _apply(self, uri: str | None, version: str | None, canary: int | None) -> None:
        manifest = render(self._name, self._namespace)
        head = {key: manifest[key] for key in ("apiVersion", "kind")}
        metadata: Json = {"name": self._name, "namespace": self._namespace}
        predictor: Json = {}
        if uri is not None:
            predictor["model"] = {
                "modelFormat": manifest["spec"]["predictor"]["model"]["modelFormat"],
                "storageUri": uri,
            }
        if version is not None:
            metadata["annotations"] = {VERSION: version}
        if canary is not None:
            predictor["canaryTrafficPercent"] = canary
        self._api.apply(self._path, {**head, "metadata": metadata, "spec": {"predictor": predictor}}, MANAGER)

    def _await(self, version: str, share: int) -> None:
        deadline = time.monotonic() + self._ready_seconds
        failing_since: float | None = None
        last = ""
        while True:
            status = self._current_status()
            if status.serves(version, share):
                return
            now = time.monotonic()
            failing_since = (failing_since or now) if status.doubt else None
            lasting = status.doubt if failing_since and now - failing_since > self._failed_seconds else None
            if share and (why := status.failed or lasting):
                raise ModelNotReady(f"Version {version} does not come up: {why}{self._trouble()}")
            sentence = status.sentence(version)
            if now > deadline:
                raise ModelNotReady(f"Not within {self._ready_seconds:.0f} s: {sentence}{self._trouble()}")
            if sentence != last:
                self._on_progress(sentence)
            last = sentence
            time.sleep(self._poll)

    def _current_status(self) -> RolloutStatus:
        """The status now; a short outage of the API server does not end a promotion."""
        try:
            service = self._service()
        except ClusterUnavailable as exc:
            return RolloutStatus(ready=False, shares={}, doubt=str(exc))
        if service is None:
            return RolloutStatus(ready=False, shares={}, failed="somebody deleted the InferenceService.")
        return self._status(service)

    def _service(self) -> Json | None:
        return self._api.get(self._path)

    def _status(self, service: Json) -> RolloutStatus:
        return status_of(service, self._versions())

    def _versions(self) -> dict[str, str | None]:
        """The version of each revision, oldest first."""
        revisions = self._list(f"/apis/serving.knative.dev/v1/namespaces/{self._namespace}/revisions")
        versions = {name_of(revision): version_of(revision) for revision in revisions}
        return {name: version for name, version in versions.items() if name.startswith(f"{self._name}-predictor-")}

    def _trouble(self) -> str:
        """Why the newest failing pod does not start, in its own words; empty when no pod reports a problem."""
        with contextlib.suppress(ClusterUnavailable):
            for pod in reversed(self._list(f"/api/v1/namespaces/{self._namespace}/pods")):
                if part(pod, "metadata", "labels").get("serving.kserve.io/inferenceservice") == self._name:
                    for trouble in troubles(pod):
                        return f" {trouble}"
        return ""

    def _list(self, path: str) -> list[Json]:
        """Objects of a kind, oldest first."""
        return sorted(parts(self._api.get(path) or {}, "items"), key=created_at)


def render(model_name: str, namespace: str) -> Json:
    """The InferenceService of the manifests, under a name and in a namespace."""
    manifest = _manifest()
    return {**manifest, "metadata": {**manifest["metadata"], "name": model_name, "namespace": namespace}}


@cache
def _manifest() -> Json:
    import yaml

    folder = Path(__file__).parent
    # Beside this file in an installed wheel, in manifests/ in a checkout.
    for path in (
        folder / "inference_service.yaml",
        folder.parents[1] / "manifests" / "base" / "inference" / "inference_service.yaml",
    ):
        if path.exists():
            return cast("Json", yaml.safe_load(path.read_text(encoding="utf-8")))
    raise PackageError("The manifest of the InferenceService is missing from this installation of Lungline.")
