"""What each user may do in the object store, tried on a real SeaweedFS that is started as the component starts it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from eventing.kafka import ensure_topics
from laptop.services.broker import running_broker
from lungline.errors import LunglineError
from lungline.results.record_store import is_known
from lungline.retention.holds import Holds
from lungline.retention.rules import EVERYWHERE
from lungline.retention.subjects import of_patient
from lungline.retention.taking_back import take_back
from lungline.retention.tombstones import put
from lungline.settings import PREFIX, Settings
from lungline.site_key import generate_key
from lungline.storage.s3 import Storage
from tests.support.kafka_tail import tail
from tests.support.kept_uploads import KeptUploads
from tests.support.manifests_of import generated_secrets, named
from tests.support.object_store import free_ports

OURS = Settings.model_construct()
UPLOADS, RESULTS, MODELS, MLFLOW = OURS.uploads_bucket, OURS.results_bucket, OURS.models_bucket, OURS.mlflow_bucket
RESEARCH, PATIENTS = OURS.research_bucket, OURS.patients_bucket
MODEL = f"{OURS.model_name}/1/card.json"


@dataclass(frozen=True)
class Place:
    """Where the store of the component runs on this machine; `data` is its pod's volume."""

    data: Path
    s3: int
    log_of_changes: int
    seen_by: Callable[[str], Storage]
    secrets: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def store(place: Place) -> Callable[[str], Storage]:
    """The store of the component seaweedfs, seen by a user."""
    return place.seen_by


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("store")
    values = {secret["metadata"]["name"]: secret["stringData"] for secret in generated_secrets()}
    (folder / "s3.json").write_text(values["seaweedfs-identities"]["s3.json"])
    s3, *others = free_ports(7)
    command = _command(folder, s3, others)

    def seen_by(user: str) -> Storage:
        key = values["object-store-root" if user == "root" else f"s3-{user}"]
        access, secret = SecretStr(key["AWS_ACCESS_KEY_ID"]), SecretStr(key["AWS_SECRET_ACCESS_KEY"])
        return Storage(f"http://127.0.0.1:{s3}", access_key=access, secret_key=secret)

    prepare = [part.replace("/data", str(folder)) for part in container_of("secure")["command"]]
    subprocess.run([sys.executable, *prepare[1:]], check=True, timeout=60)
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as process:
        try:
            _fill(seen_by("root"))
            yield Place(folder, s3, others[4], seen_by, values)
        finally:
            process.kill()


def container_of(name: str) -> dict[str, Any]:
    """A container of the store's pod, as the component describes it."""
    spec = named("minikube-seaweedfs", "Deployment")["seaweedfs"]["spec"]["template"]["spec"]
    containers = (*spec["initContainers"], *spec["containers"])
    (container,) = [container for container in containers if container["name"] == name]
    return container


def _command(folder: Path, s3: int, others: list[int]) -> list[str]:
    """The container's arguments, on this machine's free ports and loopback interface."""
    ports = ("master.port", "volume.port", "filer.port", "admin.port", "filer.port.grpc", "metricsPort")
    changed: dict[str, Any] = {"dir": folder, "s3.config": folder / "s3.json", "s3.port": s3, "ip.bind": "127.0.0.1"}
    changed |= dict(zip(ports, others, strict=True))
    given = [argument.replace("/data", str(folder)) for argument in container_of("seaweedfs")["args"]]
    kept = [argument for argument in given if argument.lstrip("-").split("=")[0] not in changed]
    return [
        str(Path(sys.executable).with_name("weed")),
        *kept,
        *(f"-{name}={value}" for name, value in changed.items()),
    ]


def _fill(root: Storage) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            root.ensure_buckets(UPLOADS, RESULTS, MODELS, MLFLOW, RESEARCH, PATIENTS)
            for bucket, key in ((UPLOADS, "a.jpeg"), (RESULTS, "results/aa/1.json"), (MODELS, MODEL), (MLFLOW, "x")):
                root.put(bucket, key, b"{}")
            root.put(PATIENTS, "patients/aa/a.json", b"{}")
            root.put(PATIENTS, "captures/aa/a/2.dcm", b"{}")
            root.put(RESULTS, "results/aa/a/1.dcm", b"{}")
            root.put(RESULTS, "erased/aa/a", b"")
        except LunglineError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


MAY: list[tuple[str, str, str, str]] = [
    ("scanner", "put", UPLOADS, "b.jpeg"),
    ("predictor", "get", UPLOADS, "a.jpeg"),
    ("predictor", "put_if_absent", RESULTS, "results/bb/1.json"),
    ("predictor", "put", RESEARCH, "unsure/aa/1.png"),
    ("predictor", "put", RESULTS, "latest/8-aa-1.png"),
    ("predictor", "put", RESULTS, "owed/aa-1"),
    ("predictor", "put", PATIENTS, "patients/aa/b.json"),
    ("worklist", "get", PATIENTS, "patients/aa/a.json"),
    ("worklist", "put_if_absent", PATIENTS, "captures/aa/a/1.dcm"),
    ("worklist", "delete", RESULTS, "results/aa/a/1.dcm"),  # where earlier versions kept it
    ("predictor", "delete", RESULTS, "owed/aa-2"),
    ("predictor", "list", MODELS, ""),
    ("predictor", "get", MODELS, MODEL),
    ("pipeline", "put", MODELS, f"{OURS.model_name}/2/card.json"),
    ("pipeline", "put", MODELS, "rib-fracture/1/card.json"),
    ("pipeline", "get", UPLOADS, "a.jpeg"),
    ("pipeline", "get", RESULTS, "results/aa/1.json"),
    ("mlflow", "put", MLFLOW, "1/model"),
    ("mlflow", "list", MLFLOW, ""),
    ("worklist", "get", UPLOADS, "a.jpeg"),
    ("worklist", "put_if_absent", RESULTS, "readings/1.json"),
    ("worklist", "get", MODELS, MODEL),
    ("reconcile", "list", UPLOADS, ""),
    ("reconcile", "get", RESULTS, "results/aa/1.json"),
    ("reconcile", "latest", UPLOADS, ""),
    ("reconcile", "delete", RESULTS, "owed/aa-1"),
    ("predictor", "get", RESULTS, "erased/aa/a"),
    ("predictor", "put", RESULTS, "returned/aa"),
    ("worklist", "put", RESULTS, "returned/aa"),
    ("reconcile", "put", RESULTS, "returned/aa"),
    ("retention", "delete", RESULTS, "returned/aa"),
    ("retention", "list", PATIENTS, ""),
    ("retention", "get", PATIENTS, "patients/aa/a.json"),
    ("retention", "get", RESULTS, "results/aa/1.json"),
    ("retention", "latest", UPLOADS, ""),
    ("retention", "put", RESULTS, "erased/bb/b"),
    ("retention", "put", PATIENTS, "erasures/1.json"),
    ("retention", "put", RESULTS, "latest/8-aa-1"),
    ("retention", "delete", UPLOADS, "gone.jpeg"),
    ("retention", "delete", RESULTS, "results/cc/1.json"),
    ("retention", "delete", PATIENTS, "captures/cc/a/2.dcm"),
    ("retention", "delete", RESEARCH, "unsure/cc/1.png"),
]
MAY_NOT: list[tuple[str, str, str, str]] = [
    ("scanner", "get", UPLOADS, "a.jpeg"),
    ("scanner", "list", UPLOADS, ""),
    ("scanner", "delete", UPLOADS, "a.jpeg"),
    ("scanner", "put", RESULTS, "results/aa/2.json"),
    ("predictor", "put", UPLOADS, "c.jpeg"),
    ("predictor", "put", MODELS, MODEL),
    ("predictor", "get", MLFLOW, "x"),
    ("worklist", "get", RESEARCH, "unsure/aa/1.png"),
    ("worklist", "put", PATIENTS, "patients/aa/a.json"),
    *(
        (user, "get", PATIENTS, key)
        for user in ("scanner", "predictor", "pipeline", "mlflow", "reconcile")
        for key in ("patients/aa/a.json", "captures/aa/a/2.dcm")
    ),
    ("predictor", "put", PATIENTS, "captures/aa/a/2.dcm"),
    ("worklist", "delete", PATIENTS, "captures/aa/a/2.dcm"),
    *((user, "list", PATIENTS, "") for user in ("scanner", "predictor", "pipeline", "mlflow", "reconcile")),
    ("pipeline", "list", RESEARCH, ""),
    ("pipeline", "put", UPLOADS, "c.jpeg"),
    ("pipeline", "delete", MODELS, MODEL),
    ("pipeline", "delete", MODELS, f"{OURS.model_name}/history/00001.json"),
    ("predictor", "delete", RESULTS, "results/aa/1.json"),
    ("mlflow", "get", MODELS, MODEL),
    ("mlflow", "get", UPLOADS, "a.jpeg"),
    ("worklist", "delete", RESULTS, "results/aa/1.json"),
    ("worklist", "put", UPLOADS, "c.jpeg"),
    ("reconcile", "put", UPLOADS, "c.jpeg"),
    ("reconcile", "delete", RESULTS, "results/aa/1.json"),
    ("reconcile", "get", MODELS, MODEL),
    ("predictor", "put", RESULTS, "erased/aa/a"),
    ("retention", "put", UPLOADS, "c.jpeg"),
    ("retention", "put", RESULTS, "results/aa/1.json"),
    ("retention", "delete", RESULTS, "audit/2030-01-01.json"),
    ("retention", "delete", RESULTS, "erasures/1.json"),
    ("retention", "delete", RESULTS, "erased/aa/a"),
    ("retention", "get", RESEARCH, "unsure/aa/1.png"),
    ("retention", "get", MODELS, MODEL),
    ("retention", "delete", MODELS, f"{OURS.model_name}/history/00001.json"),
]


def attempt(storage: Storage, act: str, bucket: str, key: str) -> None:
    if act in {"list", "latest"}:
        assert list(getattr(storage, act)(bucket))
    elif act.startswith("put"):
        getattr(storage, act)(bucket, key, b"{}")
    else:
        getattr(storage, act)(bucket, key)


@pytest.mark.parametrize(("user", "act", "bucket", "key"), MAY)
def test_users_may_do_what_they_need(
    store: Callable[[str], Storage], user: str, act: str, bucket: str, key: str
) -> None:
    attempt(store(user), act, bucket, key)


@pytest.mark.attack
@pytest.mark.parametrize(("user", "act", "bucket", "key"), MAY_NOT)
def test_users_may_do_no_more(store: Callable[[str], Storage], user: str, act: str, bucket: str, key: str) -> None:
    with pytest.raises(LunglineError):
        attempt(store(user), act, bucket, key)


def test_the_policies_are_the_ones_that_minio_is_given(store: Callable[[str], Storage]) -> None:
    values = {secret["metadata"]["name"]: secret["stringData"] for secret in generated_secrets()}
    identities = json.loads(values["seaweedfs-identities"]["s3.json"])
    files = named("minikube", "ConfigMap")["object-store-setup"]["data"]
    assert {f"{policy['name']}.json" for policy in identities["policies"]} == {
        name for name in files if name.endswith(".json")
    }


def test_the_user_of_retention_may_erase_everything_of_an_upload(
    store: Callable[[str], Storage], tmp_path: Path
) -> None:
    values = {"deployment": "cluster", "site_key": generate_key().pem}
    as_root = KeptUploads.there(store("root"), tmp_path, **values)
    result = as_root.add("retention/Doe-Jane.dcm", "PID-4711")
    site = replace(as_root, storage=store("retention"))
    hold = Holds(site.storage, site.settings).add(identity="another", by="A", reason="b")
    (subject,) = of_patient("PID-4711", site.storage, site.settings)
    plan = site.eraser.plan([subject], by="A", reason="b")
    proof = site.eraser.carry_out(plan)
    assert set(proof.after.values()) == {0}
    assert as_root.names("Doe-Jane", "PID-4711") == []
    assert not is_known(store("root"), RESULTS, result.upload.identity)
    ends = {rest.where: rest.until for rest in proof.remains if rest.until}
    assert {"upload and result events in Kafka", "dead letters in Kafka"} <= set(ends)
    Holds(site.storage, site.settings).remove(hold.id)
    as_root.database.close()


def test_what_a_predictor_cannot_take_back_goes_next_time(store: Callable[[str], Storage], tmp_path: Path) -> None:
    """It may not delete a result, not even that of an upload that was erased while it judged it."""
    as_root = KeptUploads.there(store("root"), tmp_path, deployment="cluster", site_key=generate_key().pem)
    result = as_root.add("late/Doe-Jane.dcm", "PID-4711")
    as_root.storage.delete(UPLOADS, "late/Doe-Jane.dcm")
    as_root.storage.delete(PATIENTS, "erasures/1.json")  # which another test has tried to put
    put([result.upload.identity], store("retention"), as_root.settings)
    take_back(result.upload.identity, EVERYWHERE, store("predictor"), as_root.settings)
    assert as_root.names("Doe-Jane", "PID-4711") == ["Doe-Jane", "PID-4711"]
    assert replace(as_root, storage=store("retention")).eraser.finish() == []
    assert as_root.names("Doe-Jane", "PID-4711") == []
    assert not store("root").exists(RESULTS, f"returned/{result.upload.identity}")
    as_root.database.close()


@pytest.mark.stack
def test_the_bridge_beside_the_store_sends_events(place: Place, tmp_path: Path) -> None:
    container, key = container_of("bridge"), place.secrets["s3-reconcile"]
    variables = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    with running_broker(tmp_path, Settings()) as settings:
        ensure_topics(settings)
        env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        env |= {
            "LUNGLINE_HOME": variables["LUNGLINE_HOME"].replace("/data", str(place.data)),
            "LUNGLINE_S3_ENDPOINT": f"http://127.0.0.1:{place.s3}",
            "LUNGLINE_S3_ACCESS_KEY": key["AWS_ACCESS_KEY_ID"],
            "LUNGLINE_S3_SECRET_KEY": key["AWS_SECRET_ACCESS_KEY"],
            "LUNGLINE_KAFKA_BOOTSTRAP": settings.kafka_bootstrap or "",
            "LUNGLINE_KAFKA_USERNAME": settings.kafka_username or "",
            "LUNGLINE_KAFKA_PASSWORD": settings.kafka_password.get_secret_value() if settings.kafka_password else "",
            "LUNGLINE_KAFKA_CA": str(settings.kafka_ca),
        }
        arguments = [*container["command"][1:-1], str(place.log_of_changes)]
        with (
            (tmp_path / "log").open("wb") as log,
            subprocess.Popen([sys.executable, *arguments], env=env, stdout=log, stderr=log) as process,
        ):
            try:
                place.seen_by("scanner").put(UPLOADS, "incoming/chest.jpeg", b"jpeg")
                with tail(settings, OURS.uploads_topic) as records:
                    assert records.until(lambda seen: any(b"chest.jpeg" in (record.value() or b"") for record in seen))
                probe = container["livenessProbe"]["exec"]["command"]
                command = [sys.executable, *(part.replace("/data", str(place.data)) for part in probe[1:])]
                subprocess.run(command, check=True, timeout=60)
            finally:
                process.terminate()
