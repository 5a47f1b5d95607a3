"""Untrained model packages for benchmarks: `python -m benchmarks.networks FOLDER [NETWORK]`.

`recipe` is the network that `lungline train` builds, with ImageNet weights: its predictions mean nothing, and it costs
what a champion costs. `small` is a separable network at 64 px with a hundred thousand weights and one forward pass,
like the prototype that the goals were set with. The thresholds label a tenth of drawn phantoms Unsure.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

NETWORKS = ("recipe", "small")
KERAS, PACKAGE = "network.keras", "package"
UNSURE = 0.10
IMAGES = 64


def make(folder: Path, network: str = "recipe", unsure: float = UNSURE) -> Path:
    """Write a package and the same network as a Keras file, in a process of its own because of TensorFlow."""
    command = [sys.executable, "-m", "benchmarks.networks", str(folder), network, str(unsure)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)
    if done.returncode:
        raise RuntimeError(f"The network {network} cannot be built: {done.stderr.strip().splitlines()[-1]}")
    return folder / PACKAGE


def small() -> Any:
    """A separable network of 106 thousand weights at 64 px, with the outputs of the recipe's."""
    import keras

    layers: Any = keras.layers
    keras.utils.set_random_seed(1)
    image = keras.Input((64, 64, 1), name="image")
    x = layers.Conv2D(24, 3, strides=2, padding="same", activation="relu")(image)
    for channels, stride in ((48, 2), (96, 1), (96, 2), (160, 1), (160, 1), (192, 1)):
        x = layers.SeparableConv2D(channels, 3, strides=stride, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    evidence = layers.Conv2D(1, 1, name="evidence")(x)
    outputs = {
        "logit": layers.GlobalAveragePooling2D(name="logit")(evidence),
        "cam": layers.Reshape(evidence.shape[1:3], name="cam")(evidence),
        "chest": layers.Dense(1, kernel_initializer="zeros", bias_initializer="ones", name="chest")(
            layers.GlobalAveragePooling2D()(x)
        ),
    }
    return keras.Model(image, outputs)


def recipe() -> Any:
    """The network of the default settings, as training exports it."""
    from lungline.settings import ModelSettings
    from lungline.training.train import build

    return build(ModelSettings(), seed=1)


def _write(folder: Path, network: str, unsure: float) -> None:
    from lungline.datasets.phantom import jpeg
    from lungline.imaging.preparation import Preparation
    from lungline.package.card import Card, CodeFacts, DataFacts, Thresholds, amend_card
    from lungline.package.package import Package
    from lungline.training.export import write_package

    model = {"recipe": recipe, "small": small}[network]()
    card = Card(
        version="benchmark",
        preparation=Preparation(size=model.input_shape[1], normalisation="equalise"),
        thresholds=Thresholds(low=0.5, high=0.5, operating=0.5, chosen="Not yet."),
        data=DataFacts(name="none", digest="0" * 64, synthetic=True),
        code=CodeFacts(version="0"),
    )
    write_package(folder / PACKAGE, keras_model=model, card=card)
    model.save(folder / KERAS)
    package = Package.load(folder / PACKAGE)
    images = [jpeg(seed, opacities=bool(seed % 2)) for seed in range(IMAGES)]
    prepared = [card.preparation.apply(card.preparation.decode(image)) for image in images]
    probabilities = sorted(package.predict(image[None])[0].probability for image in prepared)
    first = round(IMAGES * (1 - unsure) / 2)
    last = IMAGES - 1 - first
    low, high = (0.0, 1.0) if unsure >= 1 else (probabilities[first], probabilities[last])
    chosen = f"{unsure:.0%} of drawn phantoms are Unsure; not trained, for benchmarks only."
    thresholds = Thresholds(low=low, high=high, operating=(low + high) / 2, chosen=chosen)
    amend_card(folder / PACKAGE, thresholds=thresholds)


if __name__ == "__main__":
    _write(Path(sys.argv[1]), *(sys.argv[2:3] or ["recipe"]), unsure=float((sys.argv[3:4] or [UNSURE])[0]))
