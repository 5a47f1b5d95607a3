"""Write a Keras model as a package: LiteRT file, SavedModel, bill of materials and card."""

# pyright: basic
# TensorFlow and Keras ship no usable types: strictness here would only collect casts.
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lungline.errors import PackageError
from lungline.package.bill_of_materials import write_bill
from lungline.package.card import MODEL, SAVED_MODEL, Card, _write_card
from lungline.package.package import Package, listed_digests, quiet
from lungline.settings_blocks import Way
from lungline.training.direct_export import exported

if TYPE_CHECKING:
    import keras


def export(model: "keras.Model", lite: Path, saved: Path, way: Way = "converter") -> None:
    """Write a LiteRT file and a SavedModel with the signature image -> the model's outputs by name.

    Raises PackageError where TensorFlow has no converter, or the direct way does not know an operation.
    """
    import tensorflow as tf

    signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="image")]
    with quiet():
        _save(_in_half(model), signature, saved)
        lite.write_bytes(exported(model) if way == "direct" else _converted(model, signature))


def _converted(model: "keras.Model", signature: list[Any]) -> bytes:
    import tensorflow as tf

    if not hasattr(tf, "lite"):
        raise PackageError("TensorFlow brings no converter to LiteRT along: set train.export=direct.")
    with tempfile.TemporaryDirectory(prefix="lungline-") as folder:
        # Keras' own export tracks each layer's attributes for a call that needs variables only: twice the time.
        _save(lambda image: model(image, training=False), signature, Path(folder), model.variables)
        return tf.lite.TFLiteConverter.from_saved_model(folder).convert()


def _save(call: Any, signature: list[Any], folder: Path, variables: Sequence[Any] = ()) -> None:
    """Write a SavedModel of one function and the variables that it reads."""
    import tensorflow as tf

    module: Any = tf.Module()
    module.held = [variable.value for variable in variables]
    module.serve = tf.function(call, input_signature=signature)
    tf.saved_model.save(module, str(folder), signatures=module.serve)


def round_weights(model: "keras.Model") -> None:
    """Round matrices and kernels to 16-bit floats in place, before calibration, so that a package can store half.

    Scales and means of normalisations stay as they are: small ones would lose their digits.
    """
    for weight in model.weights:
        if len(weight.shape) > 1 and weight.dtype == "float32":
            weight.assign(np.asarray(weight, np.float16).astype(np.float32))


def _in_half(model: "keras.Model") -> Any:
    """A function from images to outputs that holds rounded weights as 16-bit constants: a package should be small."""
    groups = [model.trainable_variables, model.non_trainable_variables]
    values = [[_halved(np.asarray(weight)) for weight in group] for group in groups]

    def call(image: Any) -> Any:
        weights = [[_in_full(value) for value in group] for group in values]
        return model.stateless_call(*weights, image, training=False)[0]

    return call


def _halved(weight: NDArray[Any]) -> NDArray[Any]:
    """A weight in 16 bits when it loses nothing."""
    if weight.dtype != np.float32 or np.abs(weight).max(initial=0) > np.finfo(np.float16).max:
        return weight
    half = weight.astype(np.float16)
    return half if (half.astype(np.float32) == weight).all() else weight


def _in_full(weight: NDArray[Any]) -> Any:
    import tensorflow as tf

    held = tf.constant(weight)
    return tf.cast(held, tf.float32) if held.dtype == tf.float16 else held


TOLERANCE = 1e-3
_FRESH_PROCESS = """
import json, sys
from pathlib import Path
import numpy as np
from lungline.package.package import Package
predictions = Package.load(Path(sys.argv[1])).predict(np.load(sys.argv[2]))
heavy = sorted({"tensorflow", "keras", "mlflow"} & set(sys.modules))
print(json.dumps({"heavy": heavy, "predictions": [[p.probability, p.label, p.chest] for p in predictions]}))
"""


def check(package: Package, keras_model: Any, images: NDArray[np.float32]) -> float:
    """The largest difference in probability between Keras and the package on prepared images (N, size, size, 1).

    Raises PackageError when it exceeds TOLERANCE, or when a fresh process predicts differently or needs TensorFlow.
    """
    logits = np.asarray(keras_model.predict(images, verbose="0")["logit"]).ravel()
    expected = package.card.probability(logits)
    predictions = package.predict(images)
    worst = float(np.abs(np.array([prediction.probability for prediction in predictions]) - expected).max())
    if not worst <= TOLERANCE:
        raise PackageError(
            f"LiteRT and Keras differ by {worst:.4g} in probability on {len(images)} images; at most {TOLERANCE:g} "
            "is allowed."
        )
    here = [[prediction.probability, prediction.label, prediction.chest] for prediction in predictions]
    if _in_fresh_process(package, images) != json.loads(json.dumps(here)):
        raise PackageError(f"The package predicts differently in a fresh process on the same {len(images)} images.")
    return worst


def _in_fresh_process(package: Package, images: NDArray[np.float32]) -> list[list[Any]]:
    with tempfile.TemporaryDirectory(prefix="lungline-") as folder:
        inputs = Path(folder) / "inputs.npy"
        np.save(inputs, images)
        command = [sys.executable, "-c", _FRESH_PROCESS, str(package.folder), str(inputs)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PackageError(f"The package does not load in a fresh process: {reason}")
    report = json.loads(done.stdout.splitlines()[-1])
    if report["heavy"]:
        raise PackageError(f"The package needs {report['heavy'][0]} to predict, which serving does not have.")
    return report["predictions"]


def write_package(folder: Path, *, keras_model: Any, card: Card, way: Way = "converter") -> Card:
    """Write a package from a model of `training.network`; `folder` must not exist or be empty.

    The folder appears complete or not at all, with card.json written last. Returns the card with the files' digests.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists() and any(folder.iterdir()):
        raise PackageError(f"The folder {folder.name} already holds files; a package is written into a new one.")
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        export(keras_model, draft / MODEL, draft / SAVED_MODEL, way)
        write_bill(draft, card, listed_digests(draft))
        card = card.model_copy(update={"files": listed_digests(draft)})
        _write_card(draft, card)
        draft.chmod(0o755)  # mkdtemp's 0700 would shut other users of a shared volume out
        draft.replace(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return card
