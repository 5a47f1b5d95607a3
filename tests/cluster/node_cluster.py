"""The whole cluster on a real node: the control plane, its controllers, and a data plane in pods."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import upstream
from tests.cluster.api import Object
from tests.cluster.cluster import Cluster, install
from tests.cluster.control_plane import ControlPlane
from tests.cluster.controllers import SERVING, Controllers
from tests.cluster.fake_node import FakeNode
from tests.cluster.images import ACTIVATOR, COREDNS, ENVOY, KOURIER
from tests.cluster.network import HOST
from tests.cluster.node import DNS, NODE, Node
from tests.cluster.node_images import load_images

COREFILE = """.:53 {
    errors
    health
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa
    cache 5
}
"""
KAFKA = "xray-kafka-bootstrap"
STRATEGIC = "application/strategic-merge-patch+json"  # joins lists of containers by name


@contextmanager
def running_node(folder: Path, images: Path) -> Iterator[tuple[Cluster, Node]]:
    """Everything that the overlays presuppose, on a real node."""
    with ControlPlane(folder) as plane, Node(plane, images) as node:
        load_images(node)
        node.join()
        cluster = Cluster(plane, Controllers(plane), FakeNode(plane.api), {})  # which never starts
        install(cluster)
        cluster.apply(dns())
        cluster.apply(gateway())
        plane.api.patch(f"/apis/apps/v1/namespaces/{SERVING}/deployments/activator", _activator(), STRATEGIC)
        yield cluster, node


def wait_ready(cluster: Cluster, namespace: str, name: str, seconds: int = 300) -> None:
    """Wait until every replica of a Deployment is ready, as `kubectl rollout status` sees it."""
    cluster.plane.kubectl("-n", namespace, "rollout", "status", name, f"--timeout={seconds}s")


def _activator() -> Object:
    container = {"name": "activator", "image": ACTIVATOR}
    return {"spec": {"replicas": 1, "template": {"spec": {"containers": [container]}}}}


def gateway() -> list[Object]:
    """Kourier as upstream installs it, with Envoy of PyPI."""
    paths = sorted((upstream.UPSTREAM / "net-kourier/config").glob("*.yaml"))
    documents = [document for path in paths for document in yaml.safe_load_all(path.read_text()) if document]
    return [_set_up(document) for document in documents if document["kind"] not in upstream.LEFT_OUT]


def _set_up(document: Object) -> Object:
    if document["kind"] == "Deployment":
        container = document["spec"]["template"]["spec"]["containers"][0]
        container["image"] = ENVOY if "envoy" in container["image"] else KOURIER
    return document


def dns() -> list[Object]:
    """CoreDNS in kube-system, where every policy expects it."""
    labels = {"k8s-app": "kube-dns"}
    metadata = {"name": "coredns", "namespace": "kube-system"}
    rules = [
        {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "coredns"}
    ports = [{"name": name, "port": 53, "protocol": name.upper()} for name in ("udp", "tcp")]
    rbac = "rbac.authorization.k8s.io/v1"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "coredns"}, "rules": rules},
        {
            "apiVersion": rbac,
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "coredns"},
            "roleRef": role,
            "subjects": [{"kind": "ServiceAccount", **metadata}],
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"Corefile": COREFILE}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": DNS, "selector": labels, "ports": ports},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {"selector": {"matchLabels": labels}, "template": _dns_pod(labels)},
        },
    ]


def _dns_pod(labels: dict[str, str]) -> Object:
    container = {
        "name": "coredns",
        "image": COREDNS,
        "args": ["-conf", "/etc/coredns/Corefile"],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 2},
        "securityContext": {"runAsUser": 0, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
    }
    volume = {"name": "config", "configMap": {"name": "coredns"}}
    spec: dict[str, Any] = {"serviceAccountName": "coredns", "dnsPolicy": "Default"}
    return {"metadata": {"labels": labels}, "spec": spec | {"containers": [container], "volumes": [volume]}}


def volumes(folder: Path) -> list[Object]:
    """Local volumes for every claim of the overlay: as on a block device, the kubelet gives them the pod's group."""
    workloads: list[Object] = []
    for name in ("first", "second"):
        own = folder / name
        own.mkdir(parents=True, exist_ok=True)
        term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}]}
        spec = {
            "capacity": {"storage": "20Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": str(own)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
        }
        metadata = {"name": name}
        workloads.append({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec})
    return workloads


def kafka_service(port: int, namespace: str = "lungline") -> list[Object]:
    """The address that clients know, led to Apache Kafka on the node's own network."""
    metadata = {"name": KAFKA, "namespace": namespace}
    ports = [{"name": "tls", "port": 9093, "protocol": "TCP"}]
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata | {"labels": {"kubernetes.io/service-name": KAFKA}},
            "addressType": "IPv4",
            "ports": [{"name": "tls", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [HOST], "conditions": {"ready": True}}],
        },
    ]
