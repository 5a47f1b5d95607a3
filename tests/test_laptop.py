"""The whole laptop stack: real services, started, killed and stopped."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig

from laptop import stack
from laptop.home.lock import is_locked
from laptop.home.ports import Ports, load_ports
from laptop.services.process import birth
from laptop.supervision.status import StackStatus
from lungline.datasets.phantom import jpeg
from lungline.errors import StackError
from lungline.home import Home
from lungline.network import is_free
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from tests.support.kafka_tail import tail
from tests.support.laptop_stack import NO_MLFLOW, s3_client
from tests.support.open_ports import command_line, family, listening
from tests.support.waiting import eventually

pytestmark = pytest.mark.stack

BUCKET = "xray-uploads"


@pytest.fixture
def settings(stack_settings: Settings) -> Settings:
    return stack_settings


@pytest.fixture
def connected(settings: Settings) -> Settings:
    return stack.connect(settings)


def results(settings: Settings, keys: set[str], seconds: float = 30) -> list[ResultRecord]:
    """The result records of some uploads, one each; under load an event may come twice, with the same record."""

    def matching(messages: list[Any]) -> list[ResultRecord]:
        records = {
            record.id: record for record in (ResultRecord.model_validate_json(message.value()) for message in messages)
        }
        return [record for record in records.values() if record.upload.key in keys]

    with tail(settings, settings.results_topic) as events:
        events.until(lambda messages: {record.upload.key for record in matching(messages)} == keys, seconds)
        return matching(events.settled(0.3))


def processes(status: StackStatus) -> set[int]:
    """All processes of a stack; the reaper is among them."""
    assert status.pid
    return family(status.pid)


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if birth(pid)}


def test_an_upload_with_an_odd_key_becomes_a_result(settings: Settings, connected: Settings) -> None:
    key = "ward 7/Ünïcode + 100%/a=b&c.jpeg"
    script = (
        "import boto3, sys\n"
        "body = sys.stdin.buffer.read()\n"
        "boto3.client('s3').put_object(Bucket='xray-uploads', Key=sys.argv[1], Body=body)\n"
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "LUNGLINE_"))}
    subprocess.run(
        [sys.executable, "-c", script, key],
        input=jpeg(1, opacities=True),
        env=plain | stack.env(settings),
        check=True,
    )
    (record,) = results(connected, {key})
    assert record.outcome == "judged"
    assert record.upload.bucket == BUCKET


def test_a_scanner_s_multipart_upload_becomes_a_result(settings: Settings, connected: Settings) -> None:
    scanner = s3_client(stack.env(settings, scanner=True))
    image = jpeg(2, opacities=False)
    body = image + b"\0" * (12 * 2**20 - len(image))
    transfer = TransferConfig(multipart_threshold=5 * 2**20, multipart_chunksize=5 * 2**20)
    scanner.upload_fileobj(io.BytesIO(body), BUCKET, "large.jpg", Config=transfer)
    (record,) = results(connected, {"large.jpg"})
    assert record.outcome == "judged"


def test_simultaneous_uploads_become_one_result_each(settings: Settings, connected: Settings) -> None:
    scanner = s3_client(stack.env(settings, scanner=True))
    images = {f"many/{number}.jpg": jpeg(number, opacities=bool(number % 2)) for number in range(21)}
    with ThreadPoolExecutor(21) as pool:
        list(pool.map(lambda item: scanner.put_object(Bucket=BUCKET, Key=item[0], Body=item[1]), images.items()))
    assert len(results(connected, set(images))) == 21


def test_a_file_that_is_no_image_becomes_a_dead_letter(settings: Settings, connected: Settings) -> None:
    s3_client(stack.env(settings)).put_object(Bucket=BUCKET, Key="not an image.jpg", Body=b"hello")
    with tail(connected, connected.dead_letters_topic) as letters:
        (letter,) = letters.until(lambda records: len(records) == 1)
    assert dict(letter.headers() or [])["ce_knativeerrorcode"] == b"400"


def lungline(settings: Settings, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line on the stack, as a person would."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("LUNGLINE_")}
    command = [sys.executable, "-m", "cli", *arguments, "--home", str(settings.home)]
    env = plain | {"LUNGLINE_MLFLOW_URI": NO_MLFLOW} | environment
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_a_refused_upload_is_shown_at_once(settings: Settings, tmp_path: Path) -> None:
    """It took a minute, and ended in a sentence about missing results."""
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "good.jpg").write_bytes(jpeg(5, opacities=False))
    begin = time.monotonic()
    ended = lungline(settings, "upload", str(tmp_path / "text.png"), str(tmp_path / "good.jpg"), "/etc/hosts")
    assert time.monotonic() - begin < 30
    assert ended.returncode == 1
    assert ended.stderr == ""
    labels = {line.split()[-1]: line.split()[0] for line in ended.stdout.splitlines() if line[:10].strip()}
    assert labels == {"text.png": "Refused", "hosts": "Refused", "good.jpg": "Unsure"}
    assert "The file's content is not an image" in ended.stdout


def test_two_files_of_one_name_are_two_uploads(settings: Settings, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jpg").write_bytes(jpeg(6, opacities=folder == "a"))
    ended = lungline(settings, "upload", *(str(tmp_path / folder / "x.jpg") for folder in "ab"), "--json")
    assert ended.returncode == 0, ended.stderr
    records = json.loads(ended.stdout)
    assert {record["upload"]["key"] for record in records} == {"a/x.jpg", "b/x.jpg"}
    assert "a/x.jpg, b/x.jpg" in ended.stderr


NOWHERE = "http://127.0.0.1:9"
PROXIES = {
    name: NOWHERE for scheme in ("http", "https", "all") for name in (f"{scheme}_proxy", f"{scheme}_PROXY".upper())
}
FOREIGN = {
    "AWS_PROFILE": "nobody",
    "AWS_CONFIG_FILE": "/etc/hosts",
    "AWS_ENDPOINT_URL": NOWHERE,
    "AWS_CA_BUNDLE": "/none",
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "y",
    "KUBECONFIG": "/none",
    "MLFLOW_TRACKING_URI": NOWHERE,
    "MLFLOW_TRACKING_TOKEN": "x",
    "OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE,
    "OTEL_TRACES_EXPORTER": "nonsense",
    "PYTHONIOENCODING": "ascii",
}


@pytest.mark.parametrize("environment", [PROXIES, FOREIGN], ids=["proxies", "foreign"])
def test_the_environment_of_others_changes_no_command(
    settings: Settings, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "x.jpg").write_bytes(jpeg(7, opacities=True))
    for command in (
        *(
            ["status"],
            ["env"],
            ["upload", str(tmp_path / "x.jpg")],
            ["results"],
            ["reconcile"],
            ["replay"],
            ["monitor"],
        ),
        *(["worklist", "link"], ["worklist", "rebuild"], ["export", "-o", str(tmp_path / "results.csv")]),
    ):
        ended = lungline(settings, *command, **environment)
        assert ended.returncode == 0, f"{command}: {ended.stderr}"


@pytest.mark.parametrize("name", ["store", "broker", "bridge", "predictor", "trigger"])
def test_a_killed_service_is_restarted_and_loses_nothing(settings: Settings, connected: Settings, name: str) -> None:
    scanner = s3_client(stack.env(settings, scanner=True))
    before = stack.status(settings).service(name)
    assert before.pid
    address = before.address
    keys = {f"{name}/{when}.jpg" for when in ("before", "after")}
    scanner.put_object(Bucket=BUCKET, Key=f"{name}/before.jpg", Body=jpeg(3, opacities=True))
    if name == "store":
        results(connected, {f"{name}/before.jpg"})  # the one service whose death may lose what nobody has read yet
    os.kill(before.pid, signal.SIGKILL)
    eventually(lambda: stack.status(settings).service(name).pid not in {None, before.pid})
    after = stack.wait(settings, name)
    assert after.restarts == before.restarts + 1
    assert after.address == address
    assert "SIGKILL" in (after.note or "")
    scanner.put_object(Bucket=BUCKET, Key=f"{name}/after.jpg", Body=jpeg(4, opacities=True))
    assert {record.upload.key for record in results(connected, keys)} == keys


def test_a_second_start_says_that_a_stack_runs(settings: Settings) -> None:
    with pytest.raises(StackError, match=r"^A stack already runs in .*: `lungline status` shows it\.$"):
        stack.up(settings)


def test_everything_listens_on_loopback_only(settings: Settings) -> None:
    addresses = {address for pid in processes(stack.status(settings)) for address in listening(pid)}
    assert addresses == {"127.0.0.1"}


def test_command_lines_and_logs_hold_no_secrets_and_no_keys(settings: Settings) -> None:
    scanner = s3_client(stack.env(settings, scanner=True))
    scanner.put_object(Bucket=BUCKET, Key="Jane Doe 1950/x.jpg", Body=b"")
    connected = stack.connect(settings)
    with tail(connected, connected.dead_letters_topic) as letters:
        letters.until(lambda records: any(b"Jane" in (record.value() or b"") for record in records))
    shown = "".join(command_line(pid) for pid in processes(stack.status(settings)))
    shown += "".join(path.read_text(errors="replace") for path in Home(settings.home).file("logs").iterdir())
    secrets = json.loads(Home(settings.home).file("credentials.json").read_bytes())
    for secret in (
        *(key["secret_key"] for key in (secrets["owner"], secrets["scanner"])),
        *secrets["signing"].values(),
    ):
        assert secret not in shown
    assert "Jane" not in shown


def test_lungline_connects_through_the_exported_variables(
    settings: Settings, connected: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in stack.env(settings).items():
        monkeypatch.setenv(name, value)
    exported = Settings()
    assert exported.s3_endpoint == connected.s3_endpoint
    assert exported.s3_secret_key == connected.s3_secret_key
    assert exported.kafka_bootstrap == connected.kafka_bootstrap
    # In such a shell the stack's own addresses are still the stack's own.
    assert stack.connect(exported) == connected
    assert stack.env(exported, scanner=True) == stack.env(settings, scanner=True)


def test_one_stack_s_whole_life(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", mlflow_uri=NO_MLFLOW)
    changes: list[tuple[str, str]] = []
    first = stack.up(settings, lambda service, state: changes.append((service, state)))
    assert first.service("predictor").state == "waiting for a champion"
    assert first.service("mlflow").state == "external"
    assert ("store", "starting") in changes
    assert ("store", "ready") in changes
    pids = processes(first)
    assert stack.down(settings) is True
    assert not alive(pids)
    assert stack.down(settings) is False
    stopped = stack.status(settings)
    assert not stopped.running
    assert {service.state for service in stopped.services} == {"stopped", "external"}

    ports = load_ports(Home(settings.home))
    assert isinstance(ports, Ports)
    with socket.create_server(("127.0.0.1", ports.s3)):
        second = stack.up(settings)
        assert second.service("broker").address == first.service("broker").address  # as it was
        assert second.service("store").address != first.service("store").address  # another program listens there
        moved = load_ports(Home(settings.home))
        assert moved
        note = f"Port {ports.s3} is used by another program: it has port {moved.s3} now."
        assert note in second.service("store").remark
        assert second.service("broker").remark == ""
        assert second.pid
        pids = processes(second)
        os.kill(second.pid, signal.SIGKILL)
        eventually(lambda: not alive(pids), seconds=10)

    assert not stack.status(settings).running
    eventually(lambda: all(map(is_free, astuple(moved))), seconds=30)  # nobody holds them: so anybody can
    with socket.create_server(("127.0.0.1", moved.gateway)):
        third = stack.up(settings)  # the lock of a killed supervisor is free
        assert third.running
        assert f"Port {moved.gateway} is used by another program" in third.service("gateway").remark
        assert third.service("store").remark == ""
        stack.down(settings)
    assert not is_locked(Home(settings.home))


def test_an_attached_stack_ends_with_its_process(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from laptop import stack\n"
        "from lungline.settings import Settings\n"
        f"print(stack.up(Settings(home=sys.argv[1], mlflow_uri={NO_MLFLOW!r}), attached=True).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout
        pids = family(int(caller.stdout.readline()))
        caller.kill()
    eventually(lambda: not alive(pids), seconds=15)


def test_ctrl_c_while_the_stack_starts_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from laptop import stack\n"
        "from lungline.settings import Settings\n"
        f"settings = Settings(home=sys.argv[1], mlflow_uri={NO_MLFLOW!r})\n"
        "stack.up(settings, lambda service, state: print(state, flush=True))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as caller:
        assert caller.stdout
        while caller.stdout.readline() != "starting\n":
            pass
        pids = family(caller.pid) - {caller.pid}
        assert pids
        caller.send_signal(signal.SIGINT)
    assert caller.returncode
    assert not alive(pids)
    assert not is_locked(Home(tmp_path))


def test_a_failed_start_names_the_reason_and_leaves_nothing(tmp_path: Path) -> None:
    home = Home.make(tmp_path)
    home.file("store", "data").write_text("in the way")
    with pytest.raises(
        StackError, match=r"store/data is a file where a folder should be: move it away, then `lungline up`\.$"
    ):
        stack.up(Settings(home=tmp_path, mlflow_uri=NO_MLFLOW))
    assert not is_locked(home)


def test_without_a_stack_there_is_nothing_to_connect_to(tmp_path: Path) -> None:
    for function in (stack.connect, stack.env):
        with pytest.raises(StackError, match=r"^No stack runs in .*: `lungline up` starts one\.$"):
            function(Settings(home=tmp_path))
    assert stack.status(Settings(home=tmp_path)).services == ()


def test_with_an_external_store_the_rest_is_started(settings: Settings, tmp_path: Path) -> None:
    real = stack.connect(settings)
    borrowed = real.model_copy(update={"home": tmp_path, "kafka_bootstrap": None, "predictor_uri": None})
    try:
        started = stack.up(borrowed)
        assert started.service("store").state == "external"
        assert started.service("store").address == real.s3_endpoint
        assert started.service("bridge").state == "external"
        assert "must send its upload events to Kafka itself" in (started.service("bridge").note or "")
        assert started.service("broker").state == "ready"
    finally:
        stack.down(borrowed)


def test_ports_are_kept_unless_another_program_uses_them(tmp_path: Path) -> None:
    ports = Ports.choose()
    assert Ports.choose(ports) == ports
    with socket.create_server(("127.0.0.1", ports.broker)):
        assert not is_free(ports.broker)
        assert Ports.choose(ports).broker != ports.broker
        assert Ports.choose(ports).s3 == ports.s3
