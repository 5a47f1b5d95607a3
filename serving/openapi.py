"""The OpenAPI description of the inference routes, with examples."""

from importlib.metadata import version
from typing import Any

from lungline.events.uploads import Upload, minio_record
from lungline.results.records import ResultRecord

VERSION = version("lungline")
ABOUT = (
    "Predicts findings on chest X-rays. Decision support for research; not a medical device. "
    "The status 503 means: try again. Every error has a sentence under `error`, and a refused image a code under "
    "`reason`. Bodies may be compressed: `Content-Encoding: gzip` or `deflate`."
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
_REFUSED = "The file's content is not an image; expected JPEG, PNG, TIFF, BMP, WebP or DICOM."
_ERROR = {"application/json": {"example": {"error": _REFUSED}}}


def _responses(content: dict[str, Any], description: str) -> dict[str, dict[str, Any]]:
    return {
        "200": {"description": description, "content": content},
        "400": {"description": "The image is refused, or the request is malformed.", "content": _ERROR},
        "413": {"description": "The body is too large, as sent or when it is decompressed.", "content": _ERROR},
        "415": {"description": "The body is compressed otherwise than with gzip or deflate.", "content": _ERROR},
        "503": {"description": "No model is loaded, or the object store does not answer.", "content": _ERROR},
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
_RECORD = {"application/json": {"schema": {"$ref": f"#/components/schemas/{ResultRecord.__name__}"}}}
_PREDICT_BODY = {
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

_PREDICT = {
    "tags": ["Predictions"],
    "requestBody": _PREDICT_BODY["requestBody"],
    "responses": _responses(_RECORD, "The result record of the upload; for instances, `predictions`.")
    | {"204": {"description": "The event contains no upload."}},
}
_INFER = {
    "summary": "Predict the images of a tensor (V2)",
    "tags": ["Predictions"],
    "requestBody": {
        "required": True,
        "content": _json(images={"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [_IMAGE]}]}),
    },
    "responses": _responses(
        _json(
            response={
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
_INFER_VERSION = _INFER | {
    "summary": "The same, if this version serves",
    "parameters": [{"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}],
    "responses": _INFER["responses"] | {"404": {"description": "Another version serves.", "content": _ERROR}},
}
_HEATMAP = {
    "name": "heatmap",
    "in": "query",
    "required": False,
    "schema": {"type": "boolean", "default": False},
    "description": "Whether to add a heatmap, a PNG as base64 text.",
}
_FILE = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"schema": {"type": "object", "properties": {"image": {"type": "string", "format": "binary"}}}}
_PREDICT_IMAGE = {
    "summary": "Predict one image: `curl -F image=@chest.jpeg http://.../predict`",
    "tags": ["Predictions"],
    "parameters": [_HEATMAP],
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": _FORM, "image/jpeg": _FILE, "image/png": _FILE},
    },
    "responses": _responses(_json(response=_PREDICTION), "The risk and its probability."),
}


def schemas() -> dict[str, Any]:
    """The schemas that these paths refer to. Made when somebody asks: it would cost a thirtieth of the start."""
    schema = ResultRecord.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), ResultRecord.__name__: schema}


def inference_paths(name: str) -> dict[str, dict[str, Any]]:
    """OpenAPI path items of the inference routes for a model of this name."""
    return {
        f"/v1/models/{name}:predict": {
            "post": _PREDICT | {"summary": "Predict the uploads of an event, or images in the request (V1)"}
        },
        f"/v1/models/{name}:explain": {
            "post": _PREDICT | {"summary": "The same, with heatmaps in the predictions (V1)"}
        },
        f"/v2/models/{name}/infer": {"post": _INFER},
        f"/v2/models/{name}/versions/{{version}}/infer": {"post": _INFER_VERSION},
        "/predict": {"post": _PREDICT_IMAGE},
    }
