"""Which model the predictor serves, and what it says of it."""

import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lungline.diagnosis.diagnoser import Diagnoser
from lungline.package.card import MODEL
from lungline.package.package import Package
from lungline.storage.s3 import Storage
from tests.support.predictor import (
    IMAGE,
    INFER,
    METADATA,
    PREDICT,
    Predictor,
    b64,
    deliver,
    put,
    running_predictor,
)


def test_metadata_names_the_package_that_answers(predictor: Predictor, diagnoser: Diagnoser) -> None:
    metadata = predictor.http.get(METADATA).json()
    assert (metadata["versions"], metadata["sha256"]) == (["1"], diagnoser.package.sha256)
    readiness = predictor.http.get("/v1/models/pneumonia").json()
    assert readiness == {"name": "pneumonia", "ready": True, "version": "1", "sha256": diagnoser.package.sha256}


def test_kserve_answers_its_protocol(predictor: Predictor) -> None:
    answers = {
        "/": {"status": "alive"},
        "/v1/models": {"models": ["pneumonia"]},
        "/v2/models": {"models": ["pneumonia"]},
        "/v2/health/live": {"live": True},
        "/v2/health/ready": {"ready": True},
        "/v2/models/pneumonia/ready": {"name": "pneumonia", "ready": True},
    }
    for path, answer in answers.items():
        assert predictor.http.get(path).json() == answer, path
    assert predictor.http.get("/v2").json()["name"] == "kserve"
    assert predictor.http.get("/v2/models/unknown/ready").status_code == 404
    assert predictor.http.post("/v1/models/unknown:predict", json={}).status_code == 404


def test_metrics_cover_requests_results_and_the_model(predictor: Predictor, store: Storage) -> None:
    upload = put(store)
    assert deliver(predictor, upload).status_code == 200
    assert predictor.http.post(PREDICT, content=b"no event").status_code == 400
    assert predictor.http.get("/nothing/Doe-Jane").status_code == 404
    text = predictor.http.get("/metrics").text
    for line in (
        f'http_requests_total{{code="400",method="POST",route="{PREDICT}"}}',
        'http_requests_total{code="404",method="GET",route="other"}',
        'lungline_stage_seconds_count{stage="save"}',
        "lungline_model_ready 1.0",
        "lungline_model_refused 0.0",
        'version="1"',
    ):
        assert line in text, line
    assert "Doe" not in text
    assert upload.identity not in text


def test_the_documentation_shows_every_route(predictor: Predictor) -> None:
    page = predictor.http.get("/docs").text
    assert "https://" not in page
    for address in re.findall(r"(?:src|href)=\"(/[^\"]+)", page):
        assert predictor.http.get(address).status_code == 200, address
    described = predictor.http.get("/openapi.json").json()["paths"]
    for path in (PREDICT, INFER, "/predict", METADATA, "/v2/health/ready"):
        assert path in described


def test_nothing_is_ready_before_a_package_is_tested(store: Storage, versions: Path, tmp_path: Path) -> None:
    upload = put(store)
    with running_predictor(tmp_path / "current", store.endpoint, tmp_path / "log") as early:
        for path in ("/v2/health/ready", "/v2/models/pneumonia/ready", "/v1/models/pneumonia", METADATA):
            assert early.status(path) == 503, path
        assert deliver(early, upload).status_code == 503
        assert early.http.post("/predict", content=IMAGE).status_code == 503
        assert early.status("/v2/health/live") == 200
        (tmp_path / "current").symlink_to(versions / "1")
        early.wait(early.ready)
        assert deliver(early, upload).status_code == 200


def point(link: Path, target: Path) -> None:
    draft = link.with_name("draft")
    draft.symlink_to(target)
    draft.replace(link)


def test_models_are_swapped_under_load(store: Storage, versions: Path, tmp_path: Path) -> None:
    """No request fails, and none is answered by a mixture of two models."""
    diagnosers = {version: Diagnoser(Package.load(versions / version)) for version in ("1", "2")}
    expected = {version: diagnoser.diagnose(IMAGE).probability for version, diagnoser in diagnosers.items()}
    current, stop, replies = tmp_path / "current", threading.Event(), []
    point(current, versions / "1")
    with running_predictor(current, store.endpoint, tmp_path / "log") as swapping, ThreadPoolExecutor(4) as pool:
        swapping.wait(swapping.ready)

        def load() -> None:
            while not stop.is_set():
                reply = swapping.http.post("/predict", content=IMAGE)
                replies.append((reply.status_code, reply.json()["model_version"], reply.json()["probability"]))

        jobs = [pool.submit(load) for _ in range(4)]
        try:
            for version in ("2", "1", "2"):
                point(current, versions / version)
                swapping.wait(lambda version=version: swapping.version() == version)
        finally:
            stop.set()
        for job in jobs:
            job.result()
    assert {version for _, version, _ in replies} == {"1", "2"}
    assert all(reply == (200, reply[1], expected[reply[1]]) for reply in replies)


def test_the_old_package_serves_on_when_the_new_is_broken(store: Storage, versions: Path, tmp_path: Path) -> None:
    broken, current = shutil.copytree(versions / "2", tmp_path / "broken"), tmp_path / "current"
    data = (broken / MODEL).read_bytes()
    (broken / MODEL).write_bytes(data[:1000])
    point(current, versions / "1")
    with running_predictor(current, store.endpoint, tmp_path / "log") as steady:
        steady.wait(steady.ready)
        point(current, broken)
        steady.wait(lambda: "model refused" in steady.log.read_text())
        assert steady.version() == "1"
        assert steady.http.post("/predict", content=IMAGE).json()["model_version"] == "1"
        (broken / MODEL).write_bytes(data)  # the copy was not complete: now it is
        steady.wait(lambda: steady.version() == "2")
        assert steady.log.read_text().count("model refused") == 1


def test_a_replaced_folder_is_another_package(store: Storage, versions: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(versions / "1", tmp_path / "model")
    with running_predictor(folder, store.endpoint, tmp_path / "log") as predictor:
        predictor.wait(predictor.ready)
        shutil.copytree(versions / "2", tmp_path / "fresh")
        folder.rename(tmp_path / "old")
        (tmp_path / "fresh").rename(folder)
        predictor.wait(lambda: predictor.version() == "2")


def test_the_version_of_the_metadata_answers_under_its_path(predictor: Predictor) -> None:
    (version,) = predictor.http.get(METADATA).json()["versions"]
    path = f"{METADATA}/versions/{version}"
    assert predictor.http.get(path).json() == predictor.http.get(METADATA).json()
    assert predictor.http.get(f"{path}/ready").json() == {"name": "pneumonia", "ready": True}
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [b64(IMAGE)]}
    reply = predictor.http.post(f"{path}/infer", json={"inputs": [tensor]})
    assert reply.json() == predictor.http.post(f"{METADATA}/infer", json={"inputs": [tensor]}).json()


@pytest.mark.parametrize("version", ["2", "01", "1.0", "latest", "1%20", "-1", "v1", "1%2Fx"])
def test_any_other_version_is_404(predictor: Predictor, version: str) -> None:
    path = f"{METADATA}/versions/{version}"
    replies = [
        predictor.http.get(path),
        predictor.http.get(f"{path}/ready"),
        predictor.http.post(f"{path}/infer", json={"inputs": []}),
    ]
    assert [reply.status_code for reply in replies] == [404] * 3
    assert all(reply.json()["error"].endswith(".") for reply in replies)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/models/other:predict", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("GET", "/v1/models/other", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/other/ready", 404),
        ("GET", "/v2/models/other/versions/1", 404),
        ("GET", "/nothing", 404),
        ("GET", PREDICT, 405),
        ("PUT", "/predict", 405),
        ("GET", f"{METADATA}/versions/1/infer", 405),
        ("DELETE", METADATA, 405),
        ("POST", "/v2/health/ready", 405),
        ("POST", PREDICT, 400),
        ("POST", f"{METADATA}/infer", 400),
        ("POST", "/predict", 400),
    ],
)
def test_errors_have_one_form_on_every_route(predictor: Predictor, method: str, path: str, status: int) -> None:
    reply = predictor.http.request(method, path)
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/json"
    assert reply.json()["error"].endswith(".")
    assert "detail" not in reply.json()
    if status == 405:
        assert reply.headers["allow"] in {"GET", "POST"}
