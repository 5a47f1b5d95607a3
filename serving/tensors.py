"""The V2 protocol (Open Inference Protocol): tensors in, tensors out, as JSON or with the binary extension."""

import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from starlette.datastructures import Headers

from lungline.diagnosis.diagnoser import Diagnoser, Diagnosis
from lungline.errors import ImageRefused
from serving.bodies import decode_base64, decode_json
from serving.http import RequestMalformed

MAX_IMAGES = 64
JSON_LENGTH = "inference-header-content-length"

_INPUT = '{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["<base64>"]}'
_EXPECTED = f'`{{"inputs": [{_INPUT}]}}` as JSON'


def predict_tensors(body: bytes, headers: Headers, diagnoser: Diagnoser) -> dict[str, Any]:
    """The response to a V2 request: one `label` and one `probability` for each image of its only input.

    BYTES holds image files (base64 text in JSON, raw in the binary extension), FP32 prepared input of shape
    (N, size, size, 1) with values in 0..1. Raises RequestMalformed, and ImageRefused for the first image that is
    refused, because V2 has no place for an error of one element.
    """
    text, binary = _split(body, headers)
    size = diagnoser.package.card.preparation.size
    request = decode_json(text, headers, _EXPECTED, 2 * MAX_IMAGES * size * size)
    tensor = _only_input(request)
    if tensor.get("datatype") == "BYTES":
        predictions = _diagnose_all(_image_files(tensor, binary), diagnoser)
    elif tensor.get("datatype") == "FP32":
        values = _prepared_input(tensor, binary, size)
        predictions = diagnoser.package.predict(values)
    else:
        raise RequestMalformed("Expected a tensor of datatype BYTES or FP32.")
    count = [len(predictions)]
    labels, probabilities = zip(*((each.label, each.probability) for each in predictions), strict=True)
    outputs = [
        {"name": "label", "datatype": "BYTES", "shape": count, "data": labels},
        {"name": "probability", "datatype": "FP32", "shape": count, "data": probabilities},
    ]
    return {
        "model_name": diagnoser.package.card.name,
        "model_version": diagnoser.version,
        **({"id": request["id"]} if isinstance(request.get("id"), str) else {}),
        "outputs": _requested(outputs, request),
    }


def _split(body: bytes, headers: Headers) -> tuple[bytes, bytes | None]:
    """The JSON and the binary data of a body; None without the binary extension."""
    length = headers.get(JSON_LENGTH)
    if length is None:
        return body, None
    if not (length.isascii() and length.isdigit() and int(length[:20]) <= len(body)):
        raise RequestMalformed(
            "Expected the header Inference-Header-Content-Length to be the number of bytes of JSON before the binary"
            f" data; the body has {len(body)} bytes."
        )
    return body[: int(length)], body[int(length) :]


def _only_input(request: Any) -> dict[str, Any]:
    inputs = request.get("inputs") if isinstance(request, dict) else None
    if isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], dict):
        return inputs[0]
    if isinstance(request, dict) and "instances" in request:
        raise RequestMalformed("`instances` is a V1 request; post it to /v1/models/{name}:predict.")
    if isinstance(request, dict) and ("Records" in request or "specversion" in request):
        raise RequestMalformed("The body is an event; post it to /v1/models/{name}:predict.")
    raise RequestMalformed(f"Expected `inputs` with one tensor, as in {_EXPECTED}.")


def _requested(outputs: list[dict[str, Any]], request: dict[str, Any]) -> list[dict[str, Any]]:
    """The outputs that the request names; all of them when it names none."""
    requested = request.get("outputs") or []
    names = [output.get("name") if isinstance(output, dict) else None for output in _list(requested, "outputs")]
    by_name = {output["name"]: output for output in outputs}
    if unknown := [name for name in names if not isinstance(name, str) or name not in by_name]:
        shown = f" {unknown[0][:40]!r}" if isinstance(unknown[0], str) else ""
        raise RequestMalformed(f"There is no output{shown}; expected label or probability.")
    return [by_name[name] for name in names] if names else outputs


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise RequestMalformed(f"Expected `{name}` to be a list.")
    return value


def _diagnose_all(images: list[bytes], diagnoser: Diagnoser) -> list[Diagnosis]:
    diagnoses: list[Diagnosis] = []
    for number, image in enumerate(images):
        diagnosis = diagnoser.diagnose(image, heatmap=False, statistics=False, located=False)
        if diagnosis.label == "Refused":
            raise ImageRefused(diagnosis.reason or "", f"Image {number} is refused: {diagnosis.message}")
        diagnoses.append(diagnosis)
    return diagnoses


def _image_files(tensor: dict[str, Any], binary: bytes | None) -> list[bytes]:
    if (raw := _binary_data(tensor, binary)) is not None:
        files = list(_binary_elements(raw))
    else:
        files = [_image_file(element, number) for number, element in enumerate(_flat(tensor.get("data")))]
    if not 0 < len(files) <= MAX_IMAGES:
        raise RequestMalformed(f"Expected 1 to {MAX_IMAGES} images.")
    _require_shape(tensor, len(files))
    return files


def _image_file(element: Any, number: int) -> bytes:
    if not isinstance(element, str):
        raise RequestMalformed(f"Image {number} is not base64 text.")
    return decode_base64(element, f"Image {number}")


def _binary_data(tensor: dict[str, Any], binary: bytes | None) -> bytes | None:
    """The tensor's part of the binary data; None when its elements are in the JSON."""
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if tensor.get("data") is not None:
        if size is not None or binary:
            raise RequestMalformed("The tensor has both `data` and binary data.")
        return None
    if binary is None:
        raise RequestMalformed("The tensor has no `data`, and the request no binary data.")
    if size is not None and size != len(binary):
        raise RequestMalformed(f"Expected {len(binary)} for binary_data_size, as many bytes as follow the JSON.")
    return binary


def _binary_elements(binary: bytes) -> Iterator[bytes]:
    """Elements of the binary extension: each after its length, 4 bytes little-endian."""
    position = 0
    while position < len(binary):
        if position + 4 > len(binary):
            raise RequestMalformed("The binary tensor ends within a length.")
        (length,) = struct.unpack_from("<I", binary, position)
        position += 4
        if position + length > len(binary):
            raise RequestMalformed("The binary tensor ends within an element.")
        yield binary[position : position + length]
        position += length


def _require_shape(tensor: dict[str, Any], count: int) -> list[int]:
    """The shape of a tensor of `count` elements. Raises RequestMalformed where the two, or nested lists, differ."""
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not shape or not all(_is_size(size) for size in shape):
        raise RequestMalformed("Expected `shape` to be a list of sizes, such as [1].")
    if math.prod(shape) != count:
        raise RequestMalformed(f"The shape {shape[:8]} does not fit the data; number of elements: {count}.")
    data = tensor.get("data")
    # Clients leave out the dimension of a batch of one.
    accepted = [shape, shape[1:]] if shape[0] == 1 else [shape]
    nested = isinstance(data, list) and any(isinstance(item, list) for item in data)
    if nested and not any(_is_nested_as(data, sizes) for sizes in accepted):
        raise RequestMalformed(f"The shape {shape[:8]} does not fit the nesting of the data.")
    return shape


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_nested_as(data: Any, shape: list[int]) -> bool:
    """Whether lists are nested as deep, and each as long, as the shape says; level by level, whatever the depth."""
    level: list[Any] = [data]
    for size in shape:
        if not all(isinstance(items, list) and len(items) == size for items in level):
            return False
        level = [item for items in level for item in items]
    return not any(isinstance(item, list) for item in level)


def _flat(data: Any) -> Iterator[Any]:
    """Elements of a tensor in JSON, which may be nested or flat; without recursion, whatever its depth."""
    waiting = [iter([data])]
    while waiting:
        for element in waiting[-1]:
            if isinstance(element, list):
                waiting.append(iter(element))
                break
            yield element
        else:
            waiting.pop()


def _prepared_input(tensor: dict[str, Any], binary: bytes | None, size: int) -> np.ndarray:
    if (raw := _binary_data(tensor, binary)) is not None:
        if len(raw) % 4:
            raise RequestMalformed("Expected 4 bytes for each FP32 value.")
        values = np.frombuffer(raw, "<f4")
    else:
        values = np.array([_number(element) for element in _flat(tensor.get("data"))], np.float32)
    shape = _require_shape(tensor, values.size)
    if len(shape) != 4 or shape[1:] != [size, size, 1] or not 0 < shape[0] <= MAX_IMAGES:
        raise RequestMalformed(f"Expected shape [N, {size}, {size}, 1] with N from 1 to {MAX_IMAGES}.")
    if not (values.min() >= 0 and values.max() <= 1):  # also false for NaN
        raise RequestMalformed("Expected values from 0 to 1, as the model card's preparation makes them.")
    return values.reshape(shape)


def _number(element: Any) -> float:
    if isinstance(element, bool) or not isinstance(element, int | float):
        raise RequestMalformed("Expected the elements of an FP32 tensor to be numbers.")
    try:
        return float(element)
    except OverflowError:
        return math.inf
