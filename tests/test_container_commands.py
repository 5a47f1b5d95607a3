"""The containers' own commands, with the manifests' arguments and variables, on this machine."""

import base64
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lungline.settings import PREFIX
from tests.support.manifests_of import MANIFESTS, Object, pods
from tests.support.object_store import free_ports
from tests.support.postgres import running_postgres

ACCOUNTS = {"people": "a-password-of-some-length"}


def container(owner: str) -> Object:
    (pod,) = [pod for pod in pods("minikube") if pod.owner == owner]
    return pod.containers[0]


def outside() -> dict[str, str]:
    """This process's environment without settings of ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith((PREFIX, "MLFLOW_"))}


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """MLflow as its deployment starts it, with SQLite for PostgreSQL and another port; gives the port."""
    folder = tmp_path_factory.mktemp("mlflow")
    (port,) = free_ports(1)
    mlflow_container = container("Deployment/mlflow")
    command = [argument.replace("--port=5000", f"--port={port}") for argument in mlflow_container["command"]]
    command = [argument.replace("--host=0.0.0.0", "--host=127.0.0.1") for argument in command]
    env = {entry["name"]: entry["value"] for entry in mlflow_container["env"] if "value" in entry}
    env["MLFLOW_SERVER_ALLOWED_HOSTS"] = env["MLFLOW_SERVER_ALLOWED_HOSTS"].replace(":5000", f":{port}")
    env |= {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db", "MLFLOW_ARTIFACTS_DESTINATION": str(folder)}
    env["MLFLOW_GATE_ACCOUNTS"] = json.dumps(ACCOUNTS)
    program = [str(Path(sys.executable).with_name(command[0])), *command[1:]]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            program, stdout=log, stderr=log, cwd=folder, env=outside() | env, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 150
        while status(port, "/health", f"10.0.0.7:{port}") != 200:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield port
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def status(port: int, path: str, host: str, login: str = "people:a-password-of-some-length") -> int | None:
    headers = {"host": host, "authorization": "Basic " + base64.b64encode(login.encode()).decode()}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as exc:
        exc.close()
        return exc.code
    except OSError:
        return None


@pytest.mark.stack
def test_mlflow_starts_as_deployed_and_checks_the_host_name(mlflow: int) -> None:
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    for host in (f"mlflow.lungline.svc.cluster.local:{mlflow}", f"localhost:{mlflow}"):
        assert status(mlflow, path, host) == 200
    assert status(mlflow, path, "evil.example.org") == 403
    assert status(mlflow, path, f"localhost:{mlflow}", "people:wrong") == 401


@pytest.mark.parametrize("owner", ["Deployment/worklist", "Deployment/worklist-events"])
def test_the_worklist_takes_its_arguments(owner: str) -> None:
    command = [sys.executable, "-m", "worklist", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert all(argument.split("=")[0] in text for argument in container(owner)["args"])


def test_the_bridge_beside_seaweedfs_is_there() -> None:
    from importlib.util import find_spec

    (pod,) = [pod for pod in pods("minikube-seaweedfs") if pod.owner == "Deployment/seaweedfs"]
    (bridge,) = [container for container in pod.containers if container["name"] == "bridge"]
    assert bridge["command"][:3] == ["python", "-P", "-m"]
    assert find_spec(bridge["command"][3])
    (store,) = [container for container in pod.containers if container["name"] == "seaweedfs"]
    assert f"-filer.port.grpc={bridge['command'][5]}" in store["args"]


@pytest.mark.stack
def test_postgres_gives_each_program_a_database_of_its_own(tmp_path: Path) -> None:
    import psycopg

    with running_postgres(tmp_path) as uri:
        if uri is None:
            pytest.skip("PostgreSQL is not installed: Debian's package postgresql brings it")
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute("CREATE ROLE postgres SUPERUSER LOGIN")
        host = uri.partition("@")[2].partition("/")[0]
        name, _, port = host.partition(":")
        env = outside() | {"PGHOST": name, "PGPORT": port, "PGDATABASE": "postgres"}
        env |= {"MLFLOW_PASSWORD": 'it\'s-"one"', "WORKLIST_PASSWORD": "$(two)"}
        script = MANIFESTS / "base/database/init.sh"
        subprocess.run(["bash", script], env=env, check=True, capture_output=True, timeout=60)
        with psycopg.connect(uri) as connection:
            roles = connection.execute(
                "SELECT rolname, rolpassword FROM pg_authid WHERE rolname IN ('mlflow', 'worklist')"
            )
            assert {user: password[:13] for user, password in roles} == dict.fromkeys(
                ("mlflow", "worklist"), "SCRAM-SHA-256"
            )
        for user, other in (("mlflow", "worklist"), ("worklist", "mlflow")):
            with psycopg.connect(f"postgresql://{user}@{host}/{user}") as connection:
                connection.execute("CREATE TABLE mine (number int)")
            with pytest.raises(psycopg.OperationalError, match="permission denied"):
                psycopg.connect(f"postgresql://{user}@{host}/{other}")
