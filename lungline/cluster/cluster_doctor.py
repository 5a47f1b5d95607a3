"""Whether a live cluster has what the manifests need, and how to get what it lacks."""

from collections.abc import Iterator
from dataclasses import dataclass

from lungline.cluster.kubernetes_api import KubernetesApi
from lungline.cluster.standing import name, part, parts
from lungline.errors import LunglineError

NAMESPACE, PIPELINES = "lungline", "kubeflow"
# What the API server must know, who brings it, and how it is installed; the versions are those of docs/cluster.md.
KINDS = (
    ("cert-manager", "cert-manager.io/v1", "certificates"),
    ("Strimzi", "kafka.strimzi.io/v1", "kafkas"),
    ("Knative Serving", "serving.knative.dev/v1", "services"),
    ("Knative Eventing", "eventing.knative.dev/v1", "brokers"),
    ("Knative's Kafka source", "sources.knative.dev/v1", "kafkasources"),
    ("Knative's Kafka sink", "eventing.knative.dev/v1alpha1", "kafkasinks"),
    ("KServe", "serving.kserve.io/v1beta1", "inferenceservices"),
    ("the Prometheus Operator", "monitoring.coreos.com/v1", "prometheusrules"),
)
SECRETS = (
    (NAMESPACE, "object-store-root"),
    (NAMESPACE, "s3-predictor"),
    (NAMESPACE, "kafka-eventing"),
    (NAMESPACE, "xray-cluster-ca"),
    (NAMESPACE, "postgres"),
    (NAMESPACE, "worklist"),
    (PIPELINES, "s3-pipeline"),
)
# What must be Ready, and what it means when it is not.
READY = (
    ("kafka.strimzi.io/v1", "kafkas", "xray"),
    ("eventing.knative.dev/v1", "brokers", "xray"),
    ("sources.knative.dev/v1", "kafkasources", "uploads"),
    ("eventing.knative.dev/v1", "triggers", "judge"),
    ("eventing.knative.dev/v1", "triggers", "show"),
    ("serving.kserve.io/v1beta1", "inferenceservices", "pneumonia"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `cure` says what to do when it is not well."""

    what: str
    well: bool
    cure: str = ""


def examine(api: KubernetesApi) -> Iterator[Finding]:
    """Look at one prerequisite after the other. Raises ClusterUnavailable when there is nobody to ask."""
    version = api.get("/version") or {}
    yield _kubernetes(str(version.get("major")), str(version.get("minor")))
    here = True
    for what, group, plural in KINDS:
        found = _known(api, group, plural)
        here = here and found
        yield Finding(f"{what} ({plural}.{group.partition('/')[0]})", found, f"Install {what}: docs/cluster.md.")
    pipelines = api.get(f"/api/v1/namespaces/{PIPELINES}/services/ml-pipeline") is not None
    yield Finding("Kubeflow Pipelines", pipelines, "Install Kubeflow Pipelines: docs/cluster.md.")
    features = part(api.get("/api/v1/namespaces/knative-serving/configmaps/config-observability") or {}, "data")
    yield Finding(
        "Knative's request metrics",
        features.get("request-metrics-protocol") == "prometheus",
        "kubectl -n knative-serving patch configmap config-observability --type merge "
        '-p \'{"data":{"request-metrics-protocol":"prometheus"}}\'',
    )
    for namespace, secret in SECRETS:
        yield _secret(api, namespace, secret)
    if here:
        for group, plural, one in READY:
            yield _ready(api, group, plural, one)


def _kubernetes(major: str, minor: str) -> Finding:
    number = int("".join(filter(str.isdigit, minor)) or 0)
    return Finding(f"Kubernetes {major}.{minor}", (major, number) >= ("1", 32), "Kubernetes 1.32 or newer is needed.")


def _known(api: KubernetesApi, group: str, plural: str) -> bool:
    return any(one.get("name") == plural for one in parts(api.get(f"/apis/{group}") or {}, "resources"))


def _secret(api: KubernetesApi, namespace: str, secret: str) -> Finding:
    what, cure = f"Secret {namespace}/{secret}", "python manifests/generate_secrets.py | kubectl create -f -"
    try:
        return Finding(what, api.get(f"/api/v1/namespaces/{namespace}/secrets/{secret}") is not None, cure)
    except LunglineError as exc:
        # Whoever may not read secrets can still be told of the rest.
        return Finding(what, well=False, cure=f"It cannot be looked at: {exc}")


def _ready(api: KubernetesApi, group: str, plural: str, one: str) -> Finding:
    what = f"{plural}/{one}"
    found = api.get(f"/apis/{group}/namespaces/{NAMESPACE}/{plural}/{one}")
    if found is None:
        return Finding(what, well=False, cure="kubectl apply -k manifests/overlays/minikube (or production)")
    for condition in parts(part(found, "status"), "conditions"):
        if condition.get("type") == "Ready":
            said = " ".join(str(condition.get(key) or "") for key in ("reason", "message")).strip()
            cure = said or f"kubectl -n {NAMESPACE} describe {plural} {name(found)}"
            return Finding(what, condition.get("status") == "True", cure)
    return Finding(what, well=False, cure="Its controller has not looked at it yet.")
