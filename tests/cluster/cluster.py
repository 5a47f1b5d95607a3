"""A whole cluster without nodes: the control plane, Knative, KServe, and a node that only says that pods are ready."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kubernetes import client, config

from lungline.deployment.kubernetes_api import KubernetesApi
from tests.cluster import upstream
from tests.cluster.api import Object
from tests.cluster.control_plane import ControlPlane
from tests.cluster.controllers import CONTROLLERS, Controllers
from tests.cluster.fake_node import PREDICTOR, FakeNode
from tests.support.manifests_of import MANIFESTS, NAMESPACE, fresh_secrets
from tests.support.waiting import eventually

MANAGER = "kubectl"  # as where it is not named, so that tests conflict with nobody
# In this order: a component's objects, its programs, then its webhooks, which refuse everything until they answer.
COMPONENTS = ("serving", "eventing", "kserve")


@dataclass
class Cluster:
    """A running cluster; `node.predictor` says what becomes of the pods of predictors."""

    plane: ControlPlane
    controllers: Controllers
    node: FakeNode
    deployments: dict[str, Object]

    def apply(self, documents: Sequence[Object], *flags: str) -> None:
        """kubectl apply --server-side, as the documents say it; fails with the refusal."""
        if documents:
            text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)})
            command = ("apply", "--server-side", f"--field-manager={MANAGER}", "--force-conflicts", *flags)
            self.plane.kubectl(*command, "-f", "-", stdin=text)

    def apply_overlay(self, name: str, *flags: str) -> str:
        """kubectl apply --server-side -k of an overlay, and the secrets that it names; returns what kubectl says."""
        folder = str(MANIFESTS / "overlays" / name)
        done = self.plane.kubectl("apply", "--server-side", *flags, "-k", folder, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def create_secrets(self) -> None:
        """Our namespace, and what `python manifests/generate_secrets.py | kubectl create -f -` makes in it."""
        self.plane.kubectl("apply", "--server-side", "-f", str(MANIFESTS / "base" / "namespace.yaml"))
        secrets = {"apiVersion": "v1", "kind": "List", "items": fresh_secrets()}
        self.plane.kubectl("create", "-f", "-", stdin=json.dumps(secrets))

    def remove_overlay(self) -> None:
        """Delete our namespace; returns when everything in it is gone. Of Kubeflow's only our secrets."""
        self.plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
        for secret in (item["metadata"] for item in fresh_secrets()):
            if secret["namespace"] == "kubeflow":
                self.plane.api.delete(f"/api/v1/namespaces/kubeflow/secrets/{secret['name']}")
        eventually(lambda: self.plane.api.get(f"/api/v1/namespaces/{NAMESPACE}") is None, 180)

    def predictor_pods(self) -> list[Object]:
        pods = self.plane.api.items(f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector={PREDICTOR}")
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def items(self, kinds: str, namespace: str) -> list[Object]:
        """The objects of kinds that kubectl knows by these names, with commas between them."""
        return json.loads(self.plane.kubectl("-n", namespace, "get", kinds, "-o", "json").stdout)["items"]

    def stop(self, program: str) -> None:
        self.plane.process(program).stop()

    def start(self, program: str) -> None:
        """Start a controller again after a stop."""
        controller = next(item for item in CONTROLLERS if item.program == program)
        self.controllers.run(controller, self.deployments[controller.deployment])


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster in an isolated namespace, with everything that the overlays presuppose installed."""
    with ControlPlane(folder) as plane:
        cluster = Cluster(plane, Controllers(plane), FakeNode(plane.api), {})
        install(cluster)
        with cluster.node:
            yield cluster


def install(cluster: Cluster) -> None:
    """Install everything that the overlays presuppose, and start its controllers."""
    cluster.apply(upstream.crds())
    cluster.apply(upstream.namespaces())
    eventually(lambda: _all_served(cluster), 60)
    for component in (*COMPONENTS, "kafka"):
        objects = upstream.component(component)
        cluster.apply(objects, *(["--namespace=kserve"] if component == "kserve" else []))
        cluster.deployments |= {
            document["metadata"]["name"]: document for document in objects if document["kind"] == "Deployment"
        }
        if component in COMPONENTS:
            cluster.controllers.start(component, objects)
    authority = cluster.plane.authority.pair.certificate
    webhooks = [document for component in COMPONENTS for document in upstream.webhooks(component, authority)]
    cluster.apply(webhooks)
    cluster.controllers.await_all(webhooks)


def _all_served(cluster: Cluster) -> bool:
    """Whether the API server serves every kind that was registered."""
    definitions = cluster.plane.api.items("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
    conditions = [item.get("status", {}).get("conditions") or [] for item in definitions]
    return all(
        any(condition["type"] == "Established" and condition["status"] == "True" for condition in each)
        for each in conditions
    )


def product_api(kubeconfig: Path) -> KubernetesApi:
    """The product's own client, with the rights of a kubeconfig's user."""
    configuration = client.Configuration()
    config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    configuration.retries = False  # pyright: ignore[reportAttributeAccessIssue] - as in KubernetesApi.connect
    return KubernetesApi(client.ApiClient(configuration))
