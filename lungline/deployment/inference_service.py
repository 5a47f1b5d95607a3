"""The InferenceService as documents: the whole one of the manifests, and the fields that a promotion owns."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import cast

from lungline.deployment.kubernetes_api import Json
from lungline.deployment.status import VERSION, part, parts, version_of
from lungline.errors import PackageError
from lungline.settings import variable

DIGEST = variable("package_sha256")
"""The setting of the predictor that holds the digest."""
HISTORY = "lungline.org/history"
"""Annotation that anchors the promotion history outside its own store."""
STOP = "serving.kserve.io/stop"
"""KServe's annotation that takes the predictor down and leaves the InferenceService."""


@dataclass(frozen=True, slots=True)
class ModelFields:
    """The fields of an InferenceService that a promotion owns; None leaves one out."""

    uri: str | None = None
    version: str | None = None
    canary: int | None = None
    """Percent of the requests for the newest revision; None sends it all."""
    sha256: str | None = None
    """The digest that the predictor must find in the package."""
    anchor: str | None = None
    """The entry of the promotion history that was the last one; KServe starts a new revision when it changes."""
    stopped: bool = field(default=False, compare=False)
    """Whether the predictor is taken down; not compared, because operators may do that at any time."""

    @classmethod
    def of(cls, service: Json | None) -> "ModelFields":
        """The fields of an InferenceService; all None when there is none."""
        predictor = part(service or {}, "spec", "predictor")
        annotations = part(service or {}, "metadata", "annotations")
        return cls(
            part(predictor, "model").get("storageUri"),
            version_of(service or {}),
            predictor.get("canaryTrafficPercent"),
            _digest(part(predictor, "model")),
            annotations.get(HISTORY),
            annotations.get(STOP) == "true",
        )

    def document(self, name: str, namespace: str, uid: str) -> Json:
        """What a promotion applies.

        With the object's uid the API server changes that object only, so that half an object is not created where
        somebody has deleted it meanwhile.
        """
        manifest = _manifest()
        metadata: Json = {"name": name, "namespace": namespace, "uid": uid}
        predictor: Json = {}
        if self.uri is not None:
            model_format = manifest["spec"]["predictor"]["model"]["modelFormat"]
            predictor["model"] = {"modelFormat": model_format, "storageUri": self.uri}
            if self.sha256 is not None:
                predictor["model"]["env"] = [{"name": DIGEST, "value": self.sha256}]
        if self.version is not None:
            metadata["annotations"] = {
                VERSION: self.version,
                **({HISTORY: self.anchor} if self.anchor else {}),
                **({STOP: "true"} if self.stopped else {}),
            }
        if self.canary is not None:
            predictor["canaryTrafficPercent"] = self.canary
        head = {key: manifest[key] for key in ("apiVersion", "kind")}
        return {**head, "metadata": metadata, "spec": {"predictor": predictor}}

    def __str__(self) -> str:
        if self.version is None:
            return "no version"
        share = "" if self.canary is None else f" with {self.canary} % of the requests"
        return f"version {self.version}{share}"


def _digest(model: Json) -> str | None:
    """The digest among a model's variables."""
    return next((each.get("value") for each in parts(model, "env") if each.get("name") == DIGEST), None)


def render(model_name: str, namespace: str) -> Json:
    """The InferenceService of the manifests, under a name and in a namespace."""
    manifest = _manifest()
    return {**manifest, "metadata": {**manifest["metadata"], "name": model_name, "namespace": namespace}}


def _manifest() -> Json:
    (manifest,) = base_manifests("inference", "inference_service.yaml")
    return manifest


def base_manifests(place: str, file: str) -> tuple[Json, ...]:
    """The objects in a file of manifests/base/; not to be changed. Raises PackageError."""
    return _read(file, f"base/{place}/{file}")


def component_manifests(component: str, file: str) -> tuple[Json, ...]:
    """The objects in a file of a component in manifests/components/; not to be changed. Raises PackageError."""
    place = f"components/{component}/{file}"
    return _read(place, place)


@cache
def _read(shipped: str, place: str) -> tuple[Json, ...]:
    import yaml

    folder = Path(__file__).parent
    # Beside this file in an installed wheel, in manifests/ in a checkout.
    for path in (folder / shipped, folder.parents[1] / "manifests" / place):
        if path.exists():
            return tuple(cast("list[Json]", yaml.safe_load_all(path.read_text(encoding="utf-8"))))
    raise PackageError(f"The manifest {Path(shipped).name} is missing from this installation of Lungline.")
