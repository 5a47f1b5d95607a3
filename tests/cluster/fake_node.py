"""A node without containers: it takes every pod and says of it what a test wants; and a gateway that is always ready.

Readiness after some seconds, never, or a crash is all that KServe and Knative see of a container.
"""

import itertools
import threading
import time
from datetime import UTC, datetime
from typing import Literal, Self

import httpx

from tests.cluster.api import Api, Object

NODE, PERIOD = "fake", 0.25
PREDICTOR = "serving.kserve.io/inferenceservice"
INGRESSES = "/apis/networking.internal.knative.dev/v1alpha1/ingresses"
HOSTS = {
    "publicLoadBalancer": "kourier.kourier-system.svc.cluster.local",
    "privateLoadBalancer": "kourier-internal.kourier-system.svc.cluster.local",
}
Plan = float | Literal["never", "crash"]


class FakeNode:
    """Looks at the cluster four times a second, in a thread of its own; `check` raises what went wrong there."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fake node")
        self._addresses = (f"10.245.{high}.{low}" for high, low in itertools.product(range(256), range(1, 255)))
        self._error: AssertionError | httpx.HTTPError | None = None
        self.predictor: Plan = 1.0
        """Seconds until a predictor's pod is ready from now on; or `never`, or `crash`."""
        self._plans: dict[str, Plan] = {}

    def __enter__(self) -> Self:
        self._api.post("/api/v1/nodes", {"metadata": {"name": NODE}})
        capacity = {"cpu": "64", "memory": "256Gi", "pods": "500"}
        conditions = [{"type": "Ready", "status": "True", "lastHeartbeatTime": _now(), "reason": "Fake"}]
        status = {"status": {"capacity": capacity, "allocatable": capacity, "conditions": conditions}}
        self._api.patch(f"/api/v1/nodes/{NODE}/status", status)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def check(self) -> None:
        if self._error:
            raise self._error

    def _run(self) -> None:
        while not self._stop.wait(PERIOD):
            try:
                self._look()
                self._error = None
            except (AssertionError, httpx.HTTPError) as exc:
                self._error = exc  # a test may have stopped the API server; the next look tries again

    def _look(self) -> None:
        self._renew_lease()
        for pod in self._api.items("/api/v1/pods"):
            self._tend(pod)
        for ingress in self._api.items(INGRESSES):
            self._expose(ingress)

    def _renew_lease(self) -> None:
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        spec = {"holderIdentity": NODE, "leaseDurationSeconds": 40, "renewTime": _now()}
        if self._api.get(f"{path}/{NODE}"):
            self._api.patch(f"{path}/{NODE}", {"spec": spec})
        else:
            self._api.post(path, {"metadata": {"name": NODE}, "spec": spec})

    def _tend(self, pod: Object) -> None:
        metadata, status = pod["metadata"], pod.get("status", {})
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        if "deletionTimestamp" in metadata:
            self._api.delete(path, at_once=True)
        elif "nodeName" not in pod["spec"]:
            target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
            self._api.post(f"{path}/binding", {"metadata": {"name": metadata["name"]}, "target": target})
        elif pod["spec"]["nodeName"] == NODE and status.get("phase") in {"Pending", "Running"}:
            wanted = self._status(pod)
            if wanted["reason"] != status.get("reason"):
                self._api.patch(f"{path}/status", {"status": wanted})

    def _status(self, pod: Object) -> Object:
        """The status of a pod now; `reason` tells the steps apart."""
        metadata = pod["metadata"]
        plan = self._plans.setdefault(metadata["uid"], self._plan(pod))
        age = time.time() - datetime.fromisoformat(metadata["creationTimestamp"]).timestamp()
        done = any(owner["kind"] == "Job" for owner in metadata.get("ownerReferences", []))
        ready = isinstance(plan, float) and age >= plan
        if ready and done:
            return {"phase": "Succeeded", "reason": "Done", "containerStatuses": _containers(pod, _ended(0))}
        state: Object = {"running": {"startedAt": metadata["creationTimestamp"]}}
        if plan == "crash":
            state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off restarting failed container"}}
        conditions = [{"type": kind, "status": str(ready)} for kind in ("Ready", "ContainersReady")]
        return {
            "phase": "Running",
            "reason": "Serving" if ready else "Crashing" if plan == "crash" else "Starting",
            "startTime": metadata["creationTimestamp"],
            "podIP": (address := pod.get("status", {}).get("podIP") or next(self._addresses)),
            "podIPs": [{"ip": address}],
            "conditions": [{"type": kind, "status": "True"} for kind in ("PodScheduled", "Initialized")] + conditions,
            "containerStatuses": _containers(pod, state, ready=ready, last=_ended(1) if plan == "crash" else None),
        }

    def _plan(self, pod: Object) -> Plan:
        if PREDICTOR not in pod["metadata"].get("labels", {}):
            return 0.5
        # Without the initializer there is no model, and the predictor answers its readiness probe with 503.
        return self.predictor if pod["spec"].get("initContainers") else "never"

    def _expose(self, ingress: Object) -> None:
        """Say of a KIngress what a gateway's controller says once its routes are in place."""
        metadata, status = ingress["metadata"], ingress.get("status", {})
        if status.get("observedGeneration") == metadata["generation"]:
            return
        conditions = [
            {"type": kind, "status": "True", "lastTransitionTime": _now()}
            for kind in ("LoadBalancerReady", "NetworkConfigured", "Ready")
        ]
        balancers = {kind: {"ingress": [{"domainInternal": host}]} for kind, host in HOSTS.items()}
        status = {"observedGeneration": metadata["generation"], "conditions": conditions, **balancers}
        path = f"{INGRESSES.replace('/ingresses', '')}/namespaces/{metadata['namespace']}/ingresses/{metadata['name']}"
        self._api.patch(f"{path}/status", {"status": status})


def _containers(pod: Object, state: Object, *, ready: bool = False, last: Object | None = None) -> list[Object]:
    return [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": container["image"],
            "ready": ready,
            "restartCount": 3 if last else 0,
            "state": state,
            **({"lastState": last} if last else {}),
        }
        for container in pod["spec"]["containers"]
    ]


def _ended(code: int) -> Object:
    return {
        "terminated": {"exitCode": code, "reason": "Completed" if code == 0 else "Error", "message": "out of memory"}
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
