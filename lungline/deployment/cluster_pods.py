"""Checks of a cluster's pods: those that find no node, those that are refused, and those that do not run."""

from collections.abc import Callable

from lungline.deployment.kubernetes_api import Json, KubernetesApi
from lungline.deployment.status import conditions_of, name_of, part, parts, troubles
from lungline.health_check import Check

PLATFORM = ("knative-serving", "knative-eventing", "kourier-system", "kserve", "kubeflow", "cert-manager", "strimzi")
"""Namespaces besides ours without whose pods nothing works."""
SHOWN = 3
"""How many a finding names; the cause is mostly one and the same."""


def unscheduled(api: KubernetesApi, ours: tuple[str, ...]) -> Check:
    """Pods that no node has room for, mostly for lack of CPU: requests count, whether used or not."""
    waiting = [
        f"{_place(pod)}: {str(condition.get('message')).rstrip('.')}"
        for pod in _pods(api, (*ours, *PLATFORM))
        if (condition := conditions_of(pod).get("PodScheduled", {})).get("status") == "False"
    ]
    cure = "Add nodes, or lower what is only requested: docs/cluster.md."
    return Check("Pods find a node", not waiting, _listed(waiting) or "all", cure)


def refused(api: KubernetesApi, ours: tuple[str, ...]) -> Check:
    """Pods that their ReplicaSet or StatefulSet cannot create: by Pod Security, a quota, or a webhook."""
    failures: list[str] = []
    for place in dict.fromkeys(ours):
        for item in parts(api.get(f"/apis/apps/v1/namespaces/{place}/replicasets") or {}, "items"):
            condition = conditions_of(item).get("ReplicaFailure", {})
            if condition.get("status") == "True" and part(item, "spec").get("replicas"):
                failures.append(f"{_place(item)}: {str(condition.get('message')).rstrip('.')}")
    cure = f"kubectl -n {ours[0]} get events --field-selector reason=FailedCreate"
    return Check("Pods are admitted", not failures, _listed(failures) or "all", cure)


def failing(api: KubernetesApi, ours: tuple[str, ...]) -> Check:
    """Containers that crash, or whose image cannot be had."""
    failures = [
        f"{_place(pod)}: {trouble.rstrip('.')}"
        for pod in _pods(api, ours)
        if conditions_of(pod).get("PodScheduled", {}).get("status") != "False"
        and part(pod, "status").get("phase") not in {"Succeeded", "Failed"}
        for trouble in troubles(pod)
    ]
    return Check(
        "Containers run", not failures, _listed(failures) or "all", "kubectl describe pod, kubectl logs --previous"
    )


CHECKS: dict[str, Callable[[KubernetesApi, tuple[str, ...]], Check]] = {
    "Pods find a node": unscheduled,
    "Pods are admitted": refused,
    "Containers run": failing,
}


def _pods(api: KubernetesApi, places: tuple[str, ...]) -> list[Json]:
    return [
        pod
        for place in dict.fromkeys(places)
        for pod in parts(api.get(f"/api/v1/namespaces/{place}/pods") or {}, "items")
    ]


def _place(item: Json) -> str:
    return f"{part(item, 'metadata').get('namespace')}/{name_of(item)}"


def _listed(findings: list[str]) -> str:
    more = f" ... and {len(findings) - SHOWN} more" if len(findings) > SHOWN else ""
    return "; ".join(findings[:SHOWN]) + more
