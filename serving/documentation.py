"""What /docs and /openapi.json show: every way to ask, with examples."""

from importlib.metadata import version
from typing import Any

from lungline.events import Upload, minio_record
from lungline.results import ResultRecord

VERSION = version("lungline")
ABOUT = (
    "Judges chest X-rays for signs of pneumonia. Decision support for research; not a medical device. "
    "The status 503 means: try again."
)

INPUTS = [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
OUTPUTS = [
    {"name": "label", "datatype": "BYTES", "shape": [-1]},
    {"name": "probability", "datatype": "FP32", "shape": [-1]},
]

_IMAGE = "/9j/4AAQSkZJRgABAQAAAQABAAD"  # the beginning of any JPEG file
_PREDICTION = {
    "prediction": "High Risk",
    "confidence": 0.93,
    "label": "Pneumonia",
    "probability": 0.93,
    "thresholds": {"low": 0.2, "high": 0.6},
    "warnings": [],
    "model_name": "pneumonia",
    "model_version": "3",
}
_ERROR = {"application/json": {"example": {"error": "The file's content is not an image; expected JPEG or PNG."}}}


def _responses(content: dict[str, Any], description: str) -> dict[int | str, dict[str, Any]]:
    return {
        200: {"description": description, "content": content},
        400: {"description": "The image is refused, or the request is malformed.", "content": _ERROR},
        413: {"description": "The body is too large.", "content": _ERROR},
        503: {"description": "No model is loaded, or the object store does not answer.", "content": _ERROR},
    }


def _json(**examples: Any) -> dict[str, Any]:
    named = {name: {"value": value} for name, value in examples.items()}
    return {"application/json": {"schema": {"type": "object"}, "examples": named}}


_EVENT = minio_record(Upload("xray-uploads", "ward 7/chest.jpeg", etag="b7ce786cd89b182bfd5ae765557bbc37"))
_STRUCTURED = {
    "specversion": "1.0",
    "id": "partition:0/offset:7",
    "source": "/apis/v1/namespaces/lungline/kafkasources/xray-uploads#xray-uploads",
    "type": "dev.knative.kafka.event",
    "data": _EVENT,
}
_RECORD = {"application/json": {"schema": ResultRecord.model_json_schema(mode="serialization")}}
_JUDGE = {
    "requestBody": {
        "required": True,
        "content": {
            **_json(event=_EVENT, instances={"instances": [{"image": _IMAGE}]}),
            "application/cloudevents+json": {
                "schema": {"type": "object"},
                "examples": {"event": {"value": _STRUCTURED}},
            },
        },
    }
}

PREDICT: dict[str, Any] = {
    "summary": "Judge the uploads of an event, or images in the request (V1)",
    "tags": ["Predictions"],
    "openapi_extra": _JUDGE,
    "responses": _responses(_RECORD, "The result record of the upload; for instances, `predictions`.")
    | {204: {"description": "The event tells of no upload."}},
}
EXPLAIN: dict[str, Any] = PREDICT | {"summary": "The same, with heatmaps in the predictions (V1)"}
INFER: dict[str, Any] = {
    "summary": "Judge the images of a tensor (V2)",
    "tags": ["Predictions"],
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": _json(
                images={"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [_IMAGE]}]},
            ),
        }
    },
    "responses": _responses(
        _json(
            answer={
                "model_name": "pneumonia",
                "model_version": "3",
                "outputs": [
                    {"name": "label", "datatype": "BYTES", "shape": [1], "data": ["Pneumonia"]},
                    {"name": "probability", "datatype": "FP32", "shape": [1], "data": [0.93]},
                ],
            }
        ),
        "Label and probability of each image.",
    ),
}
PICTURE: dict[str, Any] = {
    "summary": "Judge one image: `curl -F image=@chest.jpeg http://.../predict`",
    "tags": ["Predictions"],
    "openapi_extra": {
        "parameters": [
            {
                "name": "heatmap",
                "in": "query",
                "required": False,
                "schema": {"type": "boolean", "default": False},
                "description": "Whether to add a heatmap, a PNG as base64 text.",
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {"type": "object", "properties": {"image": {"type": "string", "format": "binary"}}}
                },
                "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
                "image/png": {"schema": {"type": "string", "format": "binary"}},
            },
        },
    },
    "responses": _responses(_json(answer=_PREDICTION), "The risk, and how sure the model is."),
}
MODEL: dict[str, Any] = {"summary": "Which model package answers now (V1)", "tags": ["KServe"]}
METADATA: dict[str, Any] = {"summary": "Which model package answers now, and what it takes (V2)", "tags": ["KServe"]}
