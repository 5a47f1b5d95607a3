"""What LiteRT calls the operations of TensorFlow's graphs, for those that the networks here are made of."""

# pyright: basic
# TensorFlow ships no usable types: strictness here would only collect casts.
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungline.errors import PackageError
from lungline.training.lite_file import Operation

Shape = tuple[int, ...]
_PADDING = {b"SAME": 0, b"VALID": 1}
_LARGEST = np.finfo(np.float32).max


@dataclass(frozen=True, slots=True)
class Call:
    """An operation of a graph: its inputs by name, and the values of those that are constant.

    Shapes are static: the graph is that of a batch of one. `added` and `tensors` take what its translation needs more:
    constants, and shape and type of tensors on the way.
    """

    kind: str
    inputs: tuple[str, ...]
    shapes: tuple[Shape, ...]
    output: str
    shape: Shape
    attribute: Callable[[str], Any]
    constants: Mapping[str, NDArray[Any]]
    added: dict[str, NDArray[Any]] = field(default_factory=dict)
    tensors: dict[str, tuple[Shape, str]] = field(default_factory=dict)

    def value(self, at: int) -> NDArray[Any]:
        """The values of a constant input. Raises PackageError where it is none."""
        if self.inputs[at] not in self.constants:
            raise PackageError(f"The direct export expects a constant input {at} of {self.kind}.")
        return self.constants[self.inputs[at]]

    def constant(self, values: Any, kind: type = np.float32) -> str:
        """The name of a new constant."""
        name = f"{self.output}/constant-{len(self.added)}"
        self.added[name] = np.asarray(values, kind)
        return name

    def between(self, shape: Sequence[int]) -> str:
        """The name of a new tensor of numbers on the way to the output."""
        name = f"{self.output}/tensor-{len(self.tensors)}"
        self.tensors[name] = tuple(shape), "float32"
        return name

    def made(self, kind: str, *inputs: str, table: str | None = None, **options: Any) -> list[Operation]:
        """The one operation that gives the output."""
        return [Operation(kind, list(inputs), self.output, table, options)]


def operations_of(call: Call) -> list[Operation]:
    """The operations that give the output of a call. Raises PackageError for one that the networks here do not use."""
    if call.kind in _SAME:
        kind, table = _SAME[call.kind]
        return call.made(kind, *call.inputs, table=table)
    if call.kind in _REDUCED:
        axes = call.constant(call.value(1).ravel(), np.int32)
        options = {"table": "ReducerOptions", "keepDims": bool(call.attribute("keep_dims"))}
        return call.made(_REDUCED[call.kind], call.inputs[0], axes, **options)
    if call.kind in _OTHERS:
        return _OTHERS[call.kind](call)
    raise PackageError(f"The direct export has no operation of LiteRT for TensorFlow's {call.kind}.")


def _convolution(call: Call) -> list[Operation]:
    _, high, wide, _ = call.attribute("strides")
    options = {"padding": _PADDING[call.attribute("padding")], "strideH": high, "strideW": wide}
    kernel, is_deep = call.value(1), call.kind == "DepthwiseConv2dNative"
    if is_deep:
        kernel = kernel.reshape(1, *kernel.shape[:2], -1)
        options["depthMultiplier"] = kernel.shape[-1] // call.shapes[0][-1]
    else:
        kernel = kernel.transpose(3, 0, 1, 2)
    weights = call.constant(kernel), call.constant(np.zeros(call.shape[-1]))
    kind, table = ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions") if is_deep else ("CONV_2D", "Conv2DOptions")
    return call.made(kind, call.inputs[0], *weights, table=table, **options)


def _product(call: Call) -> list[Operation]:
    if call.kind == "MatMul" and call.inputs[1] in call.constants and not call.attribute("transpose_a"):
        kernel = call.value(1) if call.attribute("transpose_b") else call.value(1).T
        weights = call.constant(kernel), call.constant(np.zeros(call.shape[-1]))
        return call.made("FULLY_CONNECTED", call.inputs[0], *weights, table="FullyConnectedOptions")
    sides = ("transpose_a", "transpose_b") if call.kind == "MatMul" else ("adj_x", "adj_y")
    options = dict(zip(("adjX", "adjY"), (bool(call.attribute(side)) for side in sides), strict=True))
    return call.made("BATCH_MATMUL", *call.inputs[:2], table="BatchMatMulOptions", **options)


def _pooled(call: Call) -> list[Operation]:
    (_, high, wide, _), (_, down, across, _) = call.attribute("ksize"), call.attribute("strides")
    sizes = {"filterHeight": high, "filterWidth": wide, "strideH": down, "strideW": across}
    kind = "AVERAGE_POOL_2D" if call.kind == "AvgPool" else "MAX_POOL_2D"
    padding = _PADDING[call.attribute("padding")]
    return call.made(kind, call.inputs[0], table="Pool2DOptions", padding=padding, **sizes)


def _resized(call: Call) -> list[Operation]:
    size = call.constant(call.value(1), np.int32)
    options = {
        "alignCorners": bool(call.attribute("align_corners")),
        "halfPixelCenters": bool(call.attribute("half_pixel_centers")),
    }
    return call.made("RESIZE_BILINEAR", call.inputs[0], size, table="ResizeBilinearOptions", **options)


def _reshaped(call: Call, source: str | None = None) -> list[Operation]:
    """The same values in another shape; the first dimension stays open where it is the batch."""
    shape = [-1, *call.shape[1:]] if call.shape[:1] == call.shapes[0][:1] == (1,) else call.shape
    return call.made("RESHAPE", source or call.inputs[0], call.constant(shape, np.int32), table="ReshapeOptions")


def _sliced(call: Call) -> list[Operation]:
    """A slice of steps of one, and then the shape that indices and new axes make of it."""
    first, size = _extent(call)
    if tuple(size) == call.shapes[0]:
        return _reshaped(call)
    if math.prod(size) != math.prod(call.shape):
        raise PackageError("The direct export takes slices with steps of one.")
    open_size = [-1, *size[1:]] if call.shapes[0][0] == 1 else size  # all of the batch
    inputs = call.inputs[0], call.constant(first, np.int32), call.constant(open_size, np.int32)
    if tuple(size) == call.shape:
        return call.made("SLICE", *inputs, table="SliceOptions")
    cut = call.between(size)
    return [Operation("SLICE", list(inputs), cut, "SliceOptions"), *_reshaped(call, cut)]


def _extent(call: Call) -> tuple[list[int], list[int]]:
    """Where a slice begins in each dimension of its input, and how many places it takes."""
    begin, end, step = (call.value(at).tolist() for at in (1, 2, 3))
    masks = {
        name: int(call.attribute(f"{name}_mask")) for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    shape = call.shapes[0]
    places = [at for at in range(len(begin)) if not masks["new_axis"] >> at & 1]
    ellipsis = next((at for at in places if masks["ellipsis"] >> at & 1), None)
    first, size = [0] * len(shape), list(shape)
    for order, at in enumerate(places):
        if at == ellipsis:
            continue
        dimension = order if ellipsis is None or at < ellipsis else len(shape) - len(places) + order
        if masks["shrink_axis"] >> at & 1:
            cut = range(shape[dimension])[begin[at]]
            first[dimension], size[dimension] = cut, 1
            continue
        low = None if masks["begin"] >> at & 1 else begin[at]
        high = None if masks["end"] >> at & 1 else end[at]
        taken = range(shape[dimension])[low : high : step[at]]
        first[dimension], size[dimension] = taken.start, len(taken)
    return first, size


def _joined(call: Call) -> list[Operation]:
    *parts, axis = call.inputs
    return call.made("CONCATENATION", *parts, table="ConcatenationOptions", axis=int(call.constants[axis]))


def _packed(call: Call) -> list[Operation]:
    options = {"valuesCount": len(call.inputs), "axis": int(call.attribute("axis"))}
    return call.made("PACK", *call.inputs, table="PackOptions", **options)


def _turned(call: Call) -> list[Operation]:
    return call.made("TRANSPOSE", call.inputs[0], call.constant(call.value(1), np.int32), table="TransposeOptions")


def _is_finite(call: Call) -> list[Operation]:
    """LiteRT has no such operation: a finite number is at most the largest."""
    size = call.between(call.shape)
    return [
        Operation("ABS", list(call.inputs), size, "AbsOptions"),
        Operation("LESS_EQUAL", [size, call.constant(_LARGEST)], call.output, "LessEqualOptions"),
    ]


_SAME: dict[str, tuple[str, str | None]] = {
    "Abs": ("ABS", "AbsOptions"),
    "Add": ("ADD", "AddOptions"),
    "AddV2": ("ADD", "AddOptions"),
    "BiasAdd": ("ADD", "AddOptions"),
    "Cast": ("CAST", "CastOptions"),
    "Exp": ("EXP", "ExpOptions"),
    "Greater": ("GREATER", "GreaterOptions"),
    "GreaterEqual": ("GREATER_EQUAL", "GreaterEqualOptions"),
    "Less": ("LESS", "LessOptions"),
    "LessEqual": ("LESS_EQUAL", "LessEqualOptions"),
    "Log": ("LOG", None),
    "Maximum": ("MAXIMUM", "MaximumMinimumOptions"),
    "Minimum": ("MINIMUM", "MaximumMinimumOptions"),
    "Mul": ("MUL", "MulOptions"),
    "Neg": ("NEG", "NegOptions"),
    "RealDiv": ("DIV", "DivOptions"),
    "Relu": ("RELU", None),
    "Relu6": ("RELU6", None),
    "Rsqrt": ("RSQRT", None),
    "SelectV2": ("SELECT_V2", "SelectV2Options"),
    "Sigmoid": ("LOGISTIC", None),
    "Sqrt": ("SQRT", None),
    "Square": ("SQUARE", "SquareOptions"),
    "SquaredDifference": ("SQUARED_DIFFERENCE", "SquaredDifferenceOptions"),
    "Sub": ("SUB", "SubOptions"),
    "Tanh": ("TANH", None),
}
_REDUCED = {"Max": "REDUCE_MAX", "Mean": "MEAN", "Min": "REDUCE_MIN", "Sum": "SUM"}
_OTHERS: dict[str, Callable[[Call], list[Operation]]] = {
    "AvgPool": _pooled,
    "BatchMatMulV2": _product,
    "BatchMatMulV3": _product,
    "ConcatV2": _joined,
    "Conv2D": _convolution,
    "DepthwiseConv2dNative": _convolution,
    "ExpandDims": _reshaped,
    "IsFinite": _is_finite,
    "MatMul": _product,
    "MaxPool": _pooled,
    "Pack": _packed,
    "Reshape": _reshaped,
    "ResizeBilinear": _resized,
    "Squeeze": _reshaped,
    "StridedSlice": _sliced,
    "Transpose": _turned,
}
