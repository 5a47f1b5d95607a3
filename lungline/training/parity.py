"""Proof that a package answers as the network it was written from, here and in a process without TensorFlow."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungline.errors import PackageError
from lungline.package import Package

TOLERANCE = 1e-3
_ELSEWHERE = """
import json, sys
from pathlib import Path
import numpy as np
from lungline.package import Package
found = Package.load(Path(sys.argv[1])).predict(np.load(sys.argv[2]))
heavy = sorted({"tensorflow", "keras", "mlflow"} & set(sys.modules))
print(json.dumps({"heavy": heavy, "answers": [[one.probability, one.label, one.chest] for one in found]}))
"""


def check(package: Package, keras_model: Any, images: NDArray[np.float32]) -> float:
    """The largest difference in probability between Keras and the package on prepared images (N, size, size, 1).

    Raises PackageError when it exceeds a thousandth, or when a fresh process answers otherwise or needs TensorFlow.
    """
    logits = np.asarray(keras_model.predict(images, verbose="0")["logit"]).ravel()
    expected = package.card.calibration.probability(logits)
    answers = package.predict(images)
    worst = float(np.abs(np.array([one.probability for one in answers]) - expected).max())
    if not worst <= TOLERANCE:
        raise PackageError(
            f"LiteRT and Keras differ by {worst:.4g} in probability on {len(images)} pictures; at most {TOLERANCE:g} "
            "is allowed."
        )
    here = [[one.probability, one.label, one.chest] for one in answers]
    if _elsewhere(package, images) != json.loads(json.dumps(here)):
        raise PackageError(f"The package answers otherwise in a fresh process on the same {len(images)} pictures.")
    return worst


def _elsewhere(package: Package, images: NDArray[np.float32]) -> list[list[Any]]:
    with tempfile.TemporaryDirectory(prefix="lungline-") as folder:
        inputs = Path(folder) / "inputs.npy"
        np.save(inputs, images)
        command = [sys.executable, "-c", _ELSEWHERE, str(package.folder), str(inputs)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PackageError(f"The package does not load in a fresh process: {reason}")
    found = json.loads(done.stdout.splitlines()[-1])
    if found["heavy"]:
        raise PackageError(f"The package needs {found['heavy'][0]} to answer, which serving does not have.")
    return found["answers"]
