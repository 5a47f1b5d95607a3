"""Checks of a live cluster: what the manifests need, and how to add what is missing."""

from collections.abc import Iterator

from lungline.deployment.kubernetes_api import KubernetesApi
from lungline.deployment.status import part, parts
from lungline.errors import LunglineError
from lungline.health_check import Check

NAMESPACE, PIPELINES = "lungline", "kubeflow"
# Component, API group and resource that it must have registered; docs/cluster.md has the versions.
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
# Settings of Knative that the manifests need: config map, key, accepted values, and the effect when they are missing.
SWITCHES = (
    ("config-observability", "request-metrics-protocol", ("prometheus",), "canaries and alerts have no metrics"),
    ("config-features", "secure-pod-defaults", ("enabled", "root-allowed"), "Pod Security refuses Knative's pods"),
)
# Objects that must be ready: API group, resource, name.
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


def examine(api: KubernetesApi) -> Iterator[Check]:
    """Check one prerequisite after the other. Raises ClusterUnavailable when the API server does not answer."""
    version = api.get("/version") or {}
    yield _kubernetes(str(version.get("major")), str(version.get("minor")))
    complete = True
    for component, group, plural in KINDS:
        registered = _is_registered(api, group, plural)
        complete = complete and registered
        name = f"{component} ({plural}.{group.partition('/')[0]})"
        yield _presence(name, registered, f"Install {component}: docs/cluster.md.")
    pipelines = api.get(f"/api/v1/namespaces/{PIPELINES}/services/ml-pipeline") is not None
    yield _presence("Kubeflow Pipelines", pipelines, "Install Kubeflow Pipelines: docs/cluster.md.")
    for switch in SWITCHES:
        yield _switch(api, *switch)
    for namespace, secret in SECRETS:
        yield _secret(api, namespace, secret)
    if complete:
        for group, plural, name in READY:
            yield _readiness(api, group, plural, name)


def _presence(name: str, present: bool, cure: str) -> Check:
    return Check(name, present, "there" if present else "missing", cure)


def _switch(api: KubernetesApi, config: str, key: str, values: tuple[str, ...], without: str) -> Check:
    value = part(api.get(f"/api/v1/namespaces/knative-serving/configmaps/{config}") or {}, "data").get(key)
    cure = (
        f"Without it {without}: kubectl -n knative-serving patch configmap {config} --type merge "
        f"""-p '{{"data":{{"{key}":"{values[0]}"}}}}'"""
    )
    return Check(f"Knative's {key}", str(value).lower() in values, str(value or "not set"), cure)


def _kubernetes(major: str, minor: str) -> Check:
    number = int("".join(filter(str.isdigit, minor)) or 0)
    new = (major, number) >= ("1", 32)
    return Check("Kubernetes", new, f"{major}.{minor}", "Kubernetes 1.32 or newer is needed.")


def _is_registered(api: KubernetesApi, group: str, plural: str) -> bool:
    return any(resource.get("name") == plural for resource in parts(api.get(f"/apis/{group}") or {}, "resources"))


def _secret(api: KubernetesApi, namespace: str, secret: str) -> Check:
    name, cure = f"Secret {namespace}/{secret}", "python manifests/generate_secrets.py | kubectl create -f -"
    try:
        return _presence(name, api.get(f"/api/v1/namespaces/{namespace}/secrets/{secret}") is not None, cure)
    except LunglineError as exc:
        # Without the right to read secrets, the other checks still help.
        return Check(name, passed=False, finding="not readable", cure=str(exc))


def _readiness(api: KubernetesApi, group: str, plural: str, name: str) -> Check:
    resource = api.get(f"/apis/{group}/namespaces/{NAMESPACE}/{plural}/{name}")
    name = f"{plural}/{name}"
    if resource is None:
        return _presence(name, present=False, cure="kubectl apply --server-side -k manifests/overlays/minikube")
    for condition in parts(part(resource, "status"), "conditions"):
        if condition.get("type") == ("Available" if group == "apps/v1" else "Ready"):
            ready = condition.get("status") == "True"
            message = " ".join(str(condition.get(key) or "") for key in ("reason", "message")).strip()
            cure = f"kubectl -n {NAMESPACE} describe {name}"
            if plural == "inferenceservices":
                cure += "; before the first promotion this is normal"
            return Check(name, ready, "ready" if ready else message or "not ready", cure)
    return Check(name, passed=False, finding="not processed by its controller yet", cure="Wait, or read its log.")
