"""The file that LiteRT runs, written from a list of operations: a flat buffer by LiteRT's own schema.

The schema comes with LiteRT, so no converter is needed, and none of TensorFlow.
"""

# pyright: basic
# The generated schema has no types: strictness here would only collect casts.
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIGNATURE = "serving_default"
_IDENTIFIER, _SCHEMA_VERSION = b"TFL3", 3
# LiteRT maps weights into memory and reads them in blocks of this many bytes.
_ALIGNMENT = 16
# Versions of kernels with what is used of them here; all others are at their first.
_VERSIONS = {"RESIZE_BILINEAR": 3}
_TYPES = {"float32": "FLOAT32", "int32": "INT32", "bool": "BOOL"}


@dataclass(slots=True)
class Operation:
    """A kernel of LiteRT, the names of its inputs and of its one output, and fields of its options.

    `kind` is a name of the schema's BuiltinOperator, `table` that of its options.
    """

    kind: str
    inputs: list[str]
    output: str
    table: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Program:
    """A network as operations in order; `outputs` are tensors by what the signature calls them.

    `tensors` are shape and type of every tensor but the constants; the first dimension is the batch.
    """

    image: str
    outputs: Mapping[str, str]
    operations: tuple[Operation, ...]
    tensors: Mapping[str, tuple[tuple[int, ...], str]]
    constants: Mapping[str, NDArray[Any]]


def packed(program: Program) -> bytes:
    """The content of a LiteRT file with one signature: image -> the program's outputs."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    used = dict.fromkeys(name for operation in program.operations for name in operation.inputs)
    constants = [name for name in used if name in program.constants]
    names = [program.image, *constants, *(operation.output for operation in program.operations)]
    places = {name: at for at, name in enumerate(names)}
    kinds = sorted({operation.kind for operation in program.operations})
    graph = schema.SubGraphT(
        tensors=[_tensor(schema, program, name, constants) for name in names],
        inputs=[places[program.image]],
        outputs=[places[name] for name in program.outputs.values()],
        operators=[_operator(schema, operation, kinds, places) for operation in program.operations],
        name="main",
    )
    signature = schema.SignatureDefT(
        inputs=[schema.TensorMapT("image", places[program.image])],
        outputs=[schema.TensorMapT(name, places[tensor]) for name, tensor in program.outputs.items()],
        signatureKey=SIGNATURE,
    )
    model = schema.ModelT(
        version=_SCHEMA_VERSION,
        operatorCodes=[_code(schema, kind) for kind in kinds],
        subgraphs=[graph],
        description="Lungline",
        buffers=[schema.BufferT(), *_buffers(schema, (program.constants[name] for name in constants))],
        signatureDefs=[signature],
    )
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


def _tensor(schema: Any, program: Program, name: str, constants: list[str]) -> Any:
    is_constant = name in program.constants
    values = program.constants.get(name)
    shape, kind = program.tensors[name] if values is None else (values.shape, str(values.dtype))
    made = schema.TensorT(shape=list(shape), type=getattr(schema.TensorType, _TYPES[kind]), name=name)
    made.buffer = 1 + constants.index(name) if is_constant else 0  # the first buffer is that of tensors without values
    made.hasRank = True
    if not is_constant and shape[:1] == (1,):
        made.shapeSignature = [-1, *shape[1:]]
    return made


def _operator(schema: Any, operation: Operation, kinds: list[str], places: Mapping[str, int]) -> Any:
    made = schema.OperatorT(
        opcodeIndex=kinds.index(operation.kind),
        inputs=[places[name] for name in operation.inputs],
        outputs=[places[operation.output]],
    )
    if operation.table:
        made.builtinOptionsType = getattr(schema.BuiltinOptions, operation.table)
        made.builtinOptions = getattr(schema, f"{operation.table}T")(**operation.options)
    return made


def _code(schema: Any, kind: str) -> Any:
    number = getattr(schema.BuiltinOperator, kind)
    # Readers of before looked into a byte, which 127 says is not enough.
    return schema.OperatorCodeT(min(number, 127), version=_VERSIONS.get(kind, 1), builtinCode=number)


def _buffers(schema: Any, constants: Iterable[NDArray[Any]]) -> list[Any]:
    class Aligned(schema.BufferT):  # the generated class leaves out what the schema says of alignment
        def Pack(self, builder: Any) -> Any:  # noqa: N802 - the schema's name
            builder.StartVector(1, len(self.data), _ALIGNMENT)
            builder.head -= len(self.data)
            builder.Bytes[builder.head : builder.head + len(self.data)] = self.data
            data = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, data)
            return schema.BufferEnd(builder)

    return [Aligned(data=np.ascontiguousarray(values).tobytes()) for values in constants]
