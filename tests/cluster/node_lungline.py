"""Lungline on a real node: its secrets, Apache Kafka, the overlay, and what a person at a laptop does with them."""

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from laptop.services.service import base_environment, settings_environment
from lungline.settings import Settings, load_settings
from tests.cluster.api import Object
from tests.cluster.cluster import Cluster
from tests.cluster.node import Node
from tests.cluster.node_cluster import kafka_service, volumes, wait_ready
from tests.support.apache_kafka import ApacheKafka
from tests.support.lone_services import running_trigger

NAMESPACE = "lungline"
ISVC = f"/apis/serving.kserve.io/v1beta1/namespaces/{NAMESPACE}/inferenceservices/pneumonia"
PREDICTOR = "http://pneumonia-predictor.lungline.svc.cluster.local"
SETTINGS = Path(__file__).parents[2] / "manifests/base/settings.env"
COMMAND_SECONDS = 420


@dataclass
class Lungline:
    """The overlay on a running node. `home` is the home folder of the person at the laptop."""

    cluster: Cluster
    node: Node
    kafka: ApacheKafka
    home: Path

    def secret(self, name: str, key: str) -> str:
        """A value of a secret, as a person reads it with kubectl."""
        secret = self.cluster.plane.api.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}")
        assert secret, f"no secret {name}"
        return base64.b64decode(secret["data"][key]).decode()

    def settings(self, user: str, **others: Any) -> Settings:
        """The cluster's own settings, with the keys of one of the store's users."""
        lines = [line.partition("=") for line in SETTINGS.read_text().splitlines() if line]
        named: dict[str, Any] = {name.removeprefix("LUNGLINE_").lower(): value for name, _, value in lines}
        named |= {"home": str(self.home), "log_format": "text", "predictor_uri": PREDICTOR}
        named |= {"s3_access_key": self.secret(f"s3-{user}", "AWS_ACCESS_KEY_ID")}
        named |= {"s3_secret_key": self.secret(f"s3-{user}", "AWS_SECRET_ACCESS_KEY")}
        return load_settings(named | others)

    def command(self, *words: str, user: str = "pipeline", check: bool = True) -> subprocess.CompletedProcess[str]:
        """`lungline` at the laptop, whose kubectl knows the cluster."""
        environment = base_environment() | settings_environment(self.settings(user))
        environment |= {"KUBECONFIG": str(self.cluster.plane.kubeconfig)}
        done = subprocess.run(
            [sys.executable, "-m", "cli", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )
        assert done.returncode == 0 or not check, f"lungline {' '.join(words)}: {done.stdout}{done.stderr}"
        return done

    def service(self) -> Object:
        """The InferenceService now."""
        service = self.cluster.plane.api.get(ISVC)
        assert service
        return service

    def pods(self, selector: str, namespace: str = NAMESPACE) -> list[Object]:
        return self.cluster.plane.api.items(f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")

    def predict(self, image: bytes, seconds: float = 120) -> dict[str, Any]:
        """A prediction by the model that serves, through gateway and queue proxy, from zero if need be."""
        reply = httpx.post(f"{PREDICTOR}/predict", content=image, timeout=seconds, trust_env=False)
        assert reply.status_code == 200, f"{reply.status_code}: {reply.text[:500]}"
        return reply.json()

    def query(self, sql: str, database: str = "worklist") -> list[list[str]]:
        """Rows of a database of the cluster, queried in its pod."""
        command = ("exec", "postgres-0", "--", "psql", "-h", "/var/run/postgresql", "-U", "postgres", "-At", "-F", "|")
        done = self.cluster.plane.kubectl("-n", NAMESPACE, *command, "-d", database, "-c", sql)
        return [line.split("|") for line in done.stdout.splitlines()]

    @contextmanager
    def events(self) -> Iterator[None]:
        """The laptop's trigger in the place of Knative's broker, whose data plane no registry has."""
        user = {"kafka_username": "admin", "kafka_password": self.kafka.passwords["admin"]}
        settings = self.settings(
            "reconcile", kafka_bootstrap=self.kafka.bootstrap, kafka_ca=str(self.kafka.authority), **user
        )
        with running_trigger(self.home, settings, f"http://worklist-events.{NAMESPACE}.svc.cluster.local"):
            yield


def install_lungline(cluster: Cluster, node: Node, kafka: ApacheKafka, folder: Path, secrets: list[Object]) -> Lungline:
    """Apply minikube-seaweedfs and wait until every pod that needs no model is ready."""
    cluster.plane.kubectl("apply", "-f", str(SETTINGS.parent / "namespace.yaml"))
    cluster.apply(volumes(folder / "volumes"))
    documents = {"kind": "List", "apiVersion": "v1", "items": secrets}
    cluster.plane.kubectl("create", "-f", "-", stdin=json.dumps(documents))
    cluster.apply(kafka_service(kafka.nodes[0].port))
    cluster.apply_overlay("minikube-seaweedfs")
    began = time.monotonic()
    for name in ("statefulset/postgres", "deployment/seaweedfs", "deployment/mlflow", "deployment/worklist"):
        wait_ready(cluster, NAMESPACE, name, 600)
        print(f"{name} ready after {time.monotonic() - began:.0f} s", flush=True)
    wait_ready(cluster, NAMESPACE, "deployment/worklist-events", 600)
    return Lungline(cluster, node, kafka, folder / "home")
