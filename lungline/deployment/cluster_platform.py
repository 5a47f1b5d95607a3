"""Checks of what a platform team sets for the whole cluster: Kubernetes, Knative, KServe, names, certificates."""

import json
from collections.abc import Callable

from lungline.deployment.kubernetes_api import Json, KubernetesApi
from lungline.deployment.status import conditions_of, name_of, part, parts
from lungline.health_check import Check
from lungline.task.reading import DEFAULT

NAMESPACE = "lungline"
OLDEST = ("1", 34)
"""Kubernetes: the controllers of Knative 1.22 and newer end at once on an older one."""
PROFILES = {"RuntimeDefault", "Localhost"}
UPGRADE = "helm -n kserve upgrade kserve oci://ghcr.io/kserve/charts/kserve-resources --version v0.20.0 --reuse-values"
POLICIES = f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies"


def kubernetes(api: KubernetesApi) -> Check:
    """The version of the API server."""
    version = api.get("/version") or {}
    minor = int("".join(filter(str.isdigit, str(version.get("minor")))) or 0)
    new = (str(version.get("major")), minor) >= OLDEST
    finding = f"{version.get('major')}.{version.get('minor')}"
    return Check(
        "Kubernetes", new, finding, "Kubernetes 1.34 or newer is needed: Knative 1.23 does not start on older."
    )


def namespace(api: KubernetesApi) -> Check:
    """Whether our namespace is there, and not stuck in its deletion."""
    name = f"Namespace {NAMESPACE}"
    document = api.get(f"/api/v1/namespaces/{NAMESPACE}")
    if document is None:
        return Check(name, passed=False, finding="missing", cure="kubectl apply -f manifests/base/namespace.yaml")
    if part(document, "status").get("phase") != "Terminating":
        return Check(name, passed=True, finding="there")
    why = " ".join(
        str(condition.get("message")) for condition in conditions_of(document).values() if _is_true(condition)
    )
    return Check(
        name,
        passed=False,
        finding=f"is being deleted. {why}".strip(),
        cure="Objects with finalizers wait for controllers that are gone: docs/cluster.md has the order of removal.",
    )


def metrics(api: KubernetesApi) -> Check:
    """Knative counts requests only with this setting; canaries are compared by these counts."""
    value = _data(api, "knative-serving", "config-observability").get("request-metrics-protocol")
    cure = "Without it canaries and alerts have no metrics: " + _patch(
        "knative-serving", "config-observability", "request-metrics-protocol", "prometheus"
    )
    return Check("Knative's request-metrics-protocol", value == "prometheus", str(value or "not set"), cure)


def ingress_class(api: KubernetesApi) -> Check:
    """Knative waits for the ingress of its default class; as shipped, that is Istio."""
    data = _data(api, "knative-serving", "config-network")
    value = str(data.get("ingress-class") or data.get("ingress.class") or "istio.ingress.networking.knative.dev")
    works = not value.startswith("istio.") or _istio(api)
    kourier = "kourier.ingress.networking.knative.dev"
    finding = value if works else f"{value}, but Istio is not installed: no revision ever gets traffic"
    return Check(
        "Knative's ingress-class", works, finding, _patch("knative-serving", "config-network", "ingress-class", kourier)
    )


def virtual_host(api: KubernetesApi) -> Check:
    """Without Istio, KServe must not route by Istio's VirtualService."""
    try:
        ingress: Json = json.loads(str(_data(api, "kserve", "inferenceservice-config").get("ingress") or "{}"))
    except ValueError:
        ingress = {}
    disabled = ingress.get("disableIstioVirtualHost") is True
    works = disabled or _istio(api)
    finding = str(disabled).lower() if works else "false, but Istio is not installed: no event reaches the predictor"
    cure = f"{UPGRADE} --set kserve.controller.gateway.disableIstioVirtualHost=true"
    return Check("KServe's disableIstioVirtualHost", works, finding, cure)


def storage_initializer(api: KubernetesApi) -> Check:
    """Whether Pod Security admits the container that fetches the model, which has KServe's context and not ours."""
    name = "KServe's storage initializer"
    labels = part(api.get(f"/api/v1/namespaces/{NAMESPACE}") or {}, "metadata", "labels")
    if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
        return Check(name, passed=True, finding=f"the namespace {NAMESPACE} does not enforce the level restricted")
    container = api.get("/apis/serving.kserve.io/v1alpha1/clusterstoragecontainers/default") or {}
    context = part(container, "spec", "container", "securityContext")
    missing = _missing(context)
    finding = f"lacks {', '.join(missing)}: Pod Security refuses each predictor that has a model"
    if missing == ["seccompProfile"] and _pod_profile(api):
        switch = str(_data(api, "knative-serving", "config-features").get("secure-pod-defaults")).lower()
        if switch in {"enabled", "allowrootbounded"}:
            return Check(name, passed=True, finding="restricted, by the pod's seccompProfile")
        cure = _patch("knative-serving", "config-features", "secure-pod-defaults", "AllowRootBounded")
        refused = f"Knative refuses the pod's seccompProfile while secure-pod-defaults is {switch}"
        return Check(name, passed=False, finding=refused, cure=cure)
    cure = f"{UPGRADE} --set kserve.storage.containerSecurityContext.seccompProfile.type=RuntimeDefault"
    return Check(name, not missing, finding if missing else "restricted", cure)


def kafka_volume(api: KubernetesApi) -> Check:
    """Strimzi sets a group for the volume only where the pod has no context of its own."""
    name = "Kafka's volumes"
    kafka = api.get(f"/apis/kafka.strimzi.io/v1/namespaces/{NAMESPACE}/kafkas/xray") or {}
    context = part(kafka, "spec", "kafka", "template", "pod", "securityContext")
    writable = not context or "fsGroup" in context
    finding = "writable" if writable else "the pod has a securityContext without fsGroup: it cannot write block storage"
    return Check(name, writable, finding, "Apply the manifests of this version, which have fsGroup: 0.")


def names(api: KubernetesApi) -> Check:
    """Whether our pods may ask the cluster's resolver, which is not everywhere a pod in kube-system."""
    name = "Resolver"
    peers = json.dumps([part(policy, "spec").get("egress") for policy in parts(api.get(POLICIES) or {}, "items")])
    resolvers = {
        "NodeLocal DNSCache": ("/apis/apps/v1/namespaces/kube-system/daemonsets/node-local-dns", "169.254.20.10/32"),
        "OpenShift's DNS": ("/api/v1/namespaces/openshift-dns", "openshift-dns"),
    }
    for resolver, (path, peer) in resolvers.items():
        if api.get(path) is not None and peer not in peers:
            finding = f"{resolver} answers here, and no network policy lets our pods ask it ({peer})"
            return Check(name, passed=False, finding=finding, cure="Apply the manifests of this version.")
    return Check(name, passed=True, finding="reachable by the network policies")


def certificates(api: KubernetesApi) -> Check:
    """Whether cert-manager has issued our certificates, and whether its HTTP-01 solver can be reached."""
    path = f"/apis/cert-manager.io/v1/namespaces/{NAMESPACE}/certificates"
    waiting = [name_of(item) for item in parts(api.get(path) or {}, "items") if not _ready(item)]
    if not waiting:
        return Check("Certificates", passed=True, finding="issued, where there are any")
    challenges = parts(api.get(f"/apis/acme.cert-manager.io/v1/namespaces/{NAMESPACE}/challenges") or {}, "items")
    over_http = any(part(challenge, "spec").get("type") == "HTTP-01" for challenge in challenges)
    selectors = json.dumps([part(item, "spec", "podSelector") for item in parts(api.get(POLICIES) or {}, "items")])
    finding = f"not issued: {', '.join(waiting)}"
    if over_http and "acme.cert-manager.io/http01-solver" not in selectors:
        finding += "; no network policy lets anybody reach cert-manager's solver (port 8089)"
    cure = f"kubectl -n {NAMESPACE} describe certificates,orders,challenges"
    return Check("Certificates", passed=False, finding=finding, cure=cure)


def rights_of_runs(api: KubernetesApi, name: str, runs: str, account: str) -> Check:
    """Whether the account of pipeline runs may run a pipeline, and promote."""
    may_run = any(_exists(api, runs, role) for role in _roles(api, runs, runs, account))
    may_promote = any(role.get("name") == "promoter" for role in _roles(api, NAMESPACE, runs, account))
    lacks = [
        what for what, has in (("to run a pipeline", may_run), ("to promote (Role promoter)", may_promote)) if not has
    ]
    edit = f"kubectl -n {runs} create rolebinding {account}-edit --clusterrole kubeflow-edit"
    promote = f"kubectl -n {NAMESPACE} create rolebinding promoter-{runs} --role promoter"
    cures = [
        f"{command} --serviceaccount {runs}:{account}"
        for command, has in ((edit, may_run), (promote, may_promote))
        if not has
    ]
    return Check(name, not lacks, f"lacks the right {' and '.join(lacks)}" if lacks else "bound", "; ".join(cures))


CHECKS: dict[str, Callable[[KubernetesApi], Check]] = {
    "Kubernetes": kubernetes,
    f"Namespace {NAMESPACE}": namespace,
    "Knative's request-metrics-protocol": metrics,
    "Knative's ingress-class": ingress_class,
    "KServe's disableIstioVirtualHost": virtual_host,
    "KServe's storage initializer": storage_initializer,
    "Kafka's volumes": kafka_volume,
    "Resolver": names,
    "Certificates": certificates,
}


def _missing(context: Json) -> list[str]:
    """What the level restricted asks of a container and this context does not say."""
    needed = {
        "allowPrivilegeEscalation: false": context.get("allowPrivilegeEscalation") is False,
        "runAsNonRoot: true": context.get("runAsNonRoot") is True,
        "capabilities.drop: [ALL]": "ALL" in list[object](parts(part(context, "capabilities"), "drop")),
        "seccompProfile": part(context, "seccompProfile").get("type") in PROFILES,
    }
    return [what for what, stated in needed.items() if not stated]


def _pod_profile(api: KubernetesApi) -> bool:
    service = api.get(f"/apis/serving.kserve.io/v1beta1/namespaces/{NAMESPACE}/inferenceservices/{DEFAULT}") or {}
    profile = part(service, "spec", "predictor", "securityContext", "seccompProfile")
    return profile.get("type") in PROFILES


def _roles(api: KubernetesApi, place: str, runs: str, account: str) -> list[Json]:
    """The roles that bindings of a namespace give to the account of runs."""
    bindings = parts(api.get(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{place}/rolebindings") or {}, "items")
    return [
        part(binding, "roleRef")
        for binding in bindings
        if any((s.get("name"), s.get("namespace")) == (account, runs) for s in parts(binding, "subjects"))
    ]


def _exists(api: KubernetesApi, place: str, role: Json) -> bool:
    scope = f"namespaces/{place}/roles" if role.get("kind") == "Role" else "clusterroles"
    return api.get(f"/apis/rbac.authorization.k8s.io/v1/{scope}/{role.get('name')}") is not None


def _istio(api: KubernetesApi) -> bool:
    return api.get("/apis/networking.istio.io") is not None


def _data(api: KubernetesApi, place: str, config: str) -> Json:
    return part(api.get(f"/api/v1/namespaces/{place}/configmaps/{config}") or {}, "data")


def _patch(place: str, config: str, key: str, value: str) -> str:
    return f"""kubectl -n {place} patch configmap {config} --type merge -p '{{"data":{{"{key}":"{value}"}}}}'"""


def _ready(resource: Json) -> bool:
    return _is_true(conditions_of(resource).get("Ready", {}))


def _is_true(condition: Json) -> bool:
    return condition.get("status") == "True"
