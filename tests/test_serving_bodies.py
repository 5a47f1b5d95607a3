"""Bodies as people and programs really send them: base64 in many forms, compressed, or at the wrong address."""

import base64
import gzip
import json
import time
import zlib
from typing import Any

import pytest

from lungline.diagnosis.diagnoser import Diagnoser
from tests.support.predictor import IMAGE, INFER, KNATIVE, PREDICT, Predictor, b64

TEXT = b64(IMAGE)
LINES = base64.encodebytes(IMAGE).decode()
URL_SAFE = base64.urlsafe_b64encode(IMAGE).decode()
PERCENT = TEXT.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
V1 = json.dumps({"instances": [TEXT]}).encode()
V2 = json.dumps({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [TEXT]}]}).encode()


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    "text",
    [
        LINES,
        LINES.replace("\n", "\r\n"),
        LINES.replace("\n", "\n    "),
        LINES.replace("\n", "\n\t"),
        URL_SAFE,
        URL_SAFE.rstrip("="),
        TEXT.rstrip("="),
        TEXT + "==",
        f"data:image/jpeg;base64,{TEXT}",
        f"DATA:image/JPEG;Base64,{TEXT}",
        f"data:image/jpeg;charset=utf-8;base64,{TEXT}",
        f"data:image/jpeg;name=chest%201.jpg;base64,{TEXT}",
        f"data:;base64,{URL_SAFE}",
        f"data:image/jpeg;base64,\n{LINES}",
        PERCENT,
        f"data:image/jpeg;base64,{PERCENT}",
        repr(TEXT.encode()),
        f"\ufeff {TEXT}\n",
        TEXT.replace("+", "-"),
    ],
)
def test_base64_is_read_in_every_usual_form(predictor: Predictor, diagnoser: Diagnoser, text: str) -> None:
    expected = diagnoser.diagnose(IMAGE).probability
    reply = predictor.http.post(PREDICT, json={"instances": [{"image": text}]})
    assert reply.json()["predictions"][0]["probability"] == expected
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}
    reply = predictor.http.post(INFER, json={"inputs": [tensor]})
    assert reply.json()["outputs"][1]["data"] == [expected]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (TEXT.replace("+", " "), "has spaces in its base64: `+` becomes a space where text is decoded as a form"),
        (TEXT[:1001], "is not base64: it is cut off, after 1001 characters."),
        (f"{TEXT[:10]}*{TEXT[10:]}", "is not base64: character 11 is '*'."),
        (f"{TEXT[:50]}\u200b{TEXT[50:]}", "is not base64: character 51 is not ASCII."),
        (b64(IMAGE[:100]) + b64(IMAGE[100:]), "has padding (=) before its end, as joined texts have."),
        (IMAGE.hex(), "is hexadecimal; expected base64."),
        (b64(TEXT.encode()), "is base64 of base64 text; encode the file once."),
        (b64(f"data:image/jpeg;base64,{TEXT}".encode()), "is base64 of base64 text; encode the file once."),
        ("data:image/jpeg,%FF%D8%FF", "is a data: URL without base64"),
        ("https://example.org/chest.jpg", "is a URL or a path; expected the image itself as base64 text."),
        ("s3://bucket/chest.jpg", "is a URL or a path; expected the image itself as base64 text."),
        ("/data/chest.jpg", "is a URL or a path; expected the image itself as base64 text."),
        ([[0.5, 0.5]], "is a list; expected an image file as base64 text."),
        ("", "The file is empty."),
    ],
)
def test_what_is_wrong_with_base64_is_named(predictor: Predictor, text: Any, sentence: str) -> None:
    reply = predictor.http.post(PREDICT, json={"instances": [text]})
    assert reply.status_code == 400
    assert sentence in reply.json()["error"]


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("identity", bytes),
        ("gzip, identity", gzip.compress),
        ("deflate, gzip", lambda body: gzip.compress(zlib.compress(body))),
        ("gzip", lambda body: gzip.compress(body[:50]) + gzip.compress(body[50:])),
        ("gzip", lambda body: gzip.compress(body) + bytes(512)),
    ],
)
def test_compressed_bodies_are_read(predictor: Predictor, diagnoser: Diagnoser, encoding: str, compress: Any) -> None:
    expected = diagnoser.diagnose(IMAGE).probability
    headers = {"content-encoding": encoding}
    reply = predictor.http.post(PREDICT, content=compress(V1), headers=headers)
    assert reply.json()["predictions"][0]["probability"] == expected
    reply = predictor.http.post(INFER, content=compress(V2), headers=headers)
    assert reply.json()["outputs"][1]["data"] == [expected]
    reply = predictor.http.post("/predict", content=compress(IMAGE), headers=headers | {"content-type": "image/jpeg"})
    assert reply.json()["probability"] == expected


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, br", "aes128gcm", "gzip, gzip, gzip"])
def test_other_encodings_are_415(predictor: Predictor, encoding: str) -> None:
    reply = predictor.http.post(PREDICT, content=b"x", headers={"content-encoding": encoding})
    assert (reply.status_code, reply.headers["accept-encoding"]) == (415, "gzip, deflate")
    assert reply.json()["error"].startswith("The body is compressed")


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(V1)[:-9],
        gzip.compress(V1) + b"rest",
        gzip.compress(V1)[:100] + bytes(3) + gzip.compress(V1)[103:],
        V1,
        b"",
        gzip.compress(b"") * 5000,
    ],
    ids=["cut off", "rest", "damaged", "not gzip", "empty", "many members"],
)
def test_damaged_compression_is_400(predictor: Predictor, body: bytes) -> None:
    reply = predictor.http.post(PREDICT, content=body, headers={"content-encoding": "gzip"})
    assert reply.status_code == 400
    assert reply.json()["error"].startswith("The body is ")


def test_decompression_bombs_are_413(predictor: Predictor) -> None:
    bomb = gzip.compress(bytes(2**28), 1)
    began = time.monotonic()
    for body, encoding in ((bomb, "gzip"), (gzip.compress(bomb), "gzip, gzip")):
        reply = predictor.http.post(PREDICT, content=body, headers={"content-encoding": encoding})
        assert reply.status_code == 413
        assert "when it is decompressed" in reply.json()["error"]
    assert time.monotonic() - began < 10  # of a quarter of a gigabyte only as much is decompressed as is allowed


FORM = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nabc\r\n--x--\r\n'
DICOM = bytes(128) + b"DICM" + bytes(64)


@pytest.mark.parametrize(
    ("body", "content_type", "sentence"),
    [
        (IMAGE, "image/jpeg", "The body is an image file; post it to /predict."),
        (IMAGE, "application/json", "The body is an image file; post it to /predict."),
        (IMAGE, "application/cloudevents+json", "The body is an image file; post it to /predict."),
        (IMAGE, "", "The body is an image file; post it to /predict."),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "image/png", "The body is an image file; post it to /predict."),
        (DICOM, "application/dicom", "The body is an image file; post it to /predict."),
        (b"%PDF-1.7", "application/pdf", "The body is PDF; post a JPEG, PNG or DICOM file to /predict."),
        (b"PK\x03\x04" + bytes(64), "application/zip", "The body is a ZIP archive; unpack it first; post a JPEG"),
        (FORM, "multipart/form-data; boundary=x", "The body is a form; post an image as a form to /predict."),
        (FORM, "application/json", "The body is a form; post an image as a form to /predict."),
        (b"image=%FF", "application/x-www-form-urlencoded", "The body is a URL-encoded form"),
        (gzip.compress(V1), "application/json", "The body is gzip data without the header `Content-Encoding: gzip`."),
        (TEXT.encode(), "text/plain", "The body is base64 text without JSON around it."),
        (bytes(range(64)), "application/octet-stream", "The body is binary data; post an image file to /predict."),
        (b"<!DOCTYPE html><p>", "text/html", "The body is an HTML page;"),
        (b"<?xml version='1.0'?><a/>", "application/xml", "The body is an XML document;"),
        (b"<a/>", "application/xml", "The body is XML or HTML."),
        (b"", "application/json", "The body is empty."),
        (b"{'instances': []}", "application/json", "The body is not JSON: Expecting property name enclosed in double"),
        (b'{"instances": [1,}', "application/json", "The body is not JSON: Expecting value at line 1, column 18."),
        (b'{"a": "\xe9"}', "application/json", "The body is not JSON: it is not UTF-8 text."),
        (b"{}\n{}", "application/x-ndjson", "The body is not JSON: Extra data at line 2, column 1."),
        (b"[" * 100_000, "application/json", "The body is not JSON: it is nested too deeply."),
    ],
)
def test_a_body_that_is_no_json_is_named(predictor: Predictor, body: bytes, content_type: str, sentence: str) -> None:
    for path in (PREDICT, "/v1/models/pneumonia:explain", INFER):
        reply = predictor.http.post(path, content=body, headers={"content-type": content_type})
        assert reply.status_code == 400
        assert reply.json()["error"].startswith(sentence)
        assert "The event" not in reply.json()["error"]


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (PREDICT, {"inputs": []}, "`inputs` is a V2 request; post it to /v2/models/{name}/infer."),
        (PREDICT, {"image": TEXT}, "The JSON is neither an upload event nor a prediction request."),
        (PREDICT, TEXT, "The JSON is neither an upload event nor a prediction request."),
        (PREDICT, {}, "The JSON is neither an upload event nor a prediction request."),
        (PREDICT, [{"specversion": "1.0"}], "The body is a list of CloudEvents; send each event in a request of its"),
        (INFER, {"instances": [TEXT]}, "`instances` is a V1 request; post it to /v1/models/{name}:predict."),
        (INFER, {"Records": []}, "The body is an event; post it to /v1/models/{name}:predict."),
        (INFER, {"image": TEXT}, "Expected `inputs` with one tensor, as in"),
        (
            "/predict",
            {"instances": [TEXT]},
            "The body is JSON; post events and `instances` to",
        ),
        ("/predict", {"Records": []}, "The body is JSON; post events and `instances` to"),
    ],
)
def test_json_at_the_wrong_address_names_the_right_one(
    predictor: Predictor, path: str, value: Any, sentence: str
) -> None:
    reply = predictor.http.post(path, json=value)
    assert reply.status_code == 400
    assert reply.json()["error"].startswith(sentence)


def test_an_event_that_is_malformed_is_still_called_an_event(predictor: Predictor) -> None:
    assert predictor.http.post(PREDICT, json={}, headers=KNATIVE).json()["error"].startswith("The event ")


@pytest.mark.parametrize("media_type", ["cloudevents-batch+json", "cloudevents+avro", "cloudevents+protobuf"])
def test_cloudevents_in_batches_or_other_formats_are_415(predictor: Predictor, media_type: str) -> None:
    reply = predictor.http.post(PREDICT, content=b"[]", headers={"content-type": f"application/{media_type}"})
    assert reply.status_code == 415
    assert "CloudEvent" in reply.json()["error"]


@pytest.mark.parametrize(
    ("body", "content_type", "sentence"),
    [
        (TEXT.encode(), "text/plain", "The body is base64 text; post the image file itself"),
        (
            f"data:image/jpeg;base64,{TEXT}".encode(),
            "text/plain",
            "The body is base64 text; post the image file itself",
        ),
        (FORM, "application/octet-stream", "The body is a form, but its Content-Type is not multipart/form-data."),
        (IMAGE.translate(None, b"\r\n\0"), "application/x-www-form-urlencoded", "`curl -d` removes line breaks"),
    ],
)
def test_what_is_no_image_at_predict_is_named(
    predictor: Predictor, body: bytes, content_type: str, sentence: str
) -> None:
    reply = predictor.http.post("/predict", content=body, headers={"content-type": content_type})
    assert reply.status_code == 400
    assert sentence in reply.json()["error"]


def test_json_from_curl_and_from_windows_is_read(predictor: Predictor) -> None:
    for body in (V1, b"\xef\xbb\xbf" + V1, V1.decode().encode("utf-16")):
        headers = {"content-type": "application/x-www-form-urlencoded"}
        assert predictor.http.post(PREDICT, content=body, headers=headers).status_code == 200
