"""Where a champion serves on a cluster: an InferenceService, changed in two fields by server-side apply.

manifests/base/inference/inference_service.yaml is the whole of it and the platform team's; a promotion owns
`spec.predictor.model.storageUri` and `spec.predictor.canaryTrafficPercent` and the annotation that names the version.
Applying the manifests again, by hand or by Argo CD, leaves these as they are, and a promotion leaves everything else.

Which version a revision has is read from the revision itself: KServe hands the annotation on. So a status that is still
that of the revision before cannot be taken for the new one's.
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
    made,
    name,
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
"""How long a condition must say False: while a revision starts it may say so for a moment."""


class ClusterDeployment:
    """The InferenceService of the model; implements `lungline.deployment.Deployment`.

    Every call raises ClusterUnavailable and ClusterRefused. `on_progress` hears a sentence whenever something changes.
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
        self._tell = on_progress
        self._poll = poll_seconds
        self._patience = ready_seconds
        self._failed_seconds = failed_seconds
        self._path = f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices/{model_name}"

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        on_progress: Callable[[str], None] = lambda _: None,
    ) -> "ClusterDeployment":
        """The deployment of the settings' model on the cluster that this process runs in, or that kubectl talks to."""
        api = KubernetesApi.connect(settings.kube_context)
        return cls(api, settings.model_name, on_progress=on_progress, poll_seconds=POLL_SECONDS)

    def deploy(self, package_uri: str, version: str) -> str:
        """Give all requests to a package and wait until it has them; a canary of the same version is finished.

        Raises ModelNotReady, which says why; the version that served before then goes on serving.
        """
        self._change(package_uri, version, canary=None, share=100)
        return f"Version {version} serves as {self._namespace}/{self._name}."

    def try_out(self, package_uri: str, version: str, percent: int) -> str:
        """Give some of the requests to a package, the rest stays where it is. Raises like `deploy`."""
        if not 0 < percent < 100:
            raise PackageError(f"A canary takes 1 to 99 percent of the requests; {percent} was asked for.")
        if self.serving() in (None, version):
            raise PackageError(f"There is no other version in service beside which version {version} could be tried.")
        self._change(package_uri, version, canary=percent, share=percent)
        return f"Version {version} takes {percent} % of the requests of {self._namespace}/{self._name}."

    def withdraw(self) -> str:
        """Take all requests from a canary, at once: the revision before it still runs. Raises ModelNotReady."""
        found = self._found()
        version = version_of(found) if found else None
        if found is None or version is None or self.canary() is None:
            raise PackageError(f"No canary of {self._name} is out; nothing was changed.")
        self._apply(uri_of(found), version, 0)
        self._await(version, share=0)  # whether it is well or not: a canary that fails must go all the more
        return f"Version {version} takes no requests any more; version {self.serving()} serves."

    def serving(self) -> str | None:
        """The version that takes most of the requests; None when there is none."""
        found = self._found()
        shares = self._standing(found).shares if found else {}
        return next((version for version, share in shares.items() if version and share >= 50), None)

    def canary(self) -> tuple[str, int] | None:
        """The version that is being tried and its percentage; None when there is none."""
        found = self._found()
        percent = part(found, "spec", "predictor").get("canaryTrafficPercent") if found else None
        version = version_of(found) if found else None
        return (version, int(percent)) if version and percent not in (None, 0, 100) else None

    def revisions(self) -> dict[str, str]:
        """Names of the revisions by the version that they have; the newest where several have one."""
        return {version: name for name, version in self._versions().items() if version}

    def _change(self, uri: str, version: str, *, canary: int | None, share: int) -> None:
        before = self._found()
        if before is None:
            # The cluster has no manifests yet, or somebody deleted the object: it is made as the manifests have it.
            self._api.apply(self._path, render(self._name, self._namespace), INSTALLER)
        self._apply(uri, version, canary)
        try:
            self._await(version, share)
        except BaseException:
            # Also for Ctrl-C. Knative keeps the old revision serving by itself; the wish must say so too.
            with contextlib.suppress(LunglineError):
                percent = part(before or {}, "spec", "predictor").get("canaryTrafficPercent")
                self._apply(uri_of(before or {}), version_of(before or {}), percent)
            raise

    def _apply(self, uri: str | None, version: str | None, canary: int | None) -> None:
        whole = render(self._name, self._namespace)
        head = {key: whole[key] for key in ("apiVersion", "kind")}
        metadata: Json = {"name": self._name, "namespace": self._namespace}
        predictor: Json = {}
        if uri is not None:
            predictor["model"] = {"modelFormat": whole["spec"]["predictor"]["model"]["modelFormat"], "storageUri": uri}
        if version is not None:
            metadata["annotations"] = {VERSION: version}
        if canary is not None:
            predictor["canaryTrafficPercent"] = canary
        self._api.apply(self._path, {**head, "metadata": metadata, "spec": {"predictor": predictor}}, MANAGER)

    def _await(self, version: str, share: int) -> None:
        deadline = time.monotonic() + self._patience
        doubted: float | None = None
        said = ""
        while True:
            standing = self._seen()
            if standing.gives(version, share):
                return
            now = time.monotonic()
            doubted = (doubted or now) if standing.doubt else None
            lasting = standing.doubt if doubted is not None and now - doubted > self._failed_seconds else None
            if share and (why := standing.failed or lasting):
                raise ModelNotReady(f"Version {version} does not come up: {why}{self._trouble()}")
            sentence = standing.sentence(version)
            if now > deadline:
                raise ModelNotReady(f"Not within {self._patience:.0f} s: {sentence}{self._trouble()}")
            if sentence != said:
                self._tell(sentence)
            said = sentence
            time.sleep(self._poll)

    def _seen(self) -> RolloutStatus:
        """The standing now; an API server that is away for a moment ends no promotion."""
        try:
            found = self._found()
        except ClusterUnavailable as exc:
            return RolloutStatus(ready=False, shares={}, doubt=str(exc))
        if found is None:
            return RolloutStatus(ready=False, shares={}, failed="somebody deleted the InferenceService.")
        return self._standing(found)

    def _found(self) -> Json | None:
        return self._api.get(self._path)

    def _standing(self, found: Json) -> RolloutStatus:
        return status_of(found, self._versions())

    def _versions(self) -> dict[str, str | None]:
        """The version that each revision has, oldest first."""
        found = self._list(f"/apis/serving.knative.dev/v1/namespaces/{self._namespace}/revisions")
        return {name(one): version_of(one) for one in found if name(one).startswith(f"{self._name}-predictor-")}

    def _trouble(self) -> str:
        """What keeps the newest pod that has trouble from starting, in its own words; empty when none says anything."""
        with contextlib.suppress(ClusterUnavailable):
            for pod in reversed(self._list(f"/api/v1/namespaces/{self._namespace}/pods")):
                if part(pod, "metadata", "labels").get("serving.kserve.io/inferenceservice") == self._name:
                    for trouble in troubles(pod):
                        return f" {trouble}"
        return ""

    def _list(self, path: str) -> list[Json]:
        """Objects of a kind, oldest first."""
        return sorted(parts(self._api.get(path) or {}, "items"), key=lambda one: str(made(one)))


def render(model_name: str, namespace: str) -> Json:
    """The InferenceService as the manifests have it, under a name and in a namespace."""
    whole = dict(_manifest())
    whole["metadata"] = {**whole["metadata"], "name": model_name, "namespace": namespace}
    return whole


@cache
def _manifest() -> Json:
    import yaml

    here = Path(__file__).parent
    # Beside this file in an installed wheel, in manifests/ in a checkout: one file, never a copy that is edited.
    for path in (
        here / "inference_service.yaml",
        here.parents[1] / "manifests" / "base" / "inference" / "inference_service.yaml",
    ):
        if path.exists():
            return cast("Json", yaml.safe_load(path.read_text(encoding="utf-8")))
    raise PackageError("The manifest of the InferenceService is not installed with this copy of Lungline.")
