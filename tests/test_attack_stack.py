"""What another user of the machine, and a page in the owner's browser, try at every port of a running stack.

Nothing here harms the stack: `make attack ARGS="--home FOLDER"` runs it against one of your own (its home in
ATTACK_HOME), else the tests start one.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from laptop import stack
from laptop.home.credentials import load_credentials
from laptop.home.ports import Ports, load_ports
from lungline.events.proof import HEADER
from lungline.home import Home, read_json
from lungline.network import HOST
from lungline.settings import Settings, load_settings
from lungline.storage.s3 import Storage
from tests.support.http_stand_in import Quiet, serving
from tests.support.open_ports import command_line
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.attack, pytest.mark.stack]

NOBODY = 65534
CROSS_SITE = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
# The object store's own listeners, behind its gate.
INNER = ("s3_grpc", "master", "master_grpc", "volume", "volume_grpc", "filer", "admin")


@pytest.fixture(scope="module")
def target(request: pytest.FixtureRequest) -> Settings:
    """The settings of the stack that is attacked, as its owner has them."""
    if home := os.environ.get("ATTACK_HOME"):
        return stack.connect(load_settings({"home": home}))
    connected = stack.connect(request.getfixturevalue("stack_settings"))
    eventually(lambda: all(each.state in {"ready", "external"} for each in stack.status(connected).services), 60)
    return connected


@pytest.fixture(scope="module")
def ports(target: Settings) -> Ports:
    ports = load_ports(Home(target.home))
    assert ports
    return ports


def as_stranger(code: str, *arguments: str | int) -> str:
    """Run Python as another user, where this one may become it; returns what it prints."""
    python = shutil.which("python3", path="/usr/bin:/bin")  # which every user may run
    become: list[str] = []
    if python and os.geteuid() == 0 and shutil.which("setpriv"):
        become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    command = [*become, python or sys.executable, "-I", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def statuses(requests: list[tuple[str, str, dict[str, str]]]) -> list[int]:
    """The HTTP statuses that another user gets for these requests: method, URL, headers."""
    code = (
        "import json, sys, urllib.request, urllib.error\n"
        "opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))\n"
        "def status(method, url, headers):\n"
        "    data = b'{}' if method == 'POST' else None\n"
        "    try:\n"
        "        wanted = urllib.request.Request(url, data=data, method=method, headers=headers)\n"
        "        return opener.open(wanted, timeout=10).status\n"
        "    except urllib.error.HTTPError as exc:\n"
        "        return exc.code\n"
        "print(json.dumps([status(*each) for each in json.loads(sys.argv[1])]))\n"
    )
    return json.loads(as_stranger(code, json.dumps(requests)))


def test_store_gives_and_deletes_nothing_without_keys(target: Settings) -> None:
    buckets = (target.uploads_bucket, target.results_bucket, target.patients_bucket, target.models_bucket)
    tried = [
        (method, f"{target.s3_endpoint}/{bucket}{query}", dict[str, str]())
        for bucket in buckets
        for method, query in (("GET", "?list-type=2"), ("DELETE", ""), ("PUT", "/attack"))
    ]
    assert set(statuses(tried)) == {403}
    assert all(Storage.from_settings(target).list(bucket) is not None for bucket in buckets)


def test_parts_of_store_and_broker_are_out_of_reach(target: Settings, ports: Ports) -> None:
    """Master, volumes and filer of the store ask nobody, so they are in a network of their own."""
    reports = [read_json(target.home / "run" / name) for name in ("store_gate.json", "kafka_gate.json")]
    if not all(isinstance(report, dict) and report.get("private") for report in reports):
        pytest.skip("this system allows no network namespaces: `lungline doctor` says so")
    numbers = [getattr(ports, name) for name in INNER]
    numbers += [report["port"] for report in reports if isinstance(report, dict) and "port" in report]
    code = (
        "import socket, sys\n"
        "for port in sys.argv[1:]:\n"
        "    with socket.socket() as tried:\n"
        "        tried.settimeout(5)\n"
        "        print(tried.connect_ex(('127.0.0.1', int(port))))\n"
    )
    assert set(as_stranger(code, *numbers).split()) == {"111"}  # connection refused


def test_log_of_changes_asks_for_a_certificate(ports: Ports) -> None:
    code = (
        "import socket, ssl, sys\n"
        "context = ssl._create_unverified_context()\n"
        "context.set_alpn_protocols(['h2'])\n"
        "try:\n"
        "    plain = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 10)\n"
        "    secured = context.wrap_socket(plain)\n"
        "    secured.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' + bytes(9))\n"
        "    print(len(secured.recv(100)))\n"
        "except (ssl.SSLError, OSError) as exc:\n"
        "    print('refused', type(exc).__name__)\n"
    )
    assert as_stranger(code, ports.filer_grpc).startswith("refused")


def test_broker_says_nothing_before_a_login(target: Settings) -> None:
    _, _, port = (target.kafka_bootstrap or "").rpartition(":")
    code = (
        "import socket, struct, sys\n"
        "with socket.create_connection(('127.0.0.1', int(sys.argv[1])), 10) as broker:\n"
        "    broker.sendall(struct.pack('>ihhih', 10, 3, 0, 1, -1))\n"
        "    print(broker.recv(100))\n"
    )
    reply = as_stranger(code, port)
    assert reply == "b''" or reply.startswith("b'\\x15"), "nothing, or a TLS alert"


def test_mlflow_asks_for_its_login(target: Settings) -> None:
    paths = ("/", "/api/2.0/mlflow/experiments/search?max_results=1", "/ajax-api/3.0/mlflow/assistant/config")
    try:
        httpx.get(f"{target.mlflow_uri}/health", timeout=5)
    except httpx.HTTPError:
        pytest.skip("no MLflow answers in this stack")
    assert set(statuses([("GET", f"{target.mlflow_uri}{path}", {}) for path in paths])) == {401}


def test_predictor_refuses_pages_of_other_sites(target: Settings) -> None:
    model = f"{target.predictor_uri}/v1/models/{target.model_name}"
    rebound = {"host": "evil.example"}
    tried = [("POST", f"{model}:predict", headers) for headers in (CROSS_SITE, rebound)]
    tried.append(("GET", model, CROSS_SITE))
    assert statuses(tried) == [403, 403, 403]


def test_receivers_take_proved_events_only(target: Settings, ports: Ports) -> None:
    """Not a result or a dead letter that another user forges, nor an upload; nor with the key itself as a token."""
    credentials = load_credentials(Home(target.home))
    assert credentials
    kind = {"ce-type": "org.lungline.result.v1", "ce-id": "1", "ce-source": "/x", "ce-specversion": "1.0"}
    forged = kind | {"content-type": "application/json"}
    bare = forged | {"authorization": f"Bearer {credentials.events}"}
    guessed = forged | {HEADER: f"v1 {'0' * 32} 1 {'0' * 32} {'0' * 64} {'0' * 64}"}
    worklist = f"http://{HOST}:{ports.worklist}"
    addresses = [f"{worklist}/", f"{worklist}/dead-letters"]
    if target.predictor_uri == f"http://{HOST}:{ports.predictor}":
        addresses.append(f"{target.predictor_uri}/v1/models/{target.model_name}:predict")
    tried = [("POST", address, headers) for address in addresses for headers in (forged, bare, guessed)]
    assert set(statuses(tried)) == {403}


def test_worklist_shows_no_page_without_a_session(target: Settings, ports: Ports) -> None:
    """Nor any at the address whose cookies every server of the machine gets."""
    address = f"http://{HOST}:{ports.worklist}"
    own = {"host": httpx.URL(target.worklist.uri or "http://x").host + f":{ports.worklist}"}
    paths = ("/rows", "/audit", "/patients?of=x", "/export.csv", "/session", "/metrics")
    assert set(statuses([("GET", f"{address}{path}", own) for path in paths])) <= {401, 404}
    if own["host"].partition(":")[0].endswith(".localhost"):
        assert set(statuses([("GET", f"{address}{path}", {}) for path in paths])) == {421}


def test_gateway_takes_nothing_under_another_name(target: Settings, ports: Ports) -> None:
    from pynetdicom import AE

    if not ports.gateway:
        pytest.skip("this stack runs no gateway")
    entity = AE(ae_title="ATTACK")
    entity.add_requested_context("1.2.840.10008.1.1")
    association = entity.associate(HOST, ports.gateway, ae_title="NOBODY")
    assert association.is_rejected


def test_home_is_its_owners_alone(target: Settings) -> None:
    assert stat.S_IMODE(target.home.stat().st_mode) & 0o077 == 0


def test_no_secret_is_in_a_command_line(target: Settings) -> None:
    """Which every user of the machine may read."""
    credentials = load_credentials(Home(target.home))
    assert credentials
    secrets = [value for value in _leaves(asdict(credentials)) if len(value) >= 12]
    assert len(secrets) >= 4
    lines = [_command_line(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()]
    assert any("laptop.supervision" in line for line in lines)
    assert not [secret[:3] for secret in secrets for line in lines if secret in line]


def test_a_page_of_another_site_changes_nothing(target: Settings, ports: Ports, browser: "Browser") -> None:
    """With images, forms and requests to every port, which browsers send without asking anybody."""
    storage = Storage.from_settings(target)
    before = sorted(info.key for info in storage.list(target.uploads_bucket))
    results = len(list(storage.list(target.results_bucket, "results/")))
    numbers = [getattr(ports, field.name) for field in fields(ports) if getattr(ports, field.name)]
    with _serving(_HOSTILE.replace("PORTS", json.dumps(numbers))) as url:
        page = browser.new_page()
        answered: list[tuple[int, str]] = []
        page.on("response", lambda response: answered.append((response.status, response.url)))
        page.goto(url, wait_until="commit")  # its images hang at ports that wait for more
        page.wait_for_function("document.title === 'done'", timeout=60_000)
        page.close()
    held = [(status, address) for status, address in answered if not address.startswith(url)]
    assert any(status == 403 for status, _ in held), "the predictor answered"
    assert not [each for each in held if each[0] < 300 and f":{ports.predictor}" in each[1] and "health" not in each[1]]
    assert sorted(info.key for info in storage.list(target.uploads_bucket)) == before
    assert len(list(storage.list(target.results_bucket, "results/"))) == results


_HOSTILE = """<!doctype html><title>trying</title><script>
const ports = PORTS, tries = [];
const quietly = (url, options) => tries.push(Promise.race([
  fetch(url, { mode: "no-cors", credentials: "include", ...options }).catch(() => null),
  new Promise((done) => setTimeout(done, 3000)),
]));
for (const port of ports) {
  const base = `http://127.0.0.1:${port}`;
  quietly(`${base}/col/delete?collection=xray-uploads`);
  quietly(`${base}/dir/assign`);
  quietly(`${base}/v1/models/pneumonia:predict`, { method: "POST", body: '{"instances": [{"image": ""}]}' });
  quietly(`${base}/ajax-api/3.0/mlflow/assistant/config`, { method: "POST", body: "{}" });
  const image = new Image();
  tries.push(new Promise((done) => { image.onload = image.onerror = done; setTimeout(done, 3000); }));
  image.src = `${base}/col/delete?collection=lungline-results`;
}
Promise.all(tries).then(() => { document.title = "done"; });
</script>"""


@contextmanager
def _serving(text: str) -> Iterator[str]:
    """A web site of somebody else, on a port of its own."""

    class Site(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

    with serving(Site) as address:
        yield f"{address}/"


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, str):
        yield value


def _command_line(pid: int) -> str:
    try:
        return command_line(pid)
    except OSError:
        return ""
