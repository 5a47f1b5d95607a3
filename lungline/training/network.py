"""The network: a lung segmenter, a crop around the lungs, and a classifier that ends in a map of local evidence.

The classifier has the first four stages of EfficientNet-Lite0. The image's logit is the mean of its map, weighted by
the lung field, so the map is an exact class activation map from the same forward pass and the same weights: no
gradients, no second model. Four of seven stages: the other three hold nine tenths of the weights and were no better.
"""

# pyright: basic
# TensorFlow and Keras ship no usable types: strictness here would only collect casts.
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from lungline.package.answers import headline
from lungline.settings import ModelSettings
from lungline.task.reading import default_task
from lungline.task.task import Task
from lungline.training.imagenet import imagenet_weights
from lungline.training.lung_crop import crop, lung_box, uncrop
from lungline.training.lungs import SIDE, load_segmenter
from lungline.training.population import distance_of

if TYPE_CHECKING:
    import keras

Stages = tuple[tuple[int, int, int, int, int], ...]
# Blocks, kernel, stride of the first block, expansion, channels.
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80))
# Share of the image's side that the crop around the lungs gets as its own side: lungs fill about three quarters.
CROP_SHARE = 0.75
# The lungs that pooling sees where the field is empty.
FLOOR = 0.02
# Layers of the chest check: its inputs, its own weights, and its output.
SMALL, CHEST_MAPS, OUTPUT = "small", "chest_maps", "chest"
CHEST_LOOKS, CHEST_MIX, CHEST_HIDDEN, CHEST_KINDS = (
    ("chest_look_1", "chest_look_2", "chest_look_3"),
    "chest_mix",
    "chest_hidden",
    "chest_kinds",
)
# Channels of the mix, hidden units, and kinds of outliers that the check tells apart.
CHEST_WIDTHS, OUTLIER_KINDS = (16, 16), 11
# Channels of its own look at the whole image.
LOOK_WIDTH = 12
# The input of the embedding.
FEATURES = "embedding_features"
# The layer that summarises an image for drift monitoring, and its width: enough to tell scanners apart, few enough
# numbers to store in every result.
EMBEDDING, EMBEDDED = "embedding", 16
CLASSIFIER, SEGMENTER = "classifier", "lungs"


def build(
    settings: ModelSettings,
    seed: int = 0,
    *,
    stages: Stages = STAGES,
    share: float = CROP_SHARE,
    task: Task | None = None,
) -> "keras.Model":
    """A network with an untrained classifier: image (N, size, size, 1) in 0..1 -> six outputs.

    `logit` (N, 1) is the risk's: the mean of local logits, weighted by the lung field; with several findings, their
    means are a seventh output, `findings` (N, outputs), and the risk's follows from them. `cam` (N, size/4, size/4) are
    the risk's local logits over the whole image; outside the lungs they are the weakest of those inside. `lungs`
    (N, 48, 48) is the lung field in 0..1. `chest` (N, 1) is the logit of being a frontal chest X-ray; its layer is
    fitted after training, by lungline.training.ood_check. `distance` (N, 1) is how far the image lies from the training
    images, fitted by lungline.training.population. `embedding` (N, 16) are the same features in few numbers, fitted by
    lungline.training.embedding. Raises SettingsError when the settings ask for ImageNet weights and they are not
    installed.
    """
    import keras

    keras.utils.set_random_seed(seed)
    ops: Any = keras.ops
    segmenter: Any = load_segmenter()
    task = task or default_task()
    classifier: Any = build_classifier(settings, stages, share, task)
    image: Any = keras.Input((settings.size, settings.size, 1), name="image")
    small = keras.layers.Resizing(SIDE, SIDE, name=SMALL)(image)
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
        **({"findings": seen["findings"]} if "findings" in seen else {}),
        "cam": _over_image(seen["evidence"], local, box, field, grid),
        "lungs": keras.layers.Identity(name="field")(field),
        "distance": distance_of([seen["first"], seen["early"], seen["late"]]),
        **_side_outputs(seen["early"], seen["late"], context, small),
    }
    model = keras.Model(image, outputs, name=task.name.replace("-", "_"))
    kernel, bias = model.get_layer(CHEST_KINDS).get_weights()
    bias[0] = 20.0  # an unfitted check doubts nothing
    model.get_layer(CHEST_KINDS).set_weights([0 * kernel, bias])
    return model


def build_classifier(
    settings: ModelSettings, stages: Stages = STAGES, share: float = CROP_SHARE, task: Task | None = None
) -> "keras.Model":
    """An untrained classifier: crop (N, side, side, 1) and its lung field (N, map, map) -> `logit` and features."""
    import keras

    layers: Any = keras.layers
    side = crop_side(settings.size, share)
    image = keras.Input((side, side, 1), name="crop")
    x = layers.Rescaling(255 / 128, offset=-127 / 128, name="scale")(image)
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="conv_stem")(x)
    x = _norm(x, "bn0")
    seen: list[Any] = []
    for number, (kernel, stride, expansion, channels) in enumerate(_blocks(stages)):
        x = _block(x, f"blocks.{number}.", kernel=kernel, stride=stride, expansion=expansion, channels=channels)
        seen.append(x)
    field: Any = keras.Input(x.shape[1:3], name="local_field")
    x = layers.Conv2D(settings.width, 1, use_bias=False, name="head")(x)
    x = _norm(x, "head_norm")
    x = layers.SpatialDropout2D(settings.dropout, name="dropout")(x)
    outputs = _evidence(x, field, task or default_task())
    outputs |= {"first": seen[2], "early": seen[4], "late": seen[-1]}
    model = keras.Model([image, field], outputs, name=CLASSIFIER)
    if settings.weights == "imagenet":
        _start_from_imagenet(model)
    return model


def _evidence(x: Any, field: Any, task: Task) -> dict[str, Any]:
    """Local logits and their means, weighted by the lung field (N, h, w): the risk's, and each of several findings'."""
    import keras

    layers: Any = keras.layers
    ops: Any = keras.ops
    count = len(task.outputs)
    start = keras.initializers.RandomNormal(stddev=0.01)
    local = layers.Conv2D(count, 1, kernel_initializer=start, name="evidence")(x)
    weight = field + FLOOR
    if count == 1:
        local = layers.Reshape(local.shape[1:3], name="local_logits")(local)
        logit = ops.sum(local * weight, axis=(1, 2)) / ops.sum(weight, axis=(1, 2))
        return {"logit": layers.Reshape((1,))(logit), "evidence": local}
    means = ops.sum(local * weight[..., None], axis=(1, 2)) / ops.sum(weight, axis=(1, 2))[:, None]
    risk = layers.Reshape(local.shape[1:3], name="local_logits")(headline(task, local, ops))
    return {"logit": headline(task, means, ops), "findings": means, "evidence": risk}


def crop_side(size: int, share: float = CROP_SHARE) -> int:
    """The side of the crop around the lungs for a network input of this side: a multiple of 16."""
    return max(32, round(size * share / 16) * 16)


def _over_image(evidence: Any, local: Any, box: Any, field: Any, grid: int) -> Any:
    """Local logits over the whole image; a place outside the lungs is as weak as the weakest inside."""
    import keras

    ops: Any = keras.ops
    weakest = ops.minimum(ops.min(ops.where(local > 0.3, evidence, 50.0), axis=(1, 2), keepdims=True), 0.0)
    fine = keras.layers.Resizing(grid, grid, name="field_on_map")(keras.layers.Reshape((SIDE, SIDE, 1))(field))
    fine = keras.layers.Reshape((grid, grid))(fine)
    return keras.layers.Identity(name="cam")(weakest + fine * (uncrop(evidence, box, grid) - weakest))


def _blocks(stages: Stages) -> Iterator[tuple[int, int, int, int]]:
    for count, kernel, stride, expansion, channels in stages:
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


def _side_outputs(early: Any, late: Any, context: Any, small: Any) -> dict[str, Any]:
    """The chest check, and the embedding of features pooled on a grid of two by two.

    Neither is trained by the loss: both are fitted afterwards. `context` are features of the whole image and `small` is
    that image: they tell what lies around the lungs.
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
    kinds = chest_head(maps, small)
    pooled = [layers.Flatten()(layers.AveragePooling2D(max(1, x.shape[1] // 2))(x)) for x in (early, late)]
    embedding = layers.Dense(EMBEDDED, trainable=False, name=EMBEDDING)
    return {
        # The odds of a chest against all kinds of outliers together.
        OUTPUT: layers.Subtract(name=OUTPUT)([kinds[:, :1], keras.ops.logsumexp(kinds[:, 1:], axis=1, keepdims=True)]),
        "embedding": embedding(layers.Concatenate(name=FEATURES)(pooled)),
    }


def chest_head(maps: Any, small: Any, *, trainable: bool = False, dropout: float = 0.0) -> Any:
    """Logits (N, 1 + kinds) of a chest and of each kind of outlier, from feature maps (N, h, w, channels).

    Where in the image a texture lies tells a mirrored chest from an upright one, so nothing is pooled here. The maps
    are of the lungs; only the whole image (N, 48, 48, 1) shows the window or the screen around them.
    """
    import keras

    layers: Any = keras.layers
    channels, hidden = CHEST_WIDTHS
    x = layers.Conv2D(channels, 1, activation="relu", trainable=trainable, name=CHEST_MIX)(maps)
    look = small
    for name in CHEST_LOOKS:
        look = layers.Conv2D(
            LOOK_WIDTH, 3, strides=2, padding="same", activation="relu", trainable=trainable, name=name
        )(look)
    x = layers.Concatenate()([layers.Flatten()(x), layers.Flatten()(look)])
    x = layers.Dropout(dropout)(x) if dropout else x
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
