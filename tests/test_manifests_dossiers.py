"""What a cluster's worklist may reach for its dossiers, and what only the pod that lends it facts may."""

import json

from cryptography.hazmat.primitives import serialization

from eventing.event_search import GROUP
from lungline.retention.holds import PREFIX
from tests.support.manifests_of import (
    DEFAULTS,
    MANIFESTS,
    Object,
    Pod,
    env_of,
    every_overlay,
    generated_secrets,
    named,
    pods,
    secret_references_of,
    selects,
)

LENDER = {"app.kubernetes.io/name": "dossier-sources"}


def pod_of(overlay: str, owner: str) -> Pod:
    (pod,) = [pod for pod in pods(overlay) if pod.owner == owner]
    return pod


def secrets_of(pod: Pod) -> set[str]:
    return {name for _, name, _ in secret_references_of(pod)}


def let_out(overlay: str, pod: Pod, labels: dict[str, str]) -> list[Object]:
    """The rules of egress by which a pod reaches pods with these labels."""
    policies = [policy["spec"] for policy in named(overlay, "NetworkPolicy").values()]
    rules = [rule for spec in policies if selects(spec["podSelector"], pod.labels) for rule in spec.get("egress", [])]
    return [
        rule
        for rule in rules
        if any("podSelector" in peer and selects(peer["podSelector"], labels) for peer in rule.get("to", []))
    ]


@every_overlay
def test_the_worklist_has_no_login_to_kafka_or_mlflow(overlay: str) -> None:
    for owner in ("Deployment/worklist", "Deployment/worklist-events"):
        pod = pod_of(overlay, owner)
        assert not [name for name in secrets_of(pod) if name.startswith(("kafka-", "mlflow", "site-key"))]
        assert not let_out(overlay, pod, {"app.kubernetes.io/name": "mlflow"})
    lender = pod_of(overlay, "Deployment/dossier-sources")
    assert secrets_of(lender) == {"kafka-dossier", "mlflow-dossier", "xray-cluster-ca-cert"}


@every_overlay
def test_the_lender_is_reached_by_the_page_alone(overlay: str) -> None:
    (rule,) = named(overlay, "NetworkPolicy")["to-dossier-sources"]["spec"]["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "worklist"}}}]
    worklist, lender = pod_of(overlay, "Deployment/worklist"), pod_of(overlay, "Deployment/dossier-sources")
    assert let_out(overlay, worklist, LENDER)
    assert let_out(overlay, lender, {"app.kubernetes.io/name": "mlflow"})
    assert let_out(overlay, lender, {"strimzi.io/cluster": "xray"})
    to_mlflow = named(overlay, "NetworkPolicy")["to-mlflow"]["spec"]["ingress"]
    assert any(peer.get("podSelector") == {"matchLabels": LENDER} for each in to_mlflow for peer in each["from"])
    env = {entry["name"]: entry.get("value") for entry in env_of(worklist.containers[0])}
    assert env["LUNGLINE_WORKLIST__DOSSIER_SOURCES"] == "http://dossier-sources.lungline.svc.cluster.local"
    (port,) = named(overlay, "Service")["dossier-sources"]["spec"]["ports"]
    assert port["port"] == 80


@every_overlay
def test_what_the_lender_reads_it_may_only_read(overlay: str) -> None:
    rights = {
        acl["resource"]["name"]: set(acl["operations"])
        for acl in named(overlay, "KafkaUser")["dossier"]["spec"]["authorization"]["acls"]
    }
    assert {DEFAULTS.uploads_topic, DEFAULTS.results_topic, DEFAULTS.dead_letters_topic, GROUP} <= rights.keys()
    assert all(operations == {"Read", "Describe"} for operations in rights.values())
    env = {entry["name"]: entry.get("value") for entry in env_of(pod_of(overlay, "Deployment/mlflow").containers[0])}
    assert env["MLFLOW_GATE_READERS"] == "dossier"


def test_dossiers_are_signed_with_a_key_for_nothing_else() -> None:
    made = {
        (each["metadata"]["namespace"], each["metadata"]["name"]): each["stringData"] for each in generated_secrets()
    }
    keys = [
        values["private"] for (_, name), values in made.items() if name in {"site-key", "retention-key", "dossier-key"}
    ]
    assert len(set(keys)) == 3
    key = made["lungline", "dossier-key"]
    public = serialization.load_pem_private_key(key["private"].encode(), None).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    assert public.public_bytes(serialization.Encoding.PEM, form).decode() == key["public"]
    accounts = json.loads(made["lungline", "mlflow"]["accounts.json"])
    login = made["lungline", "mlflow-dossier"]
    assert accounts[login["username"]] == login["password"]


def test_the_worklist_may_read_legal_holds_and_set_none() -> None:
    policy = json.loads((MANIFESTS / "base/storage/policies/worklist.json").read_text())
    actions = {
        action
        for statement in policy["Statement"]
        if f"arn:aws:s3:::{DEFAULTS.patients_bucket}/{PREFIX}*" in statement["Resource"]
        for action in statement["Action"]
    }
    assert actions == {"s3:GetObject"}
