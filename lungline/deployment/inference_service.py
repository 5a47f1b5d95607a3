"""The InferenceService as documents: the whole one of the manifests, and the fields that a promotion owns."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

from lungline.deployment.kubernetes_api import Json
from lungline.deployment.status import VERSION, part, version_of
from lungline.errors import PackageError


@dataclass(frozen=True, slots=True)
class ModelFields:
    """The fields of an InferenceService that a promotion owns; None leaves one out."""

    uri: str | None = None
    version: str | None = None
    canary: int | None = None
    """Percent of the requests for the newest revision; None sends it all."""

    @classmethod
    def of(cls, service: Json | None) -> "ModelFields":
        """The fields of an InferenceService; all None when there is none."""
        predictor = part(service or {}, "spec", "predictor")
        return cls(
            part(predictor, "model").get("storageUri"),
            version_of(service or {}),
            predictor.get("canaryTrafficPercent"),
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
        if self.version is not None:
            metadata["annotations"] = {VERSION: self.version}
        if self.canary is not None:
            predictor["canaryTrafficPercent"] = self.canary
        head = {key: manifest[key] for key in ("apiVersion", "kind")}
        return {**head, "metadata": metadata, "spec": {"predictor": predictor}}

    def __str__(self) -> str:
        if self.version is None:
            return "no version"
        share = "" if self.canary is None else f" with {self.canary} % of the requests"
        return f"version {self.version}{share}"


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
