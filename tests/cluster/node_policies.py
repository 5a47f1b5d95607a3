"""Network policies enforced on the node, and pods that try to connect."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.cluster import Cluster
from tests.cluster.images import WORKLIST
from tests.cluster.node import NODE

TRY = """
import socket, sys
for target in sys.argv[1:]:
    host, port = target.split(":")
    try:
        socket.create_connection((host, int(port)), 4).close()
        print(target)
    except OSError:
        pass
"""


@contextmanager
def enforced(cluster: Cluster) -> Iterator[None]:
    """kube-router, for network policies only, until the context ends."""
    flags = ["--run-firewall=true", "--run-router=false", "--run-service-proxy=false", "--metrics-port=0"]
    config = f"--kubeconfig={cluster.plane.kubeconfig}"
    process = cluster.plane.run("kube-router", [*flags, config, f"--hostname-override={NODE}"])
    try:
        yield
    finally:
        process.stop()


def start_pod(cluster: Cluster, name: str, namespace: str, labels: dict[str, str]) -> None:
    """A pod that waits, as restricted as ours are."""
    context = {
        "allowPrivilegeEscalation": False,
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"name": "try", "image": WORKLIST, "command": ["sleep", "3600"], "securityContext": context}
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    spec = {"terminationGracePeriodSeconds": 1, "containers": [container]}
    cluster.apply([{"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}])
    cluster.plane.kubectl("-n", namespace, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=120s")


def reached(cluster: Cluster, name: str, namespace: str, targets: list[str]) -> set[str]:
    """Which of the targets (host:port) a pod can connect to."""
    command = ("-n", namespace, "exec", name, "--", "python", "-c", TRY, *targets)
    return set(cluster.plane.kubectl(*command).stdout.split())
