"""What `lungline doctor --cluster` finds, against an API server made small."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from cli import main
from lungline.deployment.cluster_doctor import KINDS, READY, SECRETS, examine, ready_of_task
from tests.support.http_stand_in import Quiet, serving
from tests.support.kubernetes_api import Cluster, api_of, write_kubeconfig
from tests.support.manifests_of import generated_secrets, objects


@contextmanager
def api_server(answers: dict[str, Any]) -> Iterator[Cluster]:
    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path)
            status = answer if isinstance(answer, int) else 200 if answer is not None else 404
            body = json.dumps(answer if isinstance(answer, dict) else {"message": "not there"}).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving(Handler) as address:
        yield Cluster(address=address)


RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
STORAGE_CONTAINER = "/apis/serving.kserve.io/v1alpha1/clusterstoragecontainers/default"
SERVICE = "/apis/serving.kserve.io/v1beta1/namespaces/lungline/inferenceservices/pneumonia"
JUDGE = "/apis/eventing.knative.dev/v1/namespaces/lungline/triggers/judge"
KAFKA = "/apis/kafka.strimzi.io/v1/namespaces/lungline/kafkas/xray"
KSERVE_CONFIG = "/api/v1/namespaces/kserve/configmaps/inferenceservice-config"
POLICIES = "/apis/networking.k8s.io/v1/namespaces/lungline/networkpolicies"
CERTIFICATES = "/apis/cert-manager.io/v1/namespaces/lungline/certificates"
BINDINGS = "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings"
RUNNER = "/apis/rbac.authorization.k8s.io/v1/namespaces/kubeflow/roles/pipeline-runner"


NEEDED = (*READY, *ready_of_task("pneumonia"))


def knative(config: str) -> str:
    return f"/api/v1/namespaces/knative-serving/configmaps/{config}"


def conditions(*kinds: str, status: str = "True", **rest: str) -> dict[str, Any]:
    return {"status": {"conditions": [{"type": kind, "status": status} | rest for kind in kinds]}}


def binding(role: str, kind: str = "Role", runs: str = "kubeflow") -> dict[str, Any]:
    subjects = [{"kind": "ServiceAccount", "name": "lungline-pipeline", "namespace": runs}]
    return {"items": [{"roleRef": {"kind": kind, "name": role}, "subjects": subjects}]}


def healthy() -> dict[str, Any]:
    answers: dict[str, Any] = {"/version": {"major": "1", "minor": "34"}}
    for _, group, plural in KINDS:
        answers.setdefault(f"/apis/{group}", {"resources": []})["resources"].append({"name": plural})
    answers |= {f"/api/v1/namespaces/{namespace}/secrets/{secret}": {} for namespace, secret in SECRETS}
    ready = {"metadata": {"name": "x"}} | conditions("Ready", "Available")
    answers |= {f"/apis/{group}/namespaces/lungline/{plural}/{name}": ready for group, plural, name in NEEDED}
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    model = {"storageUri": "s3://lungline-models/pneumonia/1/"}
    return answers | {
        "/api/v1/namespaces/kubeflow/services/ml-pipeline": {"metadata": {}},
        "/api/v1/namespaces/kubeflow/serviceaccounts/lungline-pipeline": {},
        "/api/v1/namespaces/kubeflow/configmaps/settings": {},
        "/api/v1/namespaces/lungline": {"metadata": {"labels": labels}, "status": {"phase": "Active"}},
        knative("config-observability"): {"data": {"request-metrics-protocol": "prometheus"}},
        knative("config-network"): {"data": {"ingress-class": "kourier.ingress.networking.knative.dev"}},
        KSERVE_CONFIG: {"data": {"ingress": json.dumps({"disableIstioVirtualHost": True})}},
        STORAGE_CONTAINER: {"spec": {"container": {"securityContext": RESTRICTED}}},
        SERVICE: ready | {"spec": {"predictor": {"model": model}}},
        BINDINGS.format("kubeflow"): binding("pipeline-runner"),
        BINDINGS.format("lungline"): binding("promoter"),
        RUNNER: {},
    }


def faults(answers: dict[str, Any], runs: str = "kubeflow") -> dict[str, tuple[str, str]]:
    """The failed checks: finding and cure by name."""
    with api_server(answers) as there:
        checks = list(examine(api_of(there), runs))
    return {check.name: (check.finding, check.cure) for check in checks if not check.passed}


def test_a_cluster_that_has_everything_is_well() -> None:
    assert faults(healthy()) == {}


def test_what_is_missing_is_named_with_its_cure() -> None:
    answers = healthy()
    answers["/version"] = {"major": "1", "minor": "33+"}
    del answers["/apis/serving.kserve.io/v1beta1"]
    del answers["/api/v1/namespaces/lungline/secrets/postgres"]
    answers["/api/v1/namespaces/lungline/secrets/worklist"] = 403
    ill = faults(answers)
    assert ill["KServe (inferenceservices.serving.kserve.io)"][1] == "Install KServe: docs/cluster.md."
    assert "generate_secrets.py" in ill["Secret lungline/postgres"][1]
    assert ill["Secret lungline/worklist"][1].startswith("The Kubernetes API refuses")
    assert "1.34 or newer" in ill["Kubernetes"][1]
    assert len(ill) == 4, "objects are not asked for while their kinds are missing"


def test_what_is_not_ready_says_why() -> None:
    answers = healthy()
    answers[JUDGE] = {"metadata": {"name": "judge"}} | conditions(
        "Ready", status="False", reason="SubscriberNotFound", message="no such service"
    )
    del answers[KAFKA]
    assert faults(answers) == {
        "triggers/judge": ("SubscriberNotFound no such service", "kubectl -n lungline describe triggers/judge"),
        "kafkas/xray": ("missing", "kubectl apply --server-side -k manifests/overlays/minikube"),
    }


def test_before_the_first_promotion_a_cluster_is_well() -> None:
    """Neither the InferenceService nor its trigger can be ready without a model; another trigger has to be."""
    answers = healthy()
    unready = conditions("Ready", status="Unknown")
    answers[SERVICE] = {"spec": {"predictor": {"model": {}}}} | unready
    answers[JUDGE] = unready
    with api_server(answers) as there:
        checks = {check.name: check for check in examine(api_of(there))}
    assert all(check.passed for check in checks.values())
    for name in ("inferenceservices/pneumonia", "triggers/judge"):
        assert checks[name].finding == "waits for the first promotion: lungline promote"
    answers[JUDGE.replace("judge", "show")] = unready
    assert list(faults(answers)) == ["triggers/show"]


def test_each_task_of_the_cluster_is_looked_at() -> None:
    """Those whose files the config map has: what is missing, and what waits for a first promotion of its own."""
    answers = healthy()
    answers["/api/v1/namespaces/lungline/configmaps/tasks"] = {"data": {"about": "x", "rib-fracture.toml": "..."}}
    assert set(faults(answers)) == {"triggers/judge-rib-fracture", "inferenceservices/rib-fracture"}
    unready = conditions("Ready", status="Unknown")
    answers[SERVICE.replace("pneumonia", "rib-fracture")] = {"spec": {"predictor": {"model": {}}}} | unready
    answers[JUDGE.replace("judge", "judge-rib-fracture")] = unready
    with api_server(answers) as there:
        checks = {check.name: check for check in examine(api_of(there))}
    assert all(check.passed for check in checks.values())
    waits = "waits for the first promotion: lungline promote --task rib-fracture"
    assert checks["inferenceservices/rib-fracture"].finding == checks["triggers/judge-rib-fracture"].finding == waits
    assert checks["inferenceservices/pneumonia"].finding == "ready"


@pytest.mark.parametrize(
    ("path", "answer", "name", "finding", "cure"),
    [
        (knative("config-observability"), {"data": {}}, "Knative's request-metrics-protocol", "not set", "prometheus"),
        (knative("config-network"), {"data": {}}, "Knative's ingress-class", "Istio is not installed", "kourier"),
        (KSERVE_CONFIG, {"data": {}}, "KServe's disableIstioVirtualHost", "no event reaches", "Host=true"),
        (
            STORAGE_CONTAINER,
            {"spec": {"container": {"securityContext": {**RESTRICTED, "seccompProfile": {}}}}},
            "KServe's storage initializer",
            "lacks seccompProfile: Pod Security refuses",
            "seccompProfile.type=RuntimeDefault",
        ),
        (
            "/api/v1/namespaces/lungline",
            {"status": {"phase": "Terminating", "conditions": [{"type": "F", "status": "True", "message": "topics"}]}},
            "Namespace lungline",
            "is being deleted. topics",
            "finalizers",
        ),
        (
            KAFKA,
            conditions("Ready")
            | {"spec": {"kafka": {"template": {"pod": {"securityContext": {"runAsNonRoot": True}}}}}},
            "Kafka's volumes",
            "without fsGroup",
            "fsGroup: 0",
        ),
        ("/apis/apps/v1/namespaces/kube-system/daemonsets/node-local-dns", {}, "Resolver", "169.254.20.10/32", "Apply"),
        ("/api/v1/namespaces/openshift-dns", {}, "Resolver", "OpenShift's DNS answers here", "Apply"),
        (
            CERTIFICATES,
            {"items": [{"metadata": {"name": "worklist-tls"}} | conditions("Ready", status="False")]},
            "Certificates",
            "not issued: worklist-tls",
            "challenges",
        ),
        (RUNNER, None, "Rights of kubeflow/lungline-pipeline", "lacks the right to run a pipeline", "kubeflow-edit"),
        (
            BINDINGS.format("lungline"),
            binding("promoter", runs="elsewhere"),
            "Rights of kubeflow/lungline-pipeline",
            "lacks the right to promote",
            "promoter-kubeflow --role promoter --serviceaccount kubeflow:lungline-pipeline",
        ),
        (
            "/api/v1/namespaces/kubeflow/serviceaccounts/lungline-pipeline",
            None,
            "ServiceAccount kubeflow/lungline-pipeline",
            "missing",
            "kubectl apply",
        ),
        (
            "/api/v1/namespaces/kubeflow/configmaps/settings",
            None,
            "ConfigMap kubeflow/settings",
            "missing",
            "kubectl apply",
        ),
        (
            "/api/v1/namespaces/knative-eventing/pods",
            {
                "items": [
                    {"metadata": {"namespace": "knative-eventing", "name": "kafka-broker-dispatcher-0"}}
                    | conditions("PodScheduled", status="False", message="0/1 nodes are available: 1 Insufficient cpu.")
                ]
            },
            "Pods find a node",
            "knative-eventing/kafka-broker-dispatcher-0: 0/1 nodes are available: 1 Insufficient cpu",
            "Add nodes",
        ),
        (
            "/apis/apps/v1/namespaces/lungline/replicasets",
            {
                "items": [
                    {
                        "metadata": {"namespace": "lungline", "name": "pneumonia-predictor-00002"},
                        "spec": {"replicas": 1},
                    }
                    | conditions("ReplicaFailure", message='violates PodSecurity "restricted:v1.34"')
                ]
            },
            "Pods are admitted",
            'lungline/pneumonia-predictor-00002: violates PodSecurity "restricted:v1.34"',
            "FailedCreate",
        ),
        (
            "/api/v1/namespaces/kubeflow/pods",
            {
                "items": [
                    {
                        "metadata": {"namespace": "kubeflow", "name": "train-1"},
                        "status": {
                            "containerStatuses": [
                                {"name": "main", "state": {"waiting": {"reason": "ImagePullBackOff"}}}
                            ]
                        },
                    }
                ]
            },
            "Containers run",
            "kubeflow/train-1: Container main: ImagePullBackOff",
            "kubectl describe pod",
        ),
    ],
)
def test_each_fault_of_a_cluster_is_found(path: str, answer: Any, name: str, finding: str, cure: str) -> None:
    answers = healthy()
    if answer is None:
        del answers[path]
    else:
        answers[path] = answer
    ill = faults(answers)
    assert list(ill) == [name]
    assert finding in ill[name][0]
    assert cure in ill[name][1]


@pytest.mark.parametrize("switch", ["Enabled", "AllowRootBounded"])
def test_the_pods_seccomp_profile_admits_the_storage_initializer(switch: str) -> None:
    """With Knative's switch, without which Knative refuses the profile; otherwise the switch is not needed."""
    answers = healthy()
    answers[STORAGE_CONTAINER] = {"spec": {"container": {"securityContext": {**RESTRICTED, "seccompProfile": {}}}}}
    profile = {"seccompProfile": {"type": "RuntimeDefault"}}
    answers[SERVICE]["spec"]["predictor"]["securityContext"] = profile
    (fault,) = faults(answers).values()
    assert "Knative refuses the pod's seccompProfile" in fault[0]
    assert "AllowRootBounded" in fault[1]
    answers[knative("config-features")] = {"data": {"secure-pod-defaults": switch}}
    assert faults(answers) == {}


def test_a_solver_that_nobody_reaches_is_named() -> None:
    answers = healthy()
    answers[CERTIFICATES] = {"items": [{"metadata": {"name": "worklist-tls"}} | conditions("Ready", status="False")]}
    answers["/apis/acme.cert-manager.io/v1/namespaces/lungline/challenges"] = {"items": [{"spec": {"type": "HTTP-01"}}]}
    assert "solver (port 8089)" in faults(answers)["Certificates"][0]
    selector = {"matchLabels": {"acme.cert-manager.io/http01-solver": "true"}}
    answers[POLICIES] = {"items": [{"spec": {"podSelector": selector}}]}
    assert "solver" not in faults(answers)["Certificates"][0]


@pytest.mark.parametrize("overlay", ["minikube", "production"])
def test_the_manifests_have_none_of_these_faults(overlay: str) -> None:
    """What the doctor reads of our own objects, it reads as they are applied."""
    answers = healthy()
    answers[KAFKA] = next(o for o in objects(overlay) if o["kind"] == "Kafka") | conditions("Ready")
    answers[POLICIES] = {"items": [o for o in objects(overlay) if o["kind"] == "NetworkPolicy"]}
    answers["/apis/apps/v1/namespaces/kube-system/daemonsets/node-local-dns"] = {}
    answers["/api/v1/namespaces/openshift-dns"] = {}
    for place in ("kubeflow", "lungline"):
        bindings = [o for o in objects(overlay) if o["kind"] == "RoleBinding" and o["metadata"]["namespace"] == place]
        answers[BINDINGS.format(place)] = {"items": bindings}
    assert faults(answers) == {}


def test_runs_of_several_users_are_looked_for_in_their_namespace() -> None:
    """There the rights come from the cluster role kubeflow-edit."""
    answers = {path.replace("namespaces/kubeflow", "namespaces/team-a"): answer for path, answer in healthy().items()}
    answers["/api/v1/namespaces/kubeflow/services/ml-pipeline"] = {}
    answers[BINDINGS.format("team-a")] = binding("kubeflow-edit", "ClusterRole", "team-a")
    answers[BINDINGS.format("lungline")] = binding("promoter", runs="team-a")
    answers["/apis/rbac.authorization.k8s.io/v1/clusterroles/kubeflow-edit"] = {}
    assert faults(answers, "team-a") == {}


def test_what_may_not_be_read_is_a_fault_and_the_rest_is_checked() -> None:
    answers = healthy()
    answers[STORAGE_CONTAINER] = answers["/api/v1/namespaces/kserve/pods"] = 403
    ill = faults(answers)
    assert {name: finding for name, (finding, _) in ill.items()} == dict.fromkeys(
        ("KServe's storage initializer", "Pods find a node"), "not readable"
    )


def test_the_command_exits_with_1_for_a_failed_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command shows them and ends with 1 when something is missing."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    answers = healthy()
    monkeypatch.setattr("sys.argv", ["lungline", "doctor", "--cluster", "--context", "here", "--json"])
    for expected in (0, 1):
        with api_server(answers) as there:
            write_kubeconfig(tmp_path / "config", there.address, monkeypatch)
            with pytest.raises(SystemExit) as ended:
                main.main()
        assert ended.value.code == expected
        checks = json.loads(capsys.readouterr().out)
        assert [check["passed"] for check in checks].count(False) == expected
        answers.pop("/api/v1/namespaces/kubeflow/services/ml-pipeline", None)


def test_it_looks_for_what_the_manifests_have() -> None:
    made = {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in generated_secrets()}
    of_components = {("lungline", name) for name in ("seaweedfs-identities", "worklist-viewers")}
    assert set(SECRETS) == made - of_components
    here = {(item["apiVersion"], item["metadata"]["name"]) for item in objects("minikube")}
    assert {(group, name) for group, _, name in NEEDED} <= here
    kinds = {item["apiVersion"] for item in objects("production") if "." in item["apiVersion"].partition("/")[0]}
    custom = {kind for kind in kinds if not kind.split("/")[0].endswith("k8s.io")}
    assert custom <= {group for _, group, _ in KINDS} | {"serving.kserve.io/v1alpha1"}
