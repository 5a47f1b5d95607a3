"""How the predictor answers requests that carry images: V1, V2, one image."""

import base64
import contextlib
import json
import re
import struct
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lungline.datasets.phantom import jpeg
from lungline.diagnosis.diagnoser import Diagnoser
from tests.support.predictor import (
    IMAGE,
    INFER,
    KNATIVE,
    PREDICT,
    Predictor,
    b64,
)
from tests.support.tiny_package import SIZE


def test_v1_instances_are_predicted_in_their_order(predictor: Predictor, diagnoser: Diagnoser) -> None:
    other = jpeg(2, opacities=False)
    instances: list[Any] = [
        {"image": b64(IMAGE)},
        {"b64": b64(other)},
        {"image_bytes": {"b64": b64(IMAGE)}, "key": "1"},
    ]
    instances += [b64(other), f"data:image/jpeg;base64,{b64(IMAGE)}"]
    predictions = predictor.http.post(PREDICT, json={"instances": instances}).json()["predictions"]
    first, second = diagnoser.diagnose(IMAGE).probability, diagnoser.diagnose(other).probability
    assert [prediction["probability"] for prediction in predictions] == [first, second, first, second, first]
    assert {prediction["model_version"] for prediction in predictions} == {"1"}


def test_v1_names_the_refused_instance(predictor: Predictor) -> None:
    reply = predictor.http.post(PREDICT, json={"instances": [b64(b"not an image"), b64(IMAGE)]})
    assert reply.status_code == 200
    assert [prediction["prediction"] for prediction in reply.json()["predictions"]] == ["Refused", "Unsure"]
    reply = predictor.http.post(PREDICT, json={"instances": [b64(b"not an image")]})
    assert reply.status_code == 400
    assert "not an image" in reply.json()["error"]


def test_v1_explain_adds_the_heatmap(predictor: Predictor, diagnoser: Diagnoser) -> None:
    reply = predictor.http.post("/v1/models/pneumonia:explain", json={"instances": [b64(IMAGE)]})
    assert base64.b64decode(reply.json()["predictions"][0]["heatmap"]) == diagnoser.diagnose(IMAGE).heatmap


@pytest.mark.parametrize("instances", [None, [], {}, ["%"], [7], [{}], [{"image": None}], [b64(b"x")] * 65])
def test_malformed_v1_instances_are_400(predictor: Predictor, instances: Any) -> None:
    reply = predictor.http.post(PREDICT, json={"instances": instances})
    assert reply.status_code == 400
    assert reply.json()["error"].endswith(".")


def test_v2_bytes_are_images(predictor: Predictor, diagnoser: Diagnoser) -> None:
    images = [IMAGE, jpeg(2, opacities=False)]
    expected = [diagnoser.diagnose(image).probability for image in images]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2], "data": [b64(image) for image in images]}
    reply = predictor.http.post(INFER, json={"id": "42", "inputs": [tensor]}).json()
    assert (reply["id"], reply["model_name"], reply["model_version"]) == ("42", "pneumonia", "1")
    assert {output["name"]: output["data"] for output in reply["outputs"]}["probability"] == expected

    raw = b"".join(struct.pack("<I", len(image)) + image for image in images)
    head = {"name": "image", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(raw)}}
    text = json.dumps({"inputs": [head]}).encode()
    headers = {"inference-header-content-length": str(len(text)), "content-type": "application/octet-stream"}
    reply = predictor.http.post(INFER, content=text + raw, headers=headers).json()
    assert {output["name"]: output["data"] for output in reply["outputs"]}["probability"] == expected


def test_v2_fp32_is_prepared_input(predictor: Predictor, diagnoser: Diagnoser) -> None:
    card = diagnoser.package.card
    prepared = card.preparation.apply(card.preparation.decode(IMAGE))
    expected = diagnoser.diagnose(IMAGE).probability
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, SIZE, SIZE, 1]}
    for data in (prepared.tolist(), prepared.ravel().tolist()):
        reply = predictor.http.post(INFER, json={"inputs": [{**tensor, "data": data}]})
        assert reply.json()["outputs"][1]["data"] == [expected]
    text = json.dumps({"inputs": [tensor]}).encode()
    headers = {"inference-header-content-length": str(len(text))}
    reply = predictor.http.post(INFER, content=text + prepared.astype("<f4").tobytes(), headers=headers)
    assert reply.json()["outputs"][1]["data"] == [expected]


@pytest.mark.parametrize(
    "tensor",
    [
        None,
        {},
        {"datatype": "INT8", "shape": [1], "data": [1]},
        {"datatype": "BYTES", "shape": [1], "data": []},
        {"datatype": "BYTES", "shape": [1], "data": [7]},
        {"datatype": "BYTES", "shape": [1], "data": ["%"]},
        {"datatype": "BYTES", "shape": [1], "data": [b64(b"not an image")]},
        {"datatype": "FP32", "shape": [1, 2, 2, 1], "data": [0, 0, 0, 0]},
        {"datatype": "FP32", "shape": [2, SIZE, SIZE, 1], "data": [0.0] * SIZE * SIZE},
        {"datatype": "FP32", "shape": [1, SIZE, SIZE, 1], "data": [2.0] * SIZE * SIZE},
        {"datatype": "FP32", "shape": [1, SIZE, SIZE, 1], "data": ["x"] * SIZE * SIZE},
    ],
)
def test_malformed_v2_tensors_are_400(predictor: Predictor, tensor: Any) -> None:
    reply = predictor.http.post(INFER, json={"inputs": [tensor]})
    assert reply.status_code == 400
    assert reply.json()["error"].endswith(".")


def test_one_image_comes_as_a_form_or_a_body(predictor: Predictor, diagnoser: Diagnoser) -> None:
    expected = diagnoser.diagnose(IMAGE)
    form = predictor.http.post("/predict?heatmap=true", files={"image": ("Doe-Jane.jpeg", IMAGE, "image/jpeg")})
    assert form.json()["probability"] == expected.probability
    assert form.json()["prediction"] in {"High Risk", "Low Risk", "Unsure"}
    assert form.json()["confidence"] >= 0.5
    assert form.json()["model_version"] == "1"
    assert base64.b64decode(form.json()["heatmap"]) == expected.heatmap
    body = predictor.http.post("/predict", content=IMAGE, headers={"content-type": "image/jpeg"})
    assert body.json()["probability"] == expected.probability
    assert "heatmap" not in body.json()


def test_a_refused_image_is_400_with_the_reason(predictor: Predictor) -> None:
    reply = predictor.http.post("/predict", files={"image": ("x.png", b"\x89PNG\r\n\x1a\n", "image/png")})
    assert (reply.status_code, reply.json()["prediction"]) == (400, "Refused")
    assert reply.json()["error"].endswith(".")
    assert predictor.http.post("/predict", data={"image": "no file"}).status_code == 400
    damaged = {"content-type": "multipart/form-data"}
    assert predictor.http.post("/predict", content=b"--x", headers=damaged).status_code == 400


def test_a_body_that_is_too_large_is_413(predictor: Predictor) -> None:
    """Whether its length is declared or it comes in chunks."""
    large = bytes(4_000_000)
    assert predictor.http.post("/predict", content=large).status_code == 413
    chunks = (large[start : start + 65536] for start in range(0, len(large), 65536))
    with contextlib.suppress(httpx.WriteError):  # refused and closed before all was sent
        assert predictor.http.post("/predict", content=chunks).status_code == 413
    assert predictor.ready()


paths = st.sampled_from([PREDICT, "/v1/models/pneumonia:explain", INFER, "/predict"])
content_types = st.sampled_from(
    ["application/json", "application/cloudevents+json", "multipart/form-data; boundary=x", "image/jpeg", ""]
)
names = st.sampled_from(
    ["instances", "inputs", "Records", "specversion", "data", "datatype", "shape", "s3", "eventName"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["BYTES", "FP32", "ObjectCreated:Put"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths, content_types, st.binary() | values.map(lambda value: json.dumps(value).encode()), st.booleans())
def test_no_body_is_a_server_error(
    predictor: Predictor, path: str, content_type: str, body: bytes, event: bool
) -> None:
    headers = {"content-type": content_type} | (KNATIVE if event else {})
    reply = predictor.http.post(path, content=body, headers=headers)
    assert reply.status_code in {200, 204, 400}, (reply.status_code, reply.text)


NESTED = [[[[0.5]] * SIZE] * SIZE]
FLAT = [0.5] * SIZE * SIZE


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("BYTES", [1], [b64(IMAGE)]),
        ("BYTES", [1], b64(IMAGE)),
        ("BYTES", [1, 1], [[b64(IMAGE)]]),
        ("BYTES", [1, 1], [b64(IMAGE)]),
        ("FP32", [1, SIZE, SIZE, 1], NESTED),
        ("FP32", [1, SIZE, SIZE, 1], FLAT),
    ],
)
def test_a_v2_shape_that_fits_its_data_is_accepted(
    predictor: Predictor, datatype: str, shape: list[int], data: Any
) -> None:
    tensor = {"name": "image", "datatype": datatype, "shape": shape, "data": data}
    assert predictor.http.post(INFER, json={"inputs": [tensor]}).status_code == 200


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("BYTES", [2], [b64(IMAGE)]),
        ("BYTES", [1], [b64(IMAGE)] * 2),
        ("BYTES", [2, 1], [[b64(IMAGE)] * 2]),
        ("BYTES", [1], [[[b64(IMAGE)]]]),
        ("BYTES", [2], [[b64(IMAGE)], b64(IMAGE)]),
        ("BYTES", [-1], [b64(IMAGE)]),
        ("BYTES", [1.0], [b64(IMAGE)]),
        ("BYTES", [True], [b64(IMAGE)]),
        ("BYTES", ["1"], [b64(IMAGE)]),
        ("BYTES", [], [b64(IMAGE)]),
        ("BYTES", 1, [b64(IMAGE)]),
        ("BYTES", None, [b64(IMAGE)]),
        ("BYTES", [2**64], [b64(IMAGE)]),
        ("FP32", [1, 1, SIZE, SIZE], FLAT),
        ("FP32", [1, SIZE * SIZE], FLAT),
        ("FP32", [1, SIZE, SIZE, 1], FLAT[1:]),
        ("FP32", [2, SIZE, SIZE, 1], NESTED),
        ("FP32", [1, SIZE, SIZE, 1], [FLAT]),
        ("FP32", [1, SIZE, SIZE, 1], ["0.5"] * SIZE * SIZE),
        ("FP32", [1, SIZE, SIZE, 1], [True] * SIZE * SIZE),
    ],
)
def test_a_v2_shape_must_fit_its_data(predictor: Predictor, datatype: str, shape: Any, data: Any) -> None:
    tensor = {"name": "image", "datatype": datatype, "shape": shape, "data": data}
    reply = predictor.http.post(INFER, json={"inputs": [tensor]})
    assert reply.status_code == 400
    assert re.match(r"The shape .* does not fit the|Expected", reply.json()["error"])


@pytest.mark.parametrize(
    ("changes", "json_length", "sentence"),
    [
        ({"parameters": {"binary_data_size": 3}}, None, "for binary_data_size"),
        ({"shape": [2]}, None, "The shape [2] does not fit the data; number of elements: 1."),
        ({"data": [b64(IMAGE)]}, None, "The tensor has both `data` and binary data."),
        ({}, 10**9, "Inference-Header-Content-Length"),
        ({}, 0, "The body is empty."),
        ({"datatype": "FP32", "shape": [1, SIZE, SIZE, 1]}, None, "Expected 4 bytes for each FP32 value."),
    ],
)
def test_v2_binary_data_that_contradicts_its_json_is_refused(
    predictor: Predictor, changes: dict[str, Any], json_length: int | None, sentence: str
) -> None:
    text = json.dumps({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], **changes}]}).encode()
    binary = struct.pack("<I", len(IMAGE)) + IMAGE
    binary += bytes(1 - len(binary) % 2)  # no whole number of FP32 values
    if changes.get("datatype") != "FP32":
        binary = struct.pack("<I", len(IMAGE)) + IMAGE
    headers = {"inference-header-content-length": str(len(text) if json_length is None else json_length)}
    reply = predictor.http.post(INFER, content=text + binary, headers=headers)
    assert reply.status_code == 400
    assert sentence in reply.json()["error"]


def test_v2_returns_the_outputs_that_are_requested(predictor: Predictor) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [b64(IMAGE)]}
    for names in (["label"], ["probability", "label"]):
        outputs = [{"name": name} for name in names]
        reply = predictor.http.post(INFER, json={"inputs": [tensor], "outputs": outputs})
        assert [output["name"] for output in reply.json()["outputs"]] == names
    reply = predictor.http.post(INFER, json={"inputs": [tensor], "outputs": [{"name": "logits"}]})
    assert reply.json()["error"] == "There is no output 'logits'; expected label or probability."


def test_a_refused_image_has_its_reason_in_every_protocol(predictor: Predictor) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [b64(b"no image")]}
    replies = [
        predictor.http.post(PREDICT, json={"instances": [b64(b"no image")]}),
        predictor.http.post(INFER, json={"inputs": [tensor]}),
        predictor.http.post("/predict", content=b"no image"),
    ]
    assert [(reply.status_code, reply.json()["reason"]) for reply in replies] == [(400, "not-an-image")] * 3
    assert all(reply.json()["error"].endswith(".") for reply in replies)
