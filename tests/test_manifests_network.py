"""Who may connect to whom, and the way in from outside."""

import re
from collections.abc import Iterator

import yaml

from tests.support.manifests_of import (
    MANIFESTS,
    Object,
    Pod,
    env_of,
    every_overlay,
    named,
    of_kind,
    pods,
    secret_references_of,
    selects,
    text_of,
    walk,
)

APP, NAME = "app.kubernetes.io/name", "kubernetes.io/metadata.name"


@every_overlay
def test_every_network_policy_selects_pods_that_exist(overlay: str) -> None:
    others = [
        {"strimzi.io/cluster": next(iter(named(overlay, "Kafka")))},
        {"acme.cert-manager.io/http01-solver": "true"},
    ]
    labels = [pod.labels for pod in pods(overlay)] + others
    for name, policy in named(overlay, "NetworkPolicy").items():
        selectors = [value for path, value in walk(policy["spec"]) if path.endswith("podSelector")]
        for selector in selectors:
            assert any(selects(selector, manifest) for manifest in labels), f"{name}: {selector}"


@every_overlay
def test_pods_with_credentials_may_reach_their_service(overlay: str) -> None:
    egress = {
        name: manifest
        for name, manifest in named(overlay, "NetworkPolicy").items()
        if "Egress" in manifest["spec"]["policyTypes"]
    }
    for pod in pods(overlay):
        names = {name for _, name, _ in secret_references_of(pod)}
        needs = {"from-s3-clients"} if any(name.startswith("s3-") for name in names) and not pod.knative else set()
        needs |= {"from-predictor"} if pod.knative else set()
        needs |= {"from-kafka-clients"} if any(name.startswith("kafka-") for name in names) else set()
        needs |= {"from-postgres-clients"} if "postgres" in names and "postgres" not in pod.owner else set()
        for policy in needs:
            assert selects(egress[policy]["spec"]["podSelector"], pod.labels), f"{pod.owner} needs {policy}"


@every_overlay
def test_every_rule_says_who_may_come_in(overlay: str) -> None:
    for name, policy in named(overlay, "NetworkPolicy").items():
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"], name
            # Modalities are no pods, and the DICOM gateway is the only pod that they reach.
            if policy["spec"]["podSelector"] != {"matchLabels": {APP: "dicom-gateway"}}:
                assert all("ipBlock" not in peer for peer in rule["from"]), name
    events_from = named(overlay, "NetworkPolicy")["to-worklist-events"]["spec"]["ingress"][0]["from"]
    assert events_from == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "knative-eventing"}}}]


@every_overlay
def test_the_page_takes_no_events(overlay: str) -> None:
    """And no route leads to the deployment that takes them."""
    by_name = {pod.labels["app.kubernetes.io/name"]: pod for pod in pods(overlay) if "worklist" in pod.owner}
    tokens = {
        name: [entry for entry in env_of(pod.containers[0]) if entry["name"] == "LUNGLINE_WORKLIST__EVENT_TOKEN"]
        for name, pod in by_name.items()
    }
    assert len(tokens["worklist"]) == 1
    assert tokens["worklist-events"] == []
    assert set(routes(overlay)) <= {"worklist", "object-store"}


@every_overlay
def test_prometheus_may_reach_every_port_that_it_scrapes(overlay: str) -> None:
    """Except Kafka's, which Strimzi opens by policies of its own: one of ours beside them would restrict nothing."""
    scraped = 0
    for monitor in of_kind(overlay, "ServiceMonitor", "PodMonitor"):
        endpoints = monitor["spec"].get("endpoints", []) + monitor["spec"].get("podMetricsEndpoints", [])
        selected = [pod for pod in pods(overlay) if pod.long and selects(monitor["spec"]["selector"], pod.labels)]
        assert selected or monitor["metadata"]["name"] == "kafka"
        for pod in selected:
            for endpoint in endpoints:
                scraped += 1
                assert admits(overlay, pod.labels, "monitoring", number_of(endpoint, pod)), f"{pod.owner}: {endpoint}"
    assert scraped >= 5
    kafka = {"strimzi.io/cluster": next(iter(named(overlay, "Kafka")))}
    named_labels = [selector for selector, _ in ingress_rules(overlay) if selector]
    assert not any(selects(selector, kafka) for selector in named_labels)


@every_overlay
def test_names_are_resolved_by_every_kind_of_resolver(overlay: str) -> None:
    """Pods of kube-system, resolvers on the node (which no selector matches), and OpenShift's own namespace."""
    rules = named(overlay, "NetworkPolicy")["names"]["spec"]["egress"]
    to = {
        (str(peer.get("ipBlock", {}).get("cidr") or peer["namespaceSelector"]["matchLabels"][NAME]), port["port"])
        for rule in rules
        for peer in rule["to"]
        for port in rule["ports"]
    }
    assert to == {
        ("kube-system", 53),
        ("169.254.20.10/32", 53),  # NodeLocal DNSCache
        ("169.254.169.254/32", 53),  # Cloud DNS of GKE
        ("openshift-dns", 5353),
    }


# --------------------------------------------------------------------------------------------------------- the gateway


def test_each_route_leads_from_a_listener_with_a_certificate_to_a_service() -> None:
    (gateway,) = of_kind("production", "Gateway")
    listeners = {listener["name"]: listener for listener in gateway["spec"]["listeners"]}
    services = named("production", "Service")
    for name, route in routes("production").items():
        (parent,) = route["spec"]["parentRefs"]
        listener = listeners[parent["sectionName"]]
        assert parent["name"] == gateway["metadata"]["name"]
        assert route["spec"]["hostnames"] == [listener["hostname"]]
        assert listener["protocol"] == "HTTPS"
        assert listener["tls"]["certificateRefs"] == [{"name": f"{name}-tls"}]
        (backend,) = route["spec"]["rules"][0]["backendRefs"]
        assert backend["port"] in {port["port"] for port in services[backend["name"]]["spec"]["ports"]}


def test_plain_http_answers_challenges_and_redirects_people_only() -> None:
    plain = [
        route
        for route in of_kind("production", "HTTPRoute")
        if {parent["sectionName"] for parent in route["spec"]["parentRefs"]} == {"http"}
    ]
    assert [route["metadata"]["name"] for route in plain] == ["worklist-to-https"]
    assert plain[0]["spec"]["rules"] == [
        {"filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}}]}
    ]


def test_a_live_list_is_never_cut_off() -> None:
    assert routes("production")["worklist"]["spec"]["rules"][0]["timeouts"] == {"request": "0s"}


def test_only_the_gateway_comes_in_from_outside() -> None:
    """To what its routes name, and to the pods in which cert-manager answers challenges in our namespace."""
    gateway = yaml.safe_load((MANIFESTS / "overlays/production/names.yaml").read_text())["data"]["gateway-namespace"]
    for name, route in routes("production").items():
        backend = route["spec"]["rules"][0]["backendRefs"][0]["name"]
        (pod,) = [pod for pod in pods("production") if pod.long and pod.labels.get(APP) == backend]
        port = pod.containers[0]["ports"][0]["containerPort"]
        assert admits("production", pod.labels, gateway, port), name
    solver = {"acme.cert-manager.io/http01-solver": "true"}
    assert admits("production", solver, gateway, 8089)
    assert not admits("production", solver, "kubeflow", 8089)
    events = {APP: "worklist-events"}
    assert admits("production", events, "knative-eventing", 8900)
    assert not admits("production", events, gateway, 8900)
    assert not admits("minikube", {APP: "worklist"}, gateway, 8900)


def test_names_of_the_gateway_stand_in_one_place() -> None:
    """The folder has no other word of class, namespace and issuer, and what is applied has them everywhere."""
    folder = MANIFESTS / "overlays/production"
    names = yaml.safe_load((folder / "names.yaml").read_text())["data"]
    others = "".join(path.read_text() for path in MANIFESTS.rglob("*.yaml") if path.name != "names.yaml")
    assert [
        value for value in names.values() if re.search(rf"(class|name|issuer):? *{value}$", others, re.MULTILINE)
    ] == []
    (gateway,) = of_kind("production", "Gateway")
    assert gateway["spec"]["gatewayClassName"] == names["gateway-class"]
    assert gateway["metadata"]["annotations"] == {"cert-manager.io/cluster-issuer": names["certificate-issuer"]}
    assert "GATEWAY-" not in text_of("overlays/production")
    assert "names" not in named("production", "ConfigMap")


def test_the_gateway_uses_a_host_that_the_worklist_accepts() -> None:
    (host,) = routes("production")["worklist"]["spec"]["hostnames"]
    (pod,) = [pod for pod in pods("production") if pod.owner == "Deployment/worklist"]
    env = {entry["name"]: entry.get("value", "") for entry in env_of(pod.containers[0])}
    assert host in env["LUNGLINE_WORKLIST__HOSTS"].split(",")
    assert env["LUNGLINE_WORKLIST__URI"] == f"https://{host}"


# ------------------------------------------------------------------------------------------------------------- reading


def routes(overlay: str) -> dict[str, Object]:
    """The routes that lead to a service, by the service's name."""
    return {
        backend["name"]: route
        for route in of_kind(overlay, "HTTPRoute")
        for rule in route["spec"]["rules"]
        for backend in rule.get("backendRefs", [])
    }


def ingress_rules(overlay: str) -> Iterator[tuple[Object, Object]]:
    """Each rule that lets somebody in, with the selector of the pods that it lets them into."""
    for policy in of_kind(overlay, "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            yield policy["spec"]["podSelector"], rule


def admits(overlay: str, labels: dict[str, str], namespace: str, port: int) -> bool:
    """Whether any pod of another namespace may connect to a port of pods with these labels."""
    for selector, rule in ingress_rules(overlay):
        whole = [peer["namespaceSelector"] for peer in rule["from"] if set(peer) == {"namespaceSelector"}]
        open_there = selects(selector, labels) and port in {allowed["port"] for allowed in rule["ports"]}
        if open_there and any(selects(peer, {NAME: namespace}) for peer in whole):
            return True
    return False


def number_of(endpoint: Object, pod: Pod) -> int:
    """The port of a monitor's endpoint; that of Knative's proxy is Knative's to name."""
    ports = {
        port["name"]: port["containerPort"]
        for held in pod.containers
        for port in held.get("ports", [])
        if "name" in port
    }
    return endpoint.get("portNumber") or ({"http-usermetric": 9091} | ports)[endpoint["port"]]
