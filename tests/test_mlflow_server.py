"""The gate in front of MLflow: who gets in, what is served, and where artifacts may lie."""

import asyncio
import base64
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import httpx
import pytest
from botocore.exceptions import ClientError
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from laptop.home.credentials import load_credentials
from laptop.home.ports import Ports, load_ports
from laptop.services.mlflow import Mlflow
from lungline.home import Home
from lungline.network import HOST, answers
from lungline.registry import mlflow_client
from lungline.registry.mlflow_routes import is_served
from lungline.registry.mlflow_server import Gate, Receive, Scope, Send, is_own_location, load_accounts
from lungline.settings import Settings, load_settings

NOBODY = 65534
ASSISTANT = "/ajax-api/3.0/mlflow/assistant/config"
JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Answer:
    status: int
    body: str


@dataclass(frozen=True)
class Site:
    """The server that the tests share."""

    settings: Settings

    @property
    def login(self) -> dict[str, str]:
        variables = mlflow_client.environment(self.settings)
        pair = f"{variables['MLFLOW_TRACKING_USERNAME']}:{variables['MLFLOW_TRACKING_PASSWORD']}"
        return {"authorization": "Basic " + base64.b64encode(pair.encode()).decode()}

    @property
    def host(self) -> str:
        return urlsplit(str(self.settings.mlflow_uri)).netloc

    def request(self, method: str, path: str, headers: Mapping[str, str], body: object = None) -> Answer:
        connection = http.client.HTTPConnection(self.host, timeout=20)
        try:
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, body=sent, headers=dict(headers))
            response = connection.getresponse()
            return Answer(response.status, response.read().decode(errors="replace"))
        finally:
            connection.close()

    def post(self, path: str, body: object) -> Answer:
        return self.request("POST", f"/api/2.0/mlflow/{path}", self.login | JSON, body)

    def client(self) -> MlflowClient:
        return mlflow_client.connect(self.settings)


@pytest.fixture(scope="module")
def site(services: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(load_settings({**services, "home": str(tmp_path_factory.mktemp("home"))}))


@pytest.mark.parametrize(
    "path", ["/", "/api/2.0/mlflow/experiments/search?max_results=1", ASSISTANT, "/static-files/x"]
)
@pytest.mark.parametrize("login", ["", "Basic bHVuZ2xpbmU6", "Basic ???", "Bearer x", "Basic bHVuZ2xpbmU6eA=="])
def test_nobody_gets_in_without_the_login(site: Site, path: str, login: str) -> None:
    assert site.request("GET", path, {"authorization": login}).status == 401


def test_another_user_of_the_machine_is_asked_for_the_login(site: Site) -> None:
    if os.getuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root may run a program as another user")
    setpriv = ["setpriv", f"--reuid={NOBODY}", "--clear-groups"]
    for path in ("/api/2.0/mlflow/experiments/search?max_results=1", ASSISTANT):
        curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{site.settings.mlflow_uri}{path}"]
        assert subprocess.run([*setpriv, *curl], capture_output=True, text=True, check=True, timeout=30).stdout == "401"


def test_a_token_is_taken_like_the_password(site: Site) -> None:
    password = mlflow_client.environment(site.settings)["MLFLOW_TRACKING_PASSWORD"]
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert site.request("GET", path, {"authorization": f"Bearer {password}"}).status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ASSISTANT),
        ("PUT", ASSISTANT),
        ("POST", "/ajax-api/3.0/mlflow/assistant/message"),
        ("POST", "/ajax-api/3.0/jobs/search"),
        ("GET", "/api/3.0/mlflow/gateway/secrets/list"),
        ("GET", "/ajax-api/2.0/mlflow/gateway-proxy"),
        ("POST", "/ajax-api/2.0/mlflow/runs/create-promptlab-run"),
        ("GET", "/api/2.0/mlflow/webhooks"),
        ("GET", "/api/3.0/mlflow/workspaces"),
        ("POST", "/v1/traces"),
        ("GET", "/api/2.0/mlflow/brand-new"),
        ("GET", "/static-files/../api/2.0/mlflow/webhooks"),
    ],
)
def test_what_a_registry_does_not_need_is_absent(site: Site, method: str, path: str) -> None:
    assert site.request(method, path, site.login | JSON, {}).status == 404


@pytest.mark.filterwarnings("ignore")  # of the libraries that MLflow's handlers import
def test_most_of_the_server_is_not_on_the_list() -> None:
    """The list is read against MLflow's own routes: no new one gets in, and none of those listed is a slip."""
    from mlflow.server.handlers import get_endpoints

    served = {path for path, _, methods in get_endpoints() for method in methods if is_served(method, path)}
    assert len(served) > 50
    assert not [path for path in served if any(word in path for word in ("gateway", "webhook", "job", "trace"))]


def test_the_pages_and_a_client_work_with_the_login(site: Site, tmp_path: Path) -> None:
    assert "<html" in site.request("GET", "/", site.login).body.lower()
    client = site.client()
    experiment = client.create_experiment("gate")
    run = client.create_run(experiment)
    (tmp_path / "note.txt").write_text("hello")
    client.log_artifact(run.info.run_id, str(tmp_path / "note.txt"))
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["note.txt"]
    (tmp_path / "back").mkdir()
    assert Path(client.download_artifacts(run.info.run_id, "note.txt", str(tmp_path / "back"))).read_text() == "hello"
    path = f"/get-artifact?run_uuid={run.info.run_id}&path=note.txt"
    assert site.request("GET", path, site.login).body == "hello"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    ],
)
def test_pages_of_other_sites_are_refused(site: Site, headers: dict[str, str]) -> None:
    path = "/ajax-api/2.0/mlflow/experiments/search?max_results=1"
    assert site.request("GET", path, site.login | headers).status == 403


def test_its_own_page_is_let_in(site: Site) -> None:
    own = {"origin": str(site.settings.mlflow_uri), "sec-fetch-site": "same-origin"}
    path = "/ajax-api/2.0/mlflow/experiments/search"
    assert site.request("POST", path, site.login | JSON | own, {"max_results": 1}).status == 200


FOREIGN = (
    "s3://xray-uploads",
    "s3://xray-uploads/x",
    "file:///etc",
    "/etc",
    "http://127.0.0.1:1/x",
    "s3://lungline-mlflow/../x",
)


@pytest.mark.parametrize("location", FOREIGN)
@pytest.mark.parametrize("name", ["artifact_location", "artifactLocation"])
def test_an_experiment_lies_in_the_servers_own_bucket(site: Site, location: str, name: str) -> None:
    answer = site.post("experiments/create", {"name": f"{location} {name}", name: location})
    assert answer.status == 400, answer.body
    assert site.client().get_experiment_by_name(f"{location} {name}") is None


@pytest.mark.parametrize("location", FOREIGN)
def test_a_model_version_comes_from_the_servers_own_bucket(site: Site, location: str) -> None:
    name = f"foreign{abs(hash(location))}"
    site.client().create_registered_model(name)
    with pytest.raises(MlflowException):
        site.client().create_model_version(name, location, await_creation_for=0)
    assert site.client().search_model_versions(f"name='{name}'") == []


def test_a_location_in_its_own_bucket_is_taken(site: Site) -> None:
    assert (
        site.post("experiments/create", {"name": "own", "artifact_location": "s3://lungline-mlflow/own"}).status == 200
    )


@pytest.mark.parametrize("location", ["s3://lungline-mlflow-2/x", "mlflow-artifacts://elsewhere/x", "models:/%2e%2e/x"])
def test_look_alikes_of_the_own_bucket_are_foreign(location: str) -> None:
    assert not is_own_location(location, "s3://lungline-mlflow/")


def test_mlflows_own_keys_open_its_bucket_only(site: Site, services_home: Path) -> None:
    credentials = load_credentials(Home(services_home))
    assert credentials
    key = credentials.mlflow
    s3 = boto3.client(
        "s3",
        endpoint_url=site.settings.s3_endpoint,
        aws_access_key_id=key.access_key,
        aws_secret_access_key=key.secret_key,
        region_name="us-east-1",
    )
    s3.put_object(Bucket=site.settings.mlflow_bucket, Key="own", Body=b"x")
    for bucket in (site.settings.models_bucket, site.settings.uploads_bucket):
        with pytest.raises(ClientError, match="AccessDenied"):
            s3.put_object(Bucket=bucket, Key="foreign", Body=b"x")
        with pytest.raises(ClientError, match="AccessDenied"):
            s3.list_objects_v2(Bucket=bucket)
    s3.close()


def test_a_reader_may_look_up_and_change_nothing() -> None:
    async def mlflow(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    accounts = {"pipeline": "p" * 16, "dossier": "d" * 16}
    statuses = {
        (name, method): asyncio.run(asked(Gate(mlflow, accounts, ["dossier"]), method, path, name, password))
        for name, password in accounts.items()
        for method, path in (("GET", "runs/get"), ("POST", "runs/delete"))
    }
    assert statuses == {
        ("pipeline", "GET"): 200,
        ("pipeline", "POST"): 200,
        ("dossier", "GET"): 200,
        ("dossier", "POST"): 403,
    }


async def asked(gate: Gate, method: str, path: str, name: str, password: str) -> int:
    """The status of a request to a gate."""
    transport = httpx.ASGITransport(gate)  # pyright: ignore[reportArgumentType] - the same interface by other names
    async with httpx.AsyncClient(transport=transport, base_url="http://mlflow:5000") as client:
        return (await client.request(method, f"/api/2.0/mlflow/{path}", auth=(name, password))).status_code


@pytest.mark.parametrize("accounts", [None, "{}", "[]", '{"ada": "short"}', '{"": "0123456789abcdef"}'])
def test_a_server_without_passwords_does_not_start(accounts: str | None) -> None:
    with pytest.raises(ValueError, match="MLFLOW_GATE_ACCOUNTS"):
        load_accounts(accounts)


def test_a_stranger_on_its_port_is_not_ready(site: Site, services_home: Path) -> None:
    """A program that took the port answers 200 to everything, but cannot know the password."""
    home = Home(services_home)
    credentials = load_credentials(home)
    assert credentials
    stranger = (
        "import http.server, sys\n"
        "class All(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(b'OK')\n"
        "    def log_message(self, *_): pass\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), All).serve_forever()\n"
    )
    ours = Mlflow(home, site.settings, replace(_ports(home), mlflow=int(site.host.rpartition(":")[2])), credentials)
    assert ours.probe(0) == "ready"
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen([sys.executable, "-c", stranger, str(port)]) as process:
        try:
            _await_port(port)
            assert Mlflow(home, site.settings, replace(_ports(home), mlflow=port), credentials).probe(0) == "starting"
        finally:
            process.kill()


def _ports(home: Home) -> Ports:
    ports = load_ports(home)
    assert ports
    return ports


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while not answers(port):
        assert time.monotonic() < deadline
        time.sleep(0.02)
