"""The log store of the production overlay: the real VictoriaLogs, with the very arguments of its manifest."""

import json
import logging
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from lungline.logs import JsonFormatter
from tests.cluster.binaries import PROGRAMS
from tests.support.manifests_of import MANIFESTS, named
from tests.support.object_store import free_ports
from tests.support.waiting import eventually

PROGRAM = PROGRAMS["victoria-logs"].path
NOW = datetime.now(UTC)

pytestmark = pytest.mark.skipif(
    not PROGRAM.exists(), reason="VictoriaLogs is not built: python -m tests.cluster.binaries builds it with Go"
)


@contextmanager
def running(folder: Path) -> Iterator[httpx.Client]:
    """The store on a folder, stopped by SIGTERM as a pod is."""
    (store,) = named("production", "Deployment")["logs"]["spec"]["template"]["spec"]["containers"]
    arguments = [argument.replace("/logs", str(folder)) for argument in store["args"]]
    address = f"127.0.0.1:{free_ports(1)[0]}"
    with subprocess.Popen([PROGRAM, *arguments, f"-httpListenAddr={address}"], stderr=subprocess.DEVNULL) as process:
        try:
            with httpx.Client(base_url=f"http://{address}", timeout=20) as client:
                eventually(lambda: is_ready(client, store["readinessProbe"]["httpGet"]["path"]))
                yield client
        finally:
            process.terminate()
            process.wait(20)


def is_ready(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).status_code == 200
    except httpx.TransportError:
        return False


def push(client: httpx.Client, line: str, days: float = 0) -> None:
    """Send a line to the address of the collector's configuration as the collector does, in protobuf and snappy."""
    configuration = (MANIFESTS / "components/logs/config.alloy").read_text()
    path = configuration.partition(":9428")[2].partition('"')[0]
    seconds = int((NOW - timedelta(days=days)).timestamp())
    entry = field(1, b"\x08" + varint(seconds)) + field(2, line.encode())
    stream = field(1, b'{app="worklist", container="worklist", pod="worklist-1"}') + field(2, entry)
    headers = {"content-type": "application/x-protobuf", "content-encoding": "snappy"}
    assert client.post(path, content=literal(field(1, stream)), headers=headers).status_code == 204


def field(number: int, value: bytes) -> bytes:
    """A field of a protobuf message that holds bytes."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number % 128 | 128]) + varint(number // 128)


def literal(content: bytes) -> bytes:
    """Snappy's block format, with one chunk that is not compressed."""
    return varint(len(content)) + bytes([61 << 2]) + (len(content) - 1).to_bytes(2, "little") + content


def query(client: httpx.Client, wanted: str) -> list[dict[str, str]]:
    client.get("/internal/force_flush")
    answer = client.get("/select/logsql/query", params={"query": f"_time:1y {wanted}"})
    return [json.loads(line) for line in answer.text.splitlines()]


def test_lines_of_six_months_ago_outlive_a_restart(tmp_path: Path) -> None:
    with running(tmp_path) as client:
        for days in (0, 184, 199, 202):
            push(client, f"written {days} days ago", days)
        assert len(query(client, "app:worklist")) == 3
    with running(tmp_path) as client:
        kept = {line["_msg"] for line in query(client, "container:worklist")}
        assert kept == {f"written {days} days ago" for days in (0, 184, 199)}
        assert client.post("/delete/run_task", params={"filter": "*"}).status_code == 400
        assert len(query(client, "*")) == 3


def test_our_lines_are_searched_by_the_upload(tmp_path: Path) -> None:
    record = logging.makeLogRecord({"msg": "Saved the result.", "levelname": "INFO", "identity": "cafe" * 8})
    line = JsonFormatter().format(record)
    with running(tmp_path) as client:
        push(client, line)
        push(client, "a line of Kafka")
        (match,) = query(client, f"identity:{'cafe' * 8}")
        assert match["_msg"] == "Saved the result."
        assert match["level"] == "info"
        assert [each["_msg"] for each in query(client, "Kafka")] == ["a line of Kafka"]
