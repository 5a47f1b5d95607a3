"""Checks of a live cluster: what the manifests need, what keeps it from working, and how to mend it."""

from collections.abc import Callable, Iterator
from functools import partial

from lungline.deployment import cluster_platform, cluster_pods
from lungline.deployment.inference_service import ModelFields
from lungline.deployment.kubernetes_api import ClusterRefused, Json, KubernetesApi
from lungline.deployment.status import conditions_of, part, parts
from lungline.deployment.task_manifests import CONFIG_MAP, trigger_name
from lungline.health_check import Check
from lungline.task.reading import DEFAULT, SUFFIX

NAMESPACE, PIPELINES, ACCOUNT = "lungline", "kubeflow", "lungline-pipeline"
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
    *((NAMESPACE, f"s3-{user}") for user in ("scanner", "predictor", "pipeline", "mlflow", "worklist")),
    *((NAMESPACE, f"s3-{user}") for user in ("reconcile", "retention")),
    *((NAMESPACE, f"kafka-{user}") for user in ("object-store", "eventing", "tools", "dossier")),
    *((NAMESPACE, name) for name in ("object-store-root", "xray-cluster-ca", "xray-cluster-ca-cert")),
    *((NAMESPACE, name) for name in ("postgres", "worklist", "research", "mlflow", "mlflow-people", "site-public-key")),
    *((NAMESPACE, name) for name in ("dicom-gateway", "retention-key", "dossier-key", "mlflow-dossier")),
    *((PIPELINES, name) for name in ("s3-pipeline", "mlflow-pipeline", "site-key")),
)
# Objects that must be ready: API group, resource, name.
READY = (
    ("kafka.strimzi.io/v1", "kafkas", "xray"),
    ("eventing.knative.dev/v1", "brokers", "xray"),
    ("sources.knative.dev/v1", "kafkasources", "uploads"),
    ("sources.knative.dev/v1", "kafkasources", "dead-letters"),
    ("eventing.knative.dev/v1alpha1", "kafkasinks", "results"),
    ("eventing.knative.dev/v1alpha1", "kafkasinks", "dead-letters"),
    ("eventing.knative.dev/v1", "triggers", "show"),
    ("eventing.knative.dev/v1", "triggers", "publish"),
    ("apps/v1", "deployments", "mlflow"),
    ("apps/v1", "deployments", "worklist"),
    ("apps/v1", "deployments", "worklist-events"),
    ("apps/v1", "deployments", "dicom-gateway"),
    ("apps/v1", "deployments", "dossier-sources"),
)
APPLY = "kubectl apply --server-side -k manifests/overlays/minikube"


def examine(api: KubernetesApi, runs: str = PIPELINES) -> Iterator[Check]:
    """Check one prerequisite after the other; `runs` is the namespace of pipeline runs.

    Raises ClusterUnavailable when the API server does not answer. What may not be read is a failed check of its own.
    """
    complete = True
    for component, group, plural in KINDS:
        name = f"{component} ({plural}.{group.partition('/')[0]})"
        check = _readable(name, partial(_registered, api, name, component, group, plural))
        complete = complete and check.passed
        yield check
    yield from (_readable(name, partial(look, api)) for name, look in cluster_platform.CHECKS.items())
    for namespace, secret in SECRETS:
        place = runs if namespace == PIPELINES else namespace
        secret_path = f"/api/v1/namespaces/{place}/secrets/{secret}"
        cure = "python manifests/generate_secrets.py | kubectl create -f -"
        yield _there(api, f"Secret {place}/{secret}", secret_path, cure)
    yield from _pipelines(api, runs)
    if complete:
        for group, plural, name in READY:
            yield _readable(f"{plural}/{name}", partial(_readiness, api, group, plural, name))
        for task in _tasks(api):
            yield from _served(api, task)
    yield from (_readable(name, partial(look, api, (NAMESPACE, runs))) for name, look in cluster_pods.CHECKS.items())


def _readable(name: str, look: Callable[[], Check]) -> Check:
    """The check, or what the account may not read: the other checks still help."""
    try:
        return look()
    except ClusterRefused as exc:
        return Check(name, passed=False, finding="not readable", cure=str(exc))


def _there(api: KubernetesApi, name: str, path: str, cure: str) -> Check:
    return _readable(name, lambda: _presence(name, api.get(path) is not None, cure))


def _presence(name: str, present: bool, cure: str) -> Check:
    return Check(name, present, "there" if present else "missing", cure)


def _registered(api: KubernetesApi, name: str, component: str, group: str, plural: str) -> Check:
    resources = parts(api.get(f"/apis/{group}") or {}, "resources")
    there = any(resource.get("name") == plural for resource in resources)
    return _presence(name, there, f"Install {component}: docs/cluster.md.")


def _pipelines(api: KubernetesApi, runs: str) -> Iterator[Check]:
    """What a run needs in its namespace; without the account or the settings, each of its pods is refused."""
    server = f"/api/v1/namespaces/{PIPELINES}/services/ml-pipeline"
    yield _there(api, "Kubeflow Pipelines", server, "Install Kubeflow Pipelines: docs/cluster.md.")
    for kind, plural, name in (("ServiceAccount", "serviceaccounts", ACCOUNT), ("ConfigMap", "configmaps", "settings")):
        yield _there(api, f"{kind} {runs}/{name}", f"/api/v1/namespaces/{runs}/{plural}/{name}", APPLY)
    name = f"Rights of {runs}/{ACCOUNT}"
    yield _readable(name, partial(cluster_platform.rights_of_runs, api, name, runs, ACCOUNT))


def ready_of_task(task: str) -> tuple[tuple[str, str, str], ...]:
    """What must be ready for a task: API group, resource, name."""
    return (
        ("eventing.knative.dev/v1", "triggers", trigger_name(task)),
        ("serving.kserve.io/v1beta1", "inferenceservices", task),
    )


def _tasks(api: KubernetesApi) -> tuple[str, ...]:
    """The default task, and those whose files the cluster has."""
    try:
        config = api.get(f"/api/v1/namespaces/{NAMESPACE}/configmaps/{CONFIG_MAP}") or {}
    except ClusterRefused:
        config = {}
    files = sorted(file for file in part(config, "data") if file.endswith(SUFFIX))
    return (DEFAULT, *(file.removesuffix(SUFFIX) for file in files))


def _served(api: KubernetesApi, task: str) -> Iterator[Check]:
    """Neither is ready before a model was promoted: KServe sets no address for the trigger to resolve."""
    service = _service(api, task)
    unpromoted = service is not None and ModelFields.of(service).uri is None
    for group, plural, name in ready_of_task(task):
        check = _readable(f"{plural}/{name}", partial(_readiness, api, group, plural, name))
        yield _waiting(check, task) if unpromoted else check


def _service(api: KubernetesApi, task: str) -> Json | None:
    try:
        return api.get(f"/apis/serving.kserve.io/v1beta1/namespaces/{NAMESPACE}/inferenceservices/{task}")
    except ClusterRefused:
        return None


def _waiting(check: Check, task: str) -> Check:
    if check.passed:
        return check
    of_task = "" if task == DEFAULT else f" --task {task}"
    return Check(check.name, passed=True, finding=f"waits for the first promotion: lungline promote{of_task}")


def _readiness(api: KubernetesApi, group: str, plural: str, name: str) -> Check:
    resource = api.get(f"/apis/{group}/namespaces/{NAMESPACE}/{plural}/{name}")
    name = f"{plural}/{name}"
    if resource is None:
        return _presence(name, present=False, cure=APPLY)
    condition = conditions_of(resource).get("Available" if group == "apps/v1" else "Ready")
    if condition is None:
        return Check(name, passed=False, finding="not processed by its controller yet", cure="Wait, or read its log.")
    message = " ".join(str(condition.get(key) or "") for key in ("reason", "message")).strip()
    ready = condition.get("status") == "True"
    cure = f"kubectl -n {NAMESPACE} describe {name}"
    return Check(name, ready, "ready" if ready else message or "not ready", cure)
