"""Servers on this machine are asked directly, and nobody else's variables lead elsewhere."""

import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2 as httpx
import pytest
import requests
from pydantic import SecretStr

from lungline.network import is_local, open_url, proxies_for, proxy_for, shield_environment, without_proxies
from lungline.storage.s3 import Storage
from tests.support.object_store import ACCESS_KEY, SECRET_KEY, running_store

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


class Server(ThreadingHTTPServer):
    """Answers every request with 200 and its own name, and counts them."""

    daemon_threads = True

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name = name
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.requests.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(server.name)))
        self.end_headers()
        self.wfile.write(server.name.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        pass


def running(server: Server) -> Iterator[Server]:
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def own() -> Iterator[Server]:
    yield from running(Server("own"))


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A proxy that the environment names for everything, without exceptions."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for server in running(Server("proxy")):
        for name in PROXIES:
            monkeypatch.setenv(name, server.url)
        yield server


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with running_store(tmp_path_factory.mktemp("store"), "bucket") as storage:
        yield storage


def fresh(store: Storage) -> Storage:
    """A storage without connections, which reads the environment as it is now."""
    return Storage(store.endpoint, access_key=SecretStr(ACCESS_KEY), secret_key=SecretStr(SECRET_KEY))


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:9000", True),
        ("http://127.8.0.1/path", True),
        ("http://localhost:5000", True),
        ("https://LOCALHOST", True),
        ("http://[::1]:8080/v2", True),
        ("127.0.0.1:9092", True),
        ("localhost", True),
        ("http://predictor.localhost:80", True),
        ("https://s3.amazonaws.com", False),
        ("http://127.evil.example", False),
        ("http://localhost.example:80", False),
        ("http://user@example.org:127/", False),
        ("http://[broken", False),
        ("", False),
        (None, False),
    ],
)
def test_an_address_of_this_machine_is_recognised(url: str | None, local: bool) -> None:
    assert is_local(url) is local
    assert proxies_for(url) == ({} if local else None)


def test_open_url_asks_this_machine_without_a_proxy(own: Server, proxy: Server) -> None:
    for url in (own.url, own.url.replace("127.0.0.1", "localhost"), urllib.request.Request(own.url)):
        assert open_url(url, timeout=5).read() == b"own"
    assert open_url("http://elsewhere.example/x", timeout=5).read() == b"proxy"
    assert proxy.requests == ["http://elsewhere.example/x"]


def test_the_proxy_of_an_outside_address_is_the_environments(proxy: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_for("http://minio.example:9000") == proxy.url
    assert proxy_for("http://localhost:9000") is None
    monkeypatch.setenv("no_proxy", "minio.example")
    assert proxy_for("http://minio.example:9000") is None


def test_the_local_store_is_reached_without_a_proxy(store: Storage, proxy: Server) -> None:
    """Both through signed requests and through boto3."""
    storage = fresh(store)
    storage.put("bucket", "key", b"data")
    assert storage.get("bucket", "key").data == b"data"
    assert [info.key for info in storage.list("bucket", "key")] == ["key"]
    assert storage.head("bucket", "key").size == 4
    storage.close()
    assert proxy.requests == []


@pytest.mark.parametrize(
    "variables",
    [
        {"AWS_PROFILE": "no-such-profile"},
        {"AWS_DEFAULT_PROFILE": "no-such-profile"},
        {"AWS_CONFIG_FILE": "{broken}", "AWS_SHARED_CREDENTIALS_FILE": "{broken}"},
        {"AWS_CONFIG_FILE": "{elsewhere}"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"},
        {"AWS_SESSION_TOKEN": "of-somebody-else", "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "wrong"},
        {"AWS_CA_BUNDLE": "/no/such/file", "REQUESTS_CA_BUNDLE": "/no/such/file", "CURL_CA_BUNDLE": "/no/such/file"},
        {"SSL_CERT_FILE": "/no/such/file", "NETRC": "/no/such/file"},
        {"AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true"},
        {"AWS_REGION": "mars-north-1", "AWS_DEFAULT_REGION": "mars-north-1"},
        {"AWS_DEFAULTS_MODE": "nonsense", "AWS_RETRY_MODE": "nonsense", "AWS_MAX_ATTEMPTS": "many"},
        {"AWS_REQUEST_CHECKSUM_CALCULATION": "nonsense", "AWS_ACCOUNT_ID_ENDPOINT_MODE": "nonsense"},
        {"AWS_SIGV4A_SIGNING_REGION_SET": "*", "AWS_S3_USE_ARN_REGION": "nonsense"},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_foreign_aws_variables_change_nothing(
    variables: dict[str, str], store: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store with its own address and keys works whatever the environment says of others."""
    files = {"{broken}": tmp_path / "broken", "{elsewhere}": tmp_path / "elsewhere"}
    files["{broken}"].write_text("[half a section\n= nothing")
    files["{elsewhere}"].write_text(
        "[default]\nendpoint_url = http://127.0.0.1:9\ns3 =\n  addressing_style = virtual\n"
    )
    for name, value in variables.items():
        monkeypatch.setenv(name, str(files.get(value, value)))
    storage = fresh(store)
    storage.put("bucket", "key", b"data")
    assert storage.head("bucket", "key").size == 4
    assert [info.key for info in storage.list("bucket", "key")] == ["key"]
    storage.ensure_buckets("bucket")
    storage.close()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "pacs.example"}, "pacs.example,127.0.0.1,localhost,::1"),
        ({"no_proxy": "a.example, b.example"}, "a.example,b.example,127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "a.example", "no_proxy": "b.example"}, "b.example,a.example,127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "[::1],localhost"}, "::1,localhost,127.0.0.1"),
        ({"NO_PROXY": "*"}, "*"),
        ({"NO_PROXY": "", "no_proxy": " , "}, "127.0.0.1,localhost,::1"),
    ],
)
def test_this_machine_joins_the_exceptions_of_both_spellings(before: dict[str, str], after: str) -> None:
    """A host that only one spelling exempts stays exempt for libraries that read the other."""
    environment = dict(before)
    without_proxies(environment)
    assert environment == {"no_proxy": after, "NO_PROXY": after}
    without_proxies(environment)
    assert environment["NO_PROXY"] == after


def test_a_shielded_process_asks_its_own_servers_directly(
    own: Server, proxy: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With requests, httpx and urllib, which MLflow, the identity provider's client and we use."""
    environment: dict[str, str] = {}
    without_proxies(environment)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    port = own.url.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost"):
        url = f"http://{host}:{port}"
        assert requests.get(url, timeout=5).text == "own"
        assert httpx.get(url).text == "own"
        assert urllib.request.urlopen(url, timeout=5).read() == b"own"
    assert requests.get("http://elsewhere.example/r", timeout=5).text == "proxy"
    assert httpx.get("http://elsewhere.example/h").text == "proxy"
    assert proxy.requests == ["http://elsewhere.example/r", "http://elsewhere.example/h"]


def test_variables_of_other_servers_are_removed() -> None:
    environment = {
        "MLFLOW_TRACKING_URI": "http://elsewhere:5000",
        "MLFLOW_RUN_ID": "abc",
        "MLFLOW_EXPERIMENT_NAME": "mine",
        "MLFLOW_S3_ENDPOINT_URL": "http://elsewhere:9000",
        "MLFLOW_TRACKING_TOKEN": "secret",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://elsewhere:4318",
        "OTEL_SDK_DISABLED": "true",
        "REQUESTS_CA_BUNDLE": "/etc/hospital.pem",
        "HTTPS_PROXY": "http://proxy.example:3128",
        "PATH": "/bin",
    }
    outside = dict(environment)
    shield_environment(environment)
    kept = {"REQUESTS_CA_BUNDLE", "HTTPS_PROXY", "PATH", "NO_PROXY", "no_proxy"}
    assert environment.keys() == kept
    shield_environment(outside, mlflow_uri="https://mlflow.example")
    assert outside.keys() == kept | {"MLFLOW_TRACKING_TOKEN"}
