"""Whether a live cluster has what the manifests need, and how to get what it lacks."""

from collections.abc import Iterator
from dataclasses import dataclass

from lungline.deployment.kubernetes_api import KubernetesApi
from lungline.deployment.status import part, parts
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
    *((NAMESPACE, f"s3-{user}") for user in ("scanner", "predictor", "pipeline", "mlflow", "worklist", "reconcile")),
    *((NAMESPACE, f"kafka-{user}") for user in ("object-store", "eventing", "tools")),
    *((NAMESPACE, name) for name in ("object-store-root", "xray-cluster-ca", "xray-cluster-ca-cert")),
    *((NAMESPACE, name) for name in ("postgres", "worklist", "research")),
    (PIPELINES, "s3-pipeline"),
)
# Settings of others that the manifests count on: config map, key, values that will do, and what happens without.
SWITCHES = (
    ("config-observability", "request-metrics-protocol", ("prometheus",), "canaries and alerts have no figures"),
    ("config-features", "secure-pod-defaults", ("enabled", "root-allowed"), "Pod Security refuses Knative's pods"),
)
# What must be well, by which condition, and what it means when it is not.
READY = (
    ("kafka.strimzi.io/v1", "kafkas", "xray"),
    ("eventing.knative.dev/v1", "brokers", "xray"),
    ("sources.knative.dev/v1", "kafkasources", "uploads"),
    ("sources.knative.dev/v1", "kafkasources", "dead-letters"),
    ("eventing.knative.dev/v1alpha1", "kafkasinks", "results"),
    ("eventing.knative.dev/v1alpha1", "kafkasinks", "dead-letters"),
    ("eventing.knative.dev/v1", "triggers", "judge"),
    ("eventing.knative.dev/v1", "triggers", "show"),
    ("eventing.knative.dev/v1", "triggers", "publish"),
    ("apps/v1", "deployments", "mlflow"),
    ("apps/v1", "deployments", "worklist"),
    ("apps/v1", "deployments", "worklist-events"),
    ("serving.kserve.io/v1beta1", "inferenceservices", "pneumonia"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `cure` says what to do when it has not passed."""

    name: str
    passed: bool
    finding: str = ""
    cure: str = ""


def examine(api: KubernetesApi) -> Iterator[Finding]:
    """Look at one prerequisite after the other. Raises ClusterUnavailable when there is nobody to ask."""
    version = api.get("/version") or {}
    yield _kubernetes(str(version.get("major")), str(version.get("minor")))
    here = True
    for what, group, plural in KINDS:
        found = _known(api, group, plural)
        here = here and found
        yield _there(f"{what} ({plural}.{group.partition('/')[0]})", found, f"Install {what}: docs/cluster.md.")
    pipelines = api.get(f"/api/v1/namespaces/{PIPELINES}/services/ml-pipeline") is not None
    yield _there("Kubeflow Pipelines", pipelines, "Install Kubeflow Pipelines: docs/cluster.md.")
    for switch in SWITCHES:
        yield _switch(api, *switch)
    for namespace, secret in SECRETS:
        yield _secret(api, namespace, secret)
    if here:
        for group, plural, one in READY:
            yield _ready(api, group, plural, one)


def _there(name: str, found: bool, cure: str) -> Finding:
    return Finding(name, found, "there" if found else "missing", cure)


def _switch(api: KubernetesApi, config: str, key: str, values: tuple[str, ...], without: str) -> Finding:
    found = part(api.get(f"/api/v1/namespaces/knative-serving/configmaps/{config}") or {}, "data").get(key)
    cure = (
        f"Without it {without}: kubectl -n knative-serving patch configmap {config} --type merge "
        f"""-p '{{"data":{{"{key}":"{values[0]}"}}}}'"""
    )
    return Finding(f"Knative's {key}", str(found).lower() in values, str(found or "not set"), cure)


def _kubernetes(major: str, minor: str) -> Finding:
    number = int("".join(filter(str.isdigit, minor)) or 0)
    new = (major, number) >= ("1", 32)
    return Finding("Kubernetes", new, f"{major}.{minor}", "Kubernetes 1.32 or newer is needed.")


def _known(api: KubernetesApi, group: str, plural: str) -> bool:
    return any(one.get("name") == plural for one in parts(api.get(f"/apis/{group}") or {}, "resources"))


def _secret(api: KubernetesApi, namespace: str, secret: str) -> Finding:
    name, cure = f"Secret {namespace}/{secret}", "python manifests/generate_secrets.py | kubectl create -f -"
    try:
        return _there(name, api.get(f"/api/v1/namespaces/{namespace}/secrets/{secret}") is not None, cure)
    except LunglineError as exc:
        # Whoever may not read secrets can still be told of the rest.
        return Finding(name, passed=False, finding="not to be seen", cure=str(exc))


def _ready(api: KubernetesApi, group: str, plural: str, one: str) -> Finding:
    name = f"{plural}/{one}"
    found = api.get(f"/apis/{group}/namespaces/{NAMESPACE}/{plural}/{one}")
    if found is None:
        return _there(name, found=False, cure="kubectl apply --server-side -k manifests/overlays/minikube")
    for condition in parts(part(found, "status"), "conditions"):
        if condition.get("type") == ("Available" if group == "apps/v1" else "Ready"):
            well = condition.get("status") == "True"
            said = " ".join(str(condition.get(key) or "") for key in ("reason", "message")).strip()
            cure = f"kubectl -n {NAMESPACE} describe {plural}/{one}"
            if plural == "inferenceservices":
                cure += "; before the first promotion this is as it should be"
            return Finding(name, well, "ready" if well else said or "not ready", cure)
    return Finding(name, passed=False, finding="its controller has not looked at it yet", cure="Wait, or see its log.")
