"""The controllers and webhooks of Knative and KServe: processes with the rights of their own service accounts."""

import socket
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import upstream
from tests.cluster.api import Object
from tests.cluster.control_plane import ControlPlane
from tests.cluster.process import Process

SERVING, EVENTING = "knative-serving", "knative-eventing"
START_SECONDS = 120
PROBES = 8080
"""Where Knative's controllers answer probes."""
CERTIFICATES = "k8s-webhook-server/serving-certs"


@dataclass(frozen=True)
class Controller:
    """A program, the Deployment that would run it, and the Service that is reached at its port."""

    program: str
    component: str
    deployment: str
    account: str
    service: str | None = None
    port: int = 8443

    @property
    def namespace(self) -> str:
        return {"serving": SERVING, "eventing": EVENTING}.get(self.component, upstream.KSERVE)


WEBHOOK_SERVICE = "kserve-webhook-server-service"
CONTROLLERS = (
    Controller("serving-webhook", "serving", "webhook", "controller", "webhook"),
    Controller("serving-controller", "serving", "controller", "controller"),
    Controller("serving-autoscaler", "serving", "autoscaler", "controller", "autoscaler", 8080),
    Controller("eventing-webhook", "eventing", "eventing-webhook", "eventing-webhook", "eventing-webhook"),
    Controller("eventing-controller", "eventing", "eventing-controller", "eventing-controller"),
    Controller(
        "kserve-manager", "kserve", "kserve-controller-manager", "kserve-controller-manager", WEBHOOK_SERVICE, 9443
    ),
)


class Controllers:
    """Starts every controller of a component, and starts one again."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._addresses: dict[str, str] = {}
        self._kubeconfigs: dict[str, Path] = {}

    def start(self, component: str, objects: list[Object]) -> None:
        """Give each controller an address and its account's rights, lead its Service there, and start it."""
        deployments = {
            document["metadata"]["name"]: document for document in objects if document["kind"] == "Deployment"
        }
        for controller in CONTROLLERS:
            if controller.component == component:
                self._addresses[controller.program] = self._plane.bridge.attach(controller.program)
                config = self._plane.account_kubeconfig(controller.namespace, controller.account)
                self._kubeconfigs[controller.program] = config
                if controller.service:
                    self._lead(controller)
                self.run(controller, deployments[controller.deployment])

    def run(self, controller: Controller, deployment: Object) -> Process:
        address = self._addresses[controller.program]
        config = self._kubeconfigs[controller.program]
        variables = upstream.environment(deployment, address) | {"KUBECONFIG": str(config)}
        arguments = [f"--kubeconfig={config}"]
        options: dict[str, str] = {"network": controller.program}
        if controller.component == "kserve":
            arguments += [f"--webhook-port={controller.port}", "--leader-elect"]
            options["pod_namespace"] = controller.namespace
            self._write_certificates()
        return self._plane.run(controller.program, arguments, environment=variables, **options)

    def _lead(self, controller: Controller) -> None:
        """Lead a Service to the process: an EndpointSlice instead of the selector of pods."""
        service = controller.service
        path = f"/api/v1/namespaces/{controller.namespace}/services/{service}"
        patched = self._plane.api.patch(path, {"spec": {"selector": None}})
        name = next(port.get("name", "") for port in patched["spec"]["ports"] if port["port"] in (443, 8080))
        slice_ = {
            "metadata": {"name": f"{service}-process", "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "ports": [{"name": name, "port": controller.port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [self._addresses[controller.program]], "conditions": {"ready": True}}],
        }
        self._plane.api.post(f"/apis/discovery.k8s.io/v1/namespaces/{controller.namespace}/endpointslices", slice_)

    def _write_certificates(self) -> None:
        """What cert-manager makes for KServe's webhooks, where its server looks for it."""
        host = f"{WEBHOOK_SERVICE}.{upstream.KSERVE}.svc"
        pair = self._plane.authority.sign(host, hosts=(host,))
        folder = self._plane.folder / CERTIFICATES
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tls.crt").write_bytes(pair.certificate.read_bytes())
        (folder / "tls.key").write_bytes(pair.key.read_bytes())

    def await_all(self, configurations: list[Object]) -> None:
        """Wait until every program listens, which it does last, and the webhooks have their certificates."""
        for program, address in self._addresses.items():
            controller = next(item for item in CONTROLLERS if item.program == program)
            port = controller.port if controller.service else PROBES
            process = self._plane.process(program)
            process.wait_until(lambda where=(address, port): _listens(*where), START_SECONDS)
        webhook = self._plane.process(CONTROLLERS[0].program)
        for document in configurations:
            webhook.wait_until(lambda configuration=document: self._has_bundle(configuration), START_SECONDS)

    def _has_bundle(self, document: Object) -> bool:
        plural = document["kind"].lower() + "s"
        path = f"/apis/admissionregistration.k8s.io/v1/{plural}/{document['metadata']['name']}"
        webhooks = self._plane.api.get(path)
        return bool(webhooks) and all(webhook["clientConfig"].get("caBundle") for webhook in webhooks["webhooks"])


def _listens(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=2):
            return True
    except OSError:
        return False
