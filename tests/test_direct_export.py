"""The second way to LiteRT: files that are written without a converter answer as the network does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import interpreter  # pyright: ignore[reportMissingTypeStubs]

from lungline.datasets.phantom import draw
from lungline.errors import PackageError
from lungline.settings import ModelSettings
from lungline.task.reading import load_task
from lungline.task.task import Task
from lungline.training.direct_export import exported
from lungline.training.export import export
from lungline.training.network import CLASSIFIER, build

SMALL = ModelSettings(size=32, width=4)
TASKS = [load_task(name) for name in ("pneumonia", "pneumonia-kind", "phantom-findings")]


def network(task: Task) -> Any:
    """A network whose normalisations have means, variances and scales, as after training."""
    model = build(SMALL, 5, task=task)
    random = np.random.default_rng(5)
    for weight in model.get_layer(CLASSIFIER).weights:
        if "norm" in weight.path or ".bn" in weight.path:
            values = np.asarray(weight) + random.normal(0, 0.3, weight.shape)
            weight.assign(np.abs(values) + 0.1 if "variance" in weight.path else values)
    return model


def runner(content: bytes) -> Any:
    make: Any = interpreter.Interpreter
    return make(model_content=content, num_threads=1).get_signature_runner()


def images(count: int) -> np.ndarray:
    drawn = [draw(np.random.default_rng(seed), opacities=bool(seed % 2), size=32) for seed in range(count)]
    return np.stack(drawn)[..., None] / np.float32(255)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_every_output_is_that_of_the_network(task: Task) -> None:
    model, inputs = network(task), images(4)
    expected = model.predict(inputs, verbose="0")
    run = runner(exported(model))
    for at in range(len(inputs)):
        outputs = run(image=inputs[at : at + 1])
        assert outputs.keys() == expected.keys()
        for name, values in outputs.items():
            assert values == pytest.approx(expected[name][at : at + 1], abs=1e-3, rel=1e-3), name


def test_a_file_takes_batches_of_any_size() -> None:
    model, inputs = network(TASKS[0]), images(3)
    run = runner(exported(model))
    together = run(image=inputs)
    each = [run(image=inputs[at : at + 1]) for at in range(3)]
    for name, values in together.items():
        assert values == pytest.approx(np.concatenate([outputs[name] for outputs in each]), abs=1e-5), name


def test_an_operation_without_a_translation_is_named() -> None:
    import keras

    image: Any = keras.Input((32, 32, 1))
    model = keras.Model(image, {"logit": keras.ops.sort(image, axis=1)})
    with pytest.raises(PackageError, match="no operation of LiteRT for TensorFlow's"):
        exported(model)


def test_without_a_converter_the_other_way_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The day on which TensorFlow leaves it out."""
    import keras
    import tensorflow as tf

    image: Any = keras.Input((32, 32, 1))
    model = keras.Model(image, {"logit": keras.layers.Flatten()(image)})
    monkeypatch.delattr(tf, "lite")
    with pytest.raises(PackageError, match=r"brings no converter to LiteRT along: set train\.export=direct"):
        export(model, tmp_path / "model.tflite", tmp_path / "saved")
    export(model, tmp_path / "model.tflite", tmp_path / "saved-2", "direct")
    assert runner((tmp_path / "model.tflite").read_bytes())(image=images(1)).keys() == {"logit"}
