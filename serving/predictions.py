"""Predictions for requests that carry their images: V1 instances, V2 tensors, one image of a form."""

import base64
import binascii
import struct
from collections.abc import Iterator
from email.message import Message
from typing import Any

import numpy as np
import orjson

from lungline.diagnosis.diagnoser import Diagnoser, Diagnosis
from serving.http import RequestMalformed

MAX_INSTANCES = 64
MAX_PARTS = 16

RISK = {"Normal": "Low Risk", "Pneumonia": "High Risk", "Unsure": "Unsure", "Refused": "Refused"}

_FORM_EXPECTED = "Expected a form with one image file, as `curl -F image=@chest.jpeg` sends it."


def loads(body: bytes) -> Any:
    """The JSON value of a body. Raises RequestMalformed."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        # Without its cause: the decoder's error carries the whole body.
        raise RequestMalformed("The body is not JSON.") from None


def predict_image(data: bytes, diagnoser: Diagnoser, *, heatmap: bool) -> dict[str, Any]:
    """The prediction for the bytes of one image file, as JSON; a refused image has the label Refused and a reason."""
    diagnosis = diagnoser.diagnose(data, heatmap=heatmap, statistics=False)
    probability, card = diagnosis.probability, diagnoser.package.card
    prediction: dict[str, Any] = {
        "prediction": RISK[diagnosis.label],
        "confidence": None if probability is None else max(probability, 1 - probability),
        "label": diagnosis.label,
        "probability": probability,
        "thresholds": {"low": card.thresholds.low, "high": card.thresholds.high},
        "warnings": diagnosis.warnings,
        "model_name": card.name,
        "model_version": diagnoser.version,
    }
    if diagnosis.label == "Refused":
        prediction |= {"reason": diagnosis.reason, "error": diagnosis.message}
    if diagnosis.heatmap:
        prediction["heatmap"] = base64.b64encode(diagnosis.heatmap).decode()
    return prediction


def predict_instances(value: dict[str, Any], diagnoser: Diagnoser, *, heatmap: bool) -> list[dict[str, Any]]:
    """The predictions for a V1 request, in its order. Raises RequestMalformed."""
    instances = value["instances"]
    if not isinstance(instances, list) or not 0 < len(instances) <= MAX_INSTANCES:
        raise RequestMalformed(f"Expected `instances` to be a list of 1 to {MAX_INSTANCES} images.")
    images = [_instance_image(instance, number) for number, instance in enumerate(instances)]
    return [predict_image(image, diagnoser, heatmap=heatmap) for image in images]


def _instance_image(instance: Any, number: int) -> bytes:
    """The image of an instance: base64 text, alone or under one of the names that TensorFlow Serving made common."""
    for name in ("image", "image_bytes", "b64"):
        if isinstance(instance, dict):
            instance = instance.get(name, instance)
    if not isinstance(instance, str):
        raise RequestMalformed(f"Instance {number} has no base64 text named `image` or `b64`.")
    return _decode_base64(instance, f"Instance {number}")


def _decode_base64(text: str, name: str) -> bytes:
    _, comma, rest = text.partition(";base64,")  # of a data: URL, as a browser makes it
    try:
        return base64.b64decode(rest if comma else text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestMalformed(f"{name} is not base64.") from None


def predict_tensors(body: bytes, json_length: int | None, diagnoser: Diagnoser) -> dict[str, Any]:
    """The V2 response: one `label` and one `probability` for each image of the only input. Raises RequestMalformed.

    BYTES holds image files (base64 text in JSON, raw in the binary extension), FP32 prepared input of shape
    (N, size, size, 1) with values in 0..1. V2 has no place for an error of one element, so a refused image refuses all.
    `json_length` is how many bytes of JSON come before the binary data; None without binary data.
    """
    head, tail = (body, b"") if json_length is None else (body[:json_length], body[json_length:])
    request = loads(head)
    if not isinstance(request, dict) or not isinstance(request.get("inputs"), list) or len(request["inputs"]) != 1:
        raise RequestMalformed("Expected `inputs` with one tensor.")
    tensor = request["inputs"][0]
    if not isinstance(tensor, dict):
        raise RequestMalformed("Expected `inputs` with one tensor.")
    if tensor.get("datatype") == "BYTES":
        predictions = _diagnose_all(_image_files(tensor, tail), diagnoser)
    elif tensor.get("datatype") == "FP32":
        predictions = diagnoser.package.predict(_prepared_input(tensor, tail, diagnoser.package.card.preparation.size))
    else:
        raise RequestMalformed("Expected a tensor of datatype BYTES or FP32.")
    labels = [prediction.label for prediction in predictions]
    probabilities = [prediction.probability for prediction in predictions]
    return {
        "model_name": diagnoser.package.card.name,
        "model_version": diagnoser.version,
        **({"id": request["id"]} if isinstance(request.get("id"), str) else {}),
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [len(labels)], "data": labels},
            {"name": "probability", "datatype": "FP32", "shape": [len(labels)], "data": probabilities},
        ],
    }


def _diagnose_all(images: list[bytes], diagnoser: Diagnoser) -> list[Diagnosis]:
    diagnoses = [diagnoser.diagnose(image, heatmap=False, statistics=False) for image in images]
    for number, diagnosis in enumerate(diagnoses):
        if diagnosis.label == "Refused":
            raise RequestMalformed(f"Image {number} is refused: {diagnosis.message}")
    return diagnoses


def _image_files(tensor: dict[str, Any], tail: bytes) -> list[bytes]:
    data = tensor.get("data")
    if data is None:
        files = list(_binary_elements(tail))
    else:
        files = [_image_file(element, number) for number, element in enumerate(_flat(data))]
    if not 0 < len(files) <= MAX_INSTANCES:
        raise RequestMalformed(f"Expected 1 to {MAX_INSTANCES} images.")
    return files


def _image_file(element: Any, number: int) -> bytes:
    if not isinstance(element, str):
        raise RequestMalformed(f"Image {number} is not base64 text.")
    return _decode_base64(element, f"Image {number}")


def _binary_elements(tail: bytes) -> Iterator[bytes]:
    """Elements of the binary extension: each after its length, 4 bytes little-endian."""
    position = 0
    while position < len(tail):
        if position + 4 > len(tail):
            raise RequestMalformed("The binary tensor ends within a length.")
        (length,) = struct.unpack_from("<I", tail, position)
        position += 4
        if position + length > len(tail):
            raise RequestMalformed("The binary tensor ends within an element.")
        yield tail[position : position + length]
        position += length


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


def _prepared_input(tensor: dict[str, Any], tail: bytes, size: int) -> np.ndarray:
    try:
        data = tensor.get("data")
        values = np.frombuffer(tail, "<f4") if data is None else np.array(list(_flat(data)), np.float32)
        images = values.reshape(-1, size, size, 1)
    except (ValueError, TypeError):
        raise RequestMalformed(f"Expected FP32 values of shape (N, {size}, {size}, 1).") from None
    if not 0 < len(images) <= MAX_INSTANCES or tensor.get("shape") != list(images.shape):
        raise RequestMalformed(f"Expected shape [N, {size}, {size}, 1] with N from 1 to {MAX_INSTANCES}.")
    if not (images.min() >= 0 and images.max() <= 1):  # also false for NaN
        raise RequestMalformed("Expected values from 0 to 1, as the model card's preparation makes them.")
    return images


def first_file(body: bytes, content_type: str) -> bytes:
    """The content of a form's first part that has a file name. Raises RequestMalformed."""
    delimiter = b"\r\n--" + _boundary(content_type)
    # The first delimiter may stand at the very beginning, without the line end that belongs to it.
    position = 0 if body.startswith(delimiter[2:]) else body.find(delimiter) + 2
    for _ in range(MAX_PARTS):
        content = body.find(b"\r\n\r\n", position)
        end = body.find(delimiter, content + 2)  # an empty file's delimiter shares the blank line's end
        if not body.startswith(delimiter[2:], position) or content < 0 or end < 0:
            break
        if b"filename" in body[position:content].lower():
            return body[content + 4 : end]
        position = end + 2
    raise RequestMalformed(_FORM_EXPECTED)


def _boundary(content_type: str) -> bytes:
    message = Message()
    message["content-type"] = content_type
    boundary = message.get_param("boundary")
    if not isinstance(boundary, str) or not 0 < len(boundary) <= 70 or not boundary.isascii():
        raise RequestMalformed(_FORM_EXPECTED)
    return boundary.encode()
