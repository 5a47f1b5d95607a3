"""The predictor under load, and its process."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from lungline.datasets.phantom import jpeg
from lungline.deployment.inference_service import render
from lungline.diagnosis.diagnoser import Diagnoser
from lungline.storage.s3 import Storage
from tests.support.object_store import SECRET_KEY
from tests.support.predictor import (
    INFER,
    PREDICT,
    Predictor,
    b64,
    deliver,
    put,
    running_predictor,
)


def test_200_concurrent_images_each_get_their_own_prediction(
    predictor: Predictor, store: Storage, diagnoser: Diagnoser
) -> None:
    images = [jpeg(seed, opacities=bool(seed % 2)) for seed in range(200)]
    expected = [diagnoser.diagnose(image, heatmap=False).probability for image in images]
    assert len(set(expected)) > 180  # else a mixed-up answer could pass for the right answer
    uploads = [put(store, image) for image in images]

    def by_event(number: int) -> float:
        reply = deliver(predictor, uploads[number]).json()
        assert reply["upload"]["key"] == uploads[number].key
        return reply["probability"]

    def by_v1(number: int) -> float:
        instances = {"instances": [b64(images[number])]}
        return predictor.http.post(PREDICT, json=instances).json()["predictions"][0]["probability"]

    def by_v2(number: int) -> float:
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [b64(images[number])]}
        return predictor.http.post(INFER, json={"inputs": [tensor]}).json()["outputs"][1]["data"][0]

    def by_form(number: int) -> float:
        return predictor.http.post("/predict", files={"image": images[number]}).json()["probability"]

    ways = [by_event, by_v1, by_v2, by_form]
    jobs = [(way, number) for number in range(200) for way in ways]
    with ThreadPoolExecutor(64) as pool:
        probabilities = list(pool.map(lambda job: job[0](job[1]), jobs))
    assert probabilities == [expected[number] for _, number in jobs]


def test_sigterm_answers_what_is_in_flight(store: Storage, versions: Path, tmp_path: Path) -> None:
    """The process ends within 5 seconds."""
    many = json.dumps({"instances": [b64(jpeg(1, opacities=True, size=1000))] * 8})
    answered: list[tuple[int, float]] = []
    with running_predictor(versions / "1", store.endpoint, tmp_path / "log") as stopping, ThreadPoolExecutor(4) as pool:
        stopping.wait(stopping.ready)

        def send() -> None:
            with contextlib.suppress(httpx.TransportError):  # a request after the signal may not be answered
                while True:
                    reply = stopping.http.post("/v1/models/pneumonia:explain", content=many)
                    answered.append((reply.status_code, time.monotonic()))

        jobs = [pool.submit(send) for _ in range(4)]
        stopping.wait(lambda: len(answered) >= 4)
        signalled = time.monotonic()
        stopping.process.send_signal(signal.SIGTERM)
        assert stopping.process.wait(timeout=10) == 0
        assert time.monotonic() - signalled < 5
        for job in jobs:
            job.result()
    assert {status for status, _ in answered} == {200}
    assert max(finished for _, finished in answered) > signalled


def test_requests_end_before_a_predictor_is_killed() -> None:
    """On a laptop by its supervisor; on Knative a revision's timeout after its proxy is told to end."""
    from laptop.services.predictor import Predictor
    from serving.model_server import STOP_SECONDS

    assert Predictor.stop_timeout > STOP_SECONDS
    assert render("pneumonia", "lungline")["spec"]["predictor"]["timeout"] > STOP_SECONDS


def test_a_wrong_setting_is_one_sentence() -> None:
    environment = os.environ | {"LUNGLINE_IMAGE_MAX_BYTE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "serving"], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "Did you mean LUNGLINE_IMAGE_MAX_BYTES?" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_library_is_in_the_process_that_it_does_not_need(predictor: Predictor) -> None:
    maps = Path(f"/proc/{predictor.process.pid}/maps")
    if not maps.exists():
        pytest.skip("no /proc: the libraries of another process cannot be listed")
    loaded = maps.read_text()
    assert [name for name in ("tensorflow", "mlflow", "pandas", "grpc") if name in loaded] == []


def test_nothing_listens_beyond_this_machine(predictor: Predictor) -> None:
    table = Path("/proc/net/tcp")
    if not table.exists():
        pytest.skip("no /proc: the listeners of the machine cannot be listed")
    port = predictor.http.base_url.port
    local = [line.split()[1] for line in table.read_text().splitlines()[1:] if line.split()[3] == "0A"]
    assert [address for address in local if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


def test_no_key_and_no_secret_is_in_the_log(predictor: Predictor, store: Storage) -> None:
    deliver(predictor, put(store))
    deliver(predictor, put(store, b"not an image"))
    log = predictor.log.read_text()
    assert "upload handled" in log
    for line in log.splitlines():
        json.loads(line)
    for secret in ("Doe", "ward", SECRET_KEY, "169.254"):
        assert secret not in log


def test_no_request_of_the_schema_is_a_server_error(predictor: Predictor, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{predictor.http.base_url}/openapi.json"]
    # Phases in which each request stands alone; the seed makes a failure come again.
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", "25", "--seed", "7", "--no-color"]
    command += ["--checks", "not_a_server_error", "--suppress-health-check", "all"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Unresolvable references" not in done.stdout
