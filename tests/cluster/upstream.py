"""The install manifests of Knative, KServe and the CRDs of the rest, read from the shared folder and set up for here.

They are changed as an installation may change them (docs/cluster.md), and in two ways that only a cluster without nodes
needs: Deployments have no replicas, because the programs run as processes, and Services of those programs have no
selector, because their endpoints are written by hand.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.binaries import gateway_crds
from tests.support.manifests_of import SHARED

Object = dict[str, Any]
UPSTREAM, CRDS = SHARED / "k8s" / "upstream", SHARED / "k8s" / "crds"
KSERVE = "kserve"
# Folders of install manifests by component; what they lack on purpose: data planes, certificates, other runtimes.
FOLDERS = {
    "serving": ("serving/config/core",),
    "eventing": ("eventing/config/core",),
    "kafka": ("eventing-kafka-broker/control-plane/config/eventing-kafka-broker",),
    "kserve": (
        "kserve/config/rbac",
        "kserve/config/configmap",
        "kserve/config/manager",
        "kserve/config/webhook",
        "kserve/config/storagecontainers",
    ),
}
OTHERS = ("llmisvc", "localmodel", "localmodelnode", "runtimes")
# Kinds that are no objects of a cluster, or need what a cluster without nodes lacks.
LEFT_OUT = ("Kustomization", "HorizontalPodAutoscaler", "PodDisruptionBudget")
# What stands in crds/ once more, in a version that its component does not ship.
SHIPPED = ("serving.knative.dev_", "eventing.knative.dev_", "sources.knative.dev_")
NAMESPACES = ("knative-serving", "knative-eventing", KSERVE, "kubeflow")
RESTRICTED: Object = {
    "allowPrivilegeEscalation": False,
    "privileged": False,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What docs/cluster.md gives KServe's storage initializer; without it Pod Security refuses a predictor with a model."""


def missing() -> str | None:
    """Why the manifests cannot be read, in one sentence."""
    if UPSTREAM.is_dir() and CRDS.is_dir():
        return None
    return f"The install manifests of Knative and KServe are not in {SHARED / 'k8s'} (SHARED_FOLDER names the folder)."


def crds() -> list[Object]:
    """The CRDs of every component, each once."""
    definitions: dict[str, Object] = {}
    for path in sorted(CRDS.glob("*.yaml")):
        if not path.name.startswith(SHIPPED):
            definitions |= {document["metadata"]["name"]: document for document in _crds_of(path)}
    for path in sorted(UPSTREAM.rglob("*.yaml")):
        definitions |= {document["metadata"]["name"]: document for document in _crds_of(path)}
    for path in gateway_crds():
        definitions |= {document["metadata"]["name"]: document for document in _crds_of(path)}
    # Its conversion needs Knative's Kafka controllers; the two versions have the same schema.
    definitions["kafkasources.sources.knative.dev"]["spec"]["conversion"] = {"strategy": "None"}
    return [*definitions.values(), *_cert_manager()]


def _cert_manager() -> list[Object]:
    """cert-manager's kinds by name alone: the doctor asks whether they are registered, and none of ours is one."""
    names = (("certificates", "Certificate"), ("issuers", "Issuer"), ("clusterissuers", "ClusterIssuer"))
    return [_registered("cert-manager.io", plural, kind) for plural, kind in names]


def _registered(group: str, plural: str, kind: str) -> Object:
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"},
            "scope": "Namespaced",
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }


def namespaces() -> list[Object]:
    return [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in NAMESPACES]


def component(name: str) -> list[Object]:
    """The objects of a component, without its CRDs, its namespace and its webhook configurations."""
    documents = [document for document in _documents(name) if not _is_webhook(document)]
    for document in documents:
        # The programs are of 1.23, the manifests of 1.22, which lack this right.
        if (document["kind"], document["metadata"]["name"]) == ("ClusterRole", "knative-eventing-controller"):
            rule = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"]}
            document["rules"].append(rule | {"verbs": ["get", "list", "watch"]})
    return documents


def webhooks(name: str, authority: Path) -> list[Object]:
    """The webhook configurations of a component; Knative's get their certificates from Knative itself."""
    documents = [document for document in _documents(name) if _is_webhook(document)]
    if name == "kserve":
        bundle = base64.b64encode(authority.read_bytes()).decode()
        for document in documents:
            for webhook in document["webhooks"]:
                client = webhook["clientConfig"]
                client["service"] |= {"name": "kserve-webhook-server-service", "namespace": KSERVE}
                client["caBundle"] = bundle
    return documents


def environment(deployment: Object, address: str) -> dict[str, str]:
    """The environment variables that a pod of a Deployment would have."""
    namespace = deployment["metadata"].get("namespace", KSERVE)
    name = deployment["metadata"]["name"]
    fields = {"metadata.name": f"{name}-0", "metadata.namespace": namespace, "status.podIP": address}
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    values: dict[str, str] = {}
    for variable in container.get("env", []):
        source = variable.get("valueFrom", {})
        if "fieldRef" in source:
            values[variable["name"]] = fields[source["fieldRef"]["fieldPath"]]
        elif "configMapKeyRef" in source:
            values[variable["name"]] = "dev.local/not-used-here:1"
        else:
            values[variable["name"]] = str(variable.get("value", ""))
    return values


def _documents(name: str) -> Iterator[Object]:
    for folder in FOLDERS[name]:
        for path in sorted((UPSTREAM / folder).rglob("*.yaml")):
            if not set(path.parts) & set(OTHERS):
                for document in _load(path):
                    if document.get("kind", "Kustomization") not in (
                        *LEFT_OUT,
                        "CustomResourceDefinition",
                        "Namespace",
                    ):
                        yield _set_up(document)


def _set_up(document: Object) -> Object:
    kind, name = document["kind"], document["metadata"]["name"]
    if kind in {"Deployment", "StatefulSet"}:
        document["spec"]["replicas"] = 0
    if kind == "ConfigMap" and (switches := SWITCHES.get(name)):
        document["data"].update(switches)
    if kind == "ConfigMap" and name == "inferenceservice-config":
        ingress = json.loads(document["data"]["ingress"])
        document["data"]["ingress"] = json.dumps(ingress | {"disableIstioVirtualHost": True})
    if kind in {"RoleBinding", "ClusterRoleBinding"}:
        for subject in document["subjects"]:
            subject.setdefault("namespace", KSERVE)
    if kind == "ClusterStorageContainer":
        document["spec"]["container"] |= {"image": "kserve/storage-initializer:v0.20.0", "securityContext": RESTRICTED}
    return document


# Of config maps: what docs/cluster.md sets, and that no registry is asked for digests of our images.
SWITCHES: dict[str, dict[str, str]] = {
    "config-network": {"ingress-class": "kourier.ingress.networking.knative.dev"},
    "config-observability": {"request-metrics-protocol": "prometheus"},
    "config-deployment": {
        "registries-skipping-tag-resolving": "kind.local,ko.local,dev.local,ghcr.io",
        "queue-sidecar-image": "dev.local/queue:1",
    },
}


def _is_webhook(document: Object) -> bool:
    return document["kind"] in {"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"}


def _crds_of(path: Path) -> list[Object]:
    definitions = [document for document in _load(path) if document.get("kind") == "CustomResourceDefinition"]
    return [document for document in definitions if "group" in document.get("spec", {})]  # the others are patches


def _load(path: Path) -> list[Object]:
    return [document for document in yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader) if document]
