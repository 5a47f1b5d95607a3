"""Predictions for requests that carry their images: V1 instances, and one image as a body or in a form."""

import base64
from email.message import Message
from typing import Any

from lungline.diagnosis.diagnoser import Diagnoser
from lungline.results.records import REFUSED, UNSURE
from lungline.task.task import Task
from serving.bodies import decode_base64
from serving.http import RequestMalformed

MAX_INSTANCES = 64
MAX_PARTS = 16

HIGH, LOW = "High Risk", "Low Risk"

_FORM_EXPECTED = "Expected a form with one image file, as `curl -F image=@chest.jpeg` sends it."


def predict_image(data: bytes, diagnoser: Diagnoser, *, heatmap: bool) -> dict[str, Any]:
    """The prediction for the bytes of one image file, as JSON; a refused image has the label Refused and a reason."""
    diagnosis = diagnoser.diagnose(data, heatmap=heatmap, statistics=False, located=False)
    probability, card = diagnosis.probability, diagnoser.package.card
    prediction: dict[str, Any] = {
        "prediction": _risk(diagnosis.label, card.task),
        "confidence": None if probability is None else max(probability, 1 - probability),
        "label": diagnosis.label,
        "probability": probability,
        "thresholds": {"low": card.thresholds.low, "high": card.thresholds.high},
        "warnings": diagnosis.warnings,
        "model_name": card.name,
        "model_version": diagnoser.version,
    }
    if diagnosis.finding_facts:
        prediction["findings"] = [facts.model_dump() for facts in diagnosis.finding_facts]
    if diagnosis.label == "Refused":
        prediction |= {"reason": diagnosis.reason, "error": diagnosis.message}
    if diagnosis.heatmap:
        prediction["heatmap"] = base64.b64encode(diagnosis.heatmap).decode()
    return prediction


def _risk(label: str, task: Task) -> str:
    if label in (UNSURE, REFUSED):
        return label
    return LOW if label == task.negative.label else HIGH


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
    if isinstance(instance, list):
        raise RequestMalformed(
            f"Instance {number} is a list; expected an image file as base64 text. Pixels go as FP32 to /v2/.../infer."
        )
    if not isinstance(instance, str):
        raise RequestMalformed(f"Instance {number} has no base64 text named `image` or `b64`.")
    return decode_base64(instance, f"Instance {number}")


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
