"""The worst files that are within all limits, in the memory that a pod has."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support import worst_files
from tests.support.control_group import limited_memory
from tests.support.object_store import free_ports
from tests.support.predictor import INFER, PREDICT, Predictor, b64
from tests.support.tiny_package import write_tiny_package

pytestmark = [pytest.mark.attack, pytest.mark.stack, pytest.mark.timeout(600)]

# As in manifests/base/inference/runtime.yaml and manifests/base/worklist/worklist.yaml.
PREDICTOR_MEGABYTES, WORKLIST_MEGABYTES = 1024, 512
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    makers = (worst_files.rgba_png, worst_files.progressive_jpeg, worst_files.rle_dicom, worst_files.bmp)
    for make in makers:
        (folder / make.__name__).write_bytes(make())
    return {path.name: path for path in folder.iterdir()}


def test_the_predictor_stays_within_its_memory(files: dict[str, Path], tmp_path: Path) -> None:
    """Five of each at once, and requests of the largest size in both protocols."""
    write_tiny_package(tmp_path / "1")
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "serving", "--model_dir", str(tmp_path / "1"), "--http_port", str(port)]
    with (
        limited_memory(PREDICTOR_MEGABYTES) as group,
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(group.command(command), stdout=log, stderr=log, env=_nowhere()) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as http,
    ):
        try:
            predictor = Predictor(process, http, tmp_path / "log")
            predictor.wait(predictor.ready)
            with ThreadPoolExecutor(5) as pool:
                for name, path in files.items():
                    answers = list(pool.map(lambda _, path=path: _post(http, "/predict", path.read_bytes()), range(5)))
                    assert set(answers) <= {200, 408, 503}, (name, answers)
                    assert 200 in answers, name
                image = b64(files["bmp"].read_bytes()).encode()
                bodies = [
                    (PREDICT, b'{"instances": ["' + image + b'"]}'),
                    (INFER, b'{"inputs": [[' + b"0," * 42_000_000 + b"0]]}"),
                ]
                answers = list(pool.map(lambda body: _post(http, *body), bodies * 2))
            assert set(answers) <= {200, 400, 408, 503}, answers
            assert process.poll() is None
            assert group.killed == 0
            assert http.get("/v2/health/ready").status_code == 200
            kept = _resident(process.pid)
            assert kept < 450 * 2**20, f"{kept / 2**20:.0f} MiB stay"
            print(f"predictor: peak {group.peak / 2**20:.0f} MiB, {kept / 2**20:.0f} MiB stay")
        finally:
            process.kill()
            process.wait(10)


WORKLIST = """
import json, sys, resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import worklist.web.app
from lungline.errors import LunglineError
from lungline.settings import Settings
from lungline.results.records import ReadFacts
from lungline.storage.objects import StoredObject
from tests.support.worklist_site import record
from worklist.exports.images import ImageRenderer
from datetime import UTC, datetime

class Files:
    def get(self, bucket, key, version_id=None, max_bytes=None):
        data = (Path(sys.argv[1]) / key).read_bytes()
        return StoredObject(data, "e", len(data), datetime.now(UTC), None)

renderer = ImageRenderer(Files(), Settings())
def show(number):
    name = sorted(path.name for path in Path(sys.argv[1]).iterdir())[number % 4]
    base = record(number)
    size = (Path(sys.argv[1]) / name).stat().st_size
    read = ReadFacts(etag="e", version_id=None, size=size, modified=datetime.now(UTC))
    upload = base.upload.model_copy(update={"key": name, "identity": f"{number:032x}", "etag": "e"})
    shown = base.model_copy(update={"upload": upload, "read": read, "image": None, "heatmap": None})
    try:
        renderer.thumb(shown) if number % 3 else renderer.xray(shown)
        return "shown"
    except LunglineError as exc:
        return f"{type(exc).__name__}: {exc}"
with ThreadPoolExecutor(16) as pool:
    print(json.dumps(list(pool.map(show, range(16)))))
"""


def test_the_worklist_stays_within_its_memory(files: dict[str, Path]) -> None:
    """Sixteen X-rays and thumbnails at once."""
    folder = next(iter(files.values())).parent
    with limited_memory(WORKLIST_MEGABYTES) as group:
        command = group.command([sys.executable, "-c", WORKLIST, str(folder)])
        done = subprocess.run(command, capture_output=True, timeout=500, check=False, env=_nowhere())
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        assert group.killed == 0
        outcomes: list[str] = json.loads(done.stdout)
        assert "shown" in outcomes
        assert all(outcome.startswith(("shown", "Busy", "ImageRefused")) for outcome in outcomes), outcomes
        print(f"worklist: peak {group.peak / 2**20:.0f} MiB, {outcomes.count('shown')} of 16 shown")


def _post(http: httpx.Client, path: str, body: bytes) -> int:
    headers = JSON if path != "/predict" else {}
    try:
        return http.post(path, content=body, headers=headers).status_code
    except httpx.TransportError:
        return 503  # refused while the body was on its way, and the connection closed


def _nowhere() -> dict[str, str]:
    return os.environ | {
        "LUNGLINE_S3_ENDPOINT": "http://127.0.0.1:9",
        "LUNGLINE_S3_ACCESS_KEY": "a",
        "LUNGLINE_S3_SECRET_KEY": "b",
    }


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
