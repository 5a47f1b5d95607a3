"""A LiteRT file without a converter: from the graph of a network to LiteRT's operations, one by one.

TensorFlow's converter, tf.lite, is to leave its package. This way needs the graph that TensorFlow draws of a network,
and the schema that LiteRT brings along. Constants are computed; what follows a convolution or a matrix by constants, as
a normalisation does, becomes part of its weights, and rectifiers become part of the operation before.
"""

# pyright: basic
# TensorFlow and Keras ship no usable types: strictness here would only collect casts.
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lungline.training.lite_file import Operation, Program, packed
from lungline.training.lite_operations import Call, operations_of

if TYPE_CHECKING:
    import keras

_SAME_VALUES = {"Identity", "StopGradient", "PreventGradient"}
# Of tensors of a static shape these are constant, whatever the values.
_OF_SHAPES = {"OnesLike", "Rank", "Shape", "Size", "ZerosLike"}
_FOLDED = {"Add", "AddV2", "BiasAdd", "Mul", "Sub"}
_WEIGHTED = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
# What LiteRT's operations may do with their result, by TensorFlow's name, and the field that says so.
_RECTIFIERS, _RECTIFIER = {"Relu": 1, "Relu6": 3}, "fusedActivationFunction"
_RECTIFIED = {*_WEIGHTED, "ADD", "MUL", "SUB"}


def exported(model: "keras.Model") -> bytes:
    """The content of a LiteRT file with the signature image -> the model's outputs by name.

    Raises PackageError for a network with an operation that is not known here.
    """
    return packed(_Translation(_drawn(model)).program())


@dataclass(frozen=True, slots=True)
class _Graph:
    """What a network does with one image, as TensorFlow's operations in order; tensors by name."""

    operations: tuple[Any, ...]
    image: str
    outputs: dict[str, str]
    constants: dict[str, NDArray[Any]]


def _drawn(model: "keras.Model") -> _Graph:
    import tensorflow as tf

    values = [
        [np.asarray(weight) for weight in group] for group in (model.trainable_variables, model.non_trainable_variables)
    ]

    def call(image: Any) -> Any:
        weights = [[tf.constant(value) for value in group] for group in values]
        return model.stateless_call(*weights, image, training=False)[0]

    signature = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32, name="image")
    concrete = tf.function(call, input_signature=[signature]).get_concrete_function()
    outputs = {name: tensor.name for name, tensor in concrete.structured_outputs.items()}
    image = concrete.inputs[0].name
    graph = tf.Graph()
    with graph.as_default():  # a plain graph, which a session can compute parts of
        tf.import_graph_def(concrete.graph.as_graph_def(), name="")
    operations = tuple(_needed(graph, outputs.values()))
    wanted = [name for name in _constants(operations) if name not in outputs.values()]
    with tf.compat.v1.Session(graph=graph) as session:
        feed = {image: np.zeros((1, *model.input_shape[1:]), np.float32)}
        constants = dict(zip(wanted, session.run(wanted, feed), strict=True))
    return _Graph(operations, image, outputs, constants)


def _needed(graph: Any, outputs: Any) -> Iterator[Any]:
    """The operations that lead to the outputs, in order."""
    waiting = [graph.get_tensor_by_name(name).op for name in outputs]
    needed: set[str] = set()
    while waiting:
        operation = waiting.pop()
        if operation.name not in needed:
            needed.add(operation.name)
            waiting += [tensor.op for tensor in operation.inputs]
    return (operation for operation in graph.get_operations() if operation.name in needed)


def _constants(operations: tuple[Any, ...]) -> list[str]:
    """The tensors that do not depend on the image."""
    fixed: set[str] = set()
    for operation in operations:
        depends = operation.type == "Placeholder" or not all(tensor.name in fixed for tensor in operation.inputs)
        if not depends or operation.type in _OF_SHAPES:
            fixed.update(tensor.name for tensor in operation.outputs)
    return sorted(fixed)


@dataclass(slots=True)
class _Translation:
    graph: _Graph
    operations: list[Operation] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    tensors: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    makers: dict[str, Operation] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    uses: Counter[str] = field(default_factory=Counter)

    def program(self) -> Program:
        graph = self.graph
        self.uses.update(graph.outputs.values())
        for operation in graph.operations:
            self.uses.update(tensor.name for tensor in operation.inputs)
            self.tensors |= {tensor.name: (tuple(tensor.shape), tensor.dtype.name) for tensor in operation.outputs}
        self.constants |= {name: _narrow(values) for name, values in graph.constants.items()}
        for operation in graph.operations:
            if operation.type != "Placeholder" and operation.outputs[0].name not in graph.constants:
                self._translate(operation)
        outputs = {name: self._source(tensor) for name, tensor in graph.outputs.items()}
        return Program(graph.image, outputs, tuple(self.operations), self.tensors, self.constants)

    def _source(self, name: str) -> str:
        """The tensor that holds the values of another."""
        return self._source(self.same[name]) if name in self.same else name

    def _translate(self, operation: Any) -> None:
        inputs = tuple(self._source(tensor.name) for tensor in operation.inputs)
        output = operation.outputs[0]
        if operation.type in _SAME_VALUES:
            self._rename(inputs[0], output.name)
            return
        shapes = tuple(tuple(tensor.shape) for tensor in operation.inputs)
        call = Call(
            operation.type, inputs, shapes, output.name, tuple(output.shape), operation.get_attr, self.constants
        )
        if self._folds(call) or self._rectifies(call):
            return
        made = operations_of(call)
        self.constants |= call.added
        self.tensors |= call.tensors
        self.operations += made
        self.makers |= {each.output: each for each in made}

    def _rename(self, source: str, name: str) -> None:
        """Who uses a tensor by another name uses the source."""
        self.same[name] = source
        self.uses[source] += self.uses[name] - 1

    def _before(self, name: str, kinds: Container[str]) -> Operation | None:
        """The operation of these kinds that makes a tensor for one user only, and rectifies nothing yet."""
        maker = self.makers.get(name)
        if maker is None or maker.kind not in kinds or self.uses[name] != 1:
            return None
        return None if maker.options.get(_RECTIFIER) else maker

    def _folds(self, call: Call) -> bool:
        """Whether a constant factor or summand has become part of the weights before it."""
        fixed = [at for at, name in enumerate(call.inputs) if name in self.constants]
        if call.kind not in _FOLDED or len(fixed) != 1 or (call.kind == "Sub" and fixed == [0]):
            return False
        values, name = self.constants[call.inputs[fixed[0]]], call.inputs[1 - fixed[0]]
        maker = self._before(name, _WEIGHTED)
        channels = call.shape[-1]
        if maker is None or self.tensors[name][0] != call.shape or values.size not in (1, channels):
            return False
        if values.size > 1 and values.shape[-1] != channels:
            return False
        self._fold(maker, call.kind, np.broadcast_to(values.ravel().astype(np.float64), (channels,)))
        self._take_over(maker, call.output)
        return True

    def _fold(self, maker: Operation, kind: str, values: NDArray[np.float64]) -> None:
        _, kernel, bias = maker.inputs
        if kind == "Mul":
            scale = values[:, None, None, None] if maker.kind == "CONV_2D" else values
            scale = values[:, None] if maker.kind == "FULLY_CONNECTED" else scale
            self.constants[kernel] = np.asarray(self.constants[kernel] * scale, np.float32)
            self.constants[bias] = np.asarray(self.constants[bias] * values, np.float32)
        else:
            summand = -values if kind == "Sub" else values
            self.constants[bias] = np.asarray(self.constants[bias] + summand, np.float32)

    def _rectifies(self, call: Call) -> bool:
        """Whether a rectifier has become part of the operation before it."""
        maker = self._before(call.inputs[0], _RECTIFIED) if call.kind in _RECTIFIERS else None
        if maker is None:
            return False
        maker.options[_RECTIFIER] = _RECTIFIERS[call.kind]
        self._take_over(maker, call.output)
        return True

    def _take_over(self, maker: Operation, output: str) -> None:
        del self.makers[maker.output]
        maker.output = output
        self.makers[output] = maker


def _narrow(values: Any) -> NDArray[Any]:
    """Values in a type that LiteRT's kernels take."""
    narrow = {"float64": np.float32, "int64": np.int32}
    array = np.asarray(values)
    return array.astype(narrow.get(str(array.dtype), array.dtype))
