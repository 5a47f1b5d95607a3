"""A package as an MLflow model: `mlflow.pyfunc.load_model("models:/pneumonia@champion")` answers as serving does.

MLflow calls `_load_pyfunc` of the module that the file MLmodel names.
"""

# MLflow's own types are incomplete.
# pyright: reportUnknownMemberType=false
import platform
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungline.package.package import Package

PACKAGE = "package"


class PackageModel:
    """What MLflow loads; its `predict` takes prepared images, float32 (N, size, size, 1)."""

    def __init__(self, package: Package) -> None:
        self.package = package

    def predict(self, inputs: NDArray[np.float32], params: dict[str, Any] | None = None) -> list[dict[str, Any]]:  # noqa: ARG002 - MLflow passes it
        """Risk and label of each image."""
        return [{"probability": result.probability, "label": result.label} for result in self.package.predict(inputs)]


def write_mlmodel(folder: Path, model_id: str, run_id: str) -> None:
    """Write the file MLmodel beside the folder `package`."""
    from mlflow.models import Model

    model = Model(run_id=run_id, model_id=model_id)
    model.add_flavor("python_function", loader_module=__name__, data=PACKAGE, python_version=platform.python_version())
    model.save(str(folder / "MLmodel"))


def _load_pyfunc(path: str) -> PackageModel:  # pyright: ignore[reportUnusedFunction] - MLflow calls it
    return PackageModel(Package.load(Path(path)))
