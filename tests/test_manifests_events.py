"""Kafka's topics and rights, and the way of the events."""

from lungline.events import uploads
from lungline.results import events
from tests.support.manifests_of import (
    DEFAULTS,
    env_of,
    every_overlay,
    generated_secrets,
    named,
    objects,
    of_kind,
    pods,
    rights_of,
    walk,
)

# --------------------------------------------------------------------------------------------------------------- kafka


@every_overlay
def test_topics_are_those_of_the_settings_and_all_exist(overlay: str) -> None:
    topics = set(named(overlay, "KafkaTopic"))
    ours = {DEFAULTS.uploads_topic, DEFAULTS.results_topic, DEFAULTS.dead_letters_topic}
    assert ours <= topics
    named_topics = {topic for manifest in of_kind(overlay, "KafkaSource") for topic in manifest["spec"]["topics"]}
    named_topics |= {manifest["spec"]["topic"] for manifest in of_kind(overlay, "KafkaSink")}
    named_topics |= {
        manifest["metadata"]["annotations"]["kafka.eventing.knative.dev/external.topic"]
        for manifest in of_kind(overlay, "Broker")
    }
    assert named_topics == topics
    for kind in ("KafkaTopic", "KafkaUser", "KafkaNodePool"):
        for manifest in of_kind(overlay, kind):
            assert manifest["metadata"]["labels"]["strimzi.io/cluster"] in named(overlay, "Kafka")


@every_overlay
def test_no_topic_has_more_replicas_than_brokers(overlay: str) -> None:
    (nodes,), (kafka,) = of_kind(overlay, "KafkaNodePool"), of_kind(overlay, "Kafka")
    brokers, config = nodes["spec"]["replicas"], kafka["spec"]["kafka"]["config"]
    topics = [manifest["spec"] for manifest in of_kind(overlay, "KafkaTopic")]
    copies = {topic["replicas"] for topic in topics} | {value for key, value in config.items() if "replication" in key}
    copies.add(int(named(overlay, "ConfigMap")["broker-kafka"]["data"]["default.topic.replication.factor"]))
    assert copies == {min(brokers, 3)}
    for topic in topics:
        # One broker may be away without stopping the writers.
        assert topic["config"]["min.insync.replicas"] == max(1, topic["replicas"] - 1)


@every_overlay
def test_kafka_users_have_the_rights_they_need_only(overlay: str) -> None:
    may = {name: rights_of(user) for name, user in named(overlay, "KafkaUser").items()}
    for source in of_kind(overlay, "KafkaSource"):
        assert all("Read" in may["eventing"][f"topic {topic}"] for topic in source["spec"]["topics"])
        assert source["spec"]["consumerGroup"].startswith("lungline-")
    assert "Read" in may["eventing"]["group lungline-*"]
    assert "Read" in may["eventing"]["group knative-*"]
    for sink in of_kind(overlay, "KafkaSink"):
        assert "Write" in may["eventing"][f"topic {sink['spec']['topic']}"]
    assert may.get("object-store", {}) in ({}, {f"topic {DEFAULTS.uploads_topic}": {"Write", "Describe"}})
    assert "Write" not in may["eventing"][f"topic {DEFAULTS.uploads_topic}"]
    assert all("All" not in rights for user in may.values() for rights in user.values())


@every_overlay
def test_replay_sends_results_to_the_topic_of_the_broker(overlay: str) -> None:
    """The worklist gets results through the broker; the topic of results is for others."""
    (broker,) = of_kind(overlay, "Broker")
    topic = broker["metadata"]["annotations"]["kafka.eventing.knative.dev/external.topic"]
    (replay,) = [pod for pod in pods(overlay) if pod.owner == "CronJob/replay"]
    env = {entry["name"]: entry.get("value") for entry in env_of(replay.containers[0])}
    assert env["LUNGLINE_RESULTS_TOPIC"] == topic
    assert "Write" in rights_of(named(overlay, "KafkaUser")["tools"])[f"topic {topic}"]


@every_overlay
def test_kafka_users_and_their_secrets_have_the_same_names(overlay: str) -> None:
    values = {manifest["metadata"]["name"]: manifest["stringData"] for manifest in generated_secrets()}
    for name, user in named(overlay, "KafkaUser").items():
        reference = user["spec"]["authentication"]["password"]["valueFrom"]["secretKeyRef"]
        assert values[reference["name"]]["user"] == name


# -------------------------------------------------------------------------------------------------------------- events


@every_overlay
def test_uploads_reach_the_predictor_and_replies_the_worklist(overlay: str) -> None:
    triggers = named(overlay, "Trigger")
    predict, show = triggers["judge"]["spec"], triggers["show"]["spec"]
    assert predict["filter"]["attributes"] == {"type": uploads.UPLOAD_TYPE}
    assert predict["subscriber"]["ref"]["name"] == DEFAULTS.model_name
    assert predict["subscriber"]["uri"] == f"/v1/models/{DEFAULTS.model_name}:predict"
    assert show["filter"]["attributes"] == {"type": events.RESULT_TYPE}
    assert show["subscriber"]["ref"]["name"] == "worklist-events"
    prefix = triggers["publish"]["spec"]["filters"][0]["prefix"]["type"]
    assert events.RESULT_TYPE.startswith(prefix)
    assert events.RESULTS_TYPE.startswith(prefix)
    assert not uploads.UPLOAD_TYPE.startswith(prefix)


@every_overlay
def test_the_worklist_has_the_routes_that_events_use(overlay: str) -> None:
    from worklist.web.security import EVENTS

    sinks = [manifest["spec"]["sink"] for manifest in of_kind(overlay, "KafkaSource")]
    sinks += [manifest["spec"]["subscriber"] for manifest in of_kind(overlay, "Trigger")]
    sent = {sink["uri"] for sink in sinks if sink["ref"]["name"].startswith("worklist")}
    assert sent == {"/", "/dead-letters"}
    assert sent <= EVENTS


@every_overlay
def test_every_destination_of_events_exists(overlay: str) -> None:
    here = {(manifest["kind"], manifest["metadata"]["name"], manifest["apiVersion"]) for manifest in objects(overlay)}
    for manifest in of_kind(overlay, "Trigger", "KafkaSource", "Broker"):
        for path, value in walk(manifest["spec"]):
            if path.rpartition(".")[2] == "ref":
                assert (value["kind"], value["name"], value["apiVersion"]) in here, path
        assert (
            manifest["kind"] != "Trigger" or ("Broker", manifest["spec"]["broker"], "eventing.knative.dev/v1") in here
        )


@every_overlay
def test_every_delivery_is_stated_in_full(overlay: str) -> None:
    """A delivery that states some fields has no defaults for the others."""
    for manifest in of_kind(overlay, "Trigger", "KafkaSource", "Broker"):
        delivery = manifest["spec"]["delivery"]
        assert {"retry", "backoffPolicy", "backoffDelay", "timeout"} <= set(delivery), manifest["metadata"]["name"]
        # A dead letter that cannot be delivered must not become another dead letter.
        assert ("deadLetterSink" in delivery) == (manifest["metadata"]["name"] != "dead-letters")


@every_overlay
def test_a_busy_predictor_loses_nothing_for_as_long_as_on_a_laptop(overlay: str) -> None:
    """Knative's dispatcher waits delay * 2^n before attempt n, and counts a busy predictor's 503."""
    from eventing.delivery import BUSY_PATIENCE_SECONDS

    delivery = named(overlay, "Trigger")["judge"]["spec"]["delivery"]
    assert (delivery["backoffPolicy"], delivery["backoffDelay"]) == ("exponential", "PT1S")
    assert sum(2**attempt for attempt in range(1, delivery["retry"] + 1)) >= BUSY_PATIENCE_SECONDS
    # Admission refuses it where the feature delivery-retryafter is off, as it is by default.
    assert "retryAfterMax" not in delivery


@every_overlay
def test_timeouts_grow_from_the_predictor_outwards(overlay: str) -> None:
    from serving.admission import AppLimits

    (service,) = of_kind(overlay, "InferenceService")
    patience = named(overlay, "Trigger")["judge"]["spec"]["delivery"]["timeout"]
    timeout = service["spec"]["predictor"]["timeout"]
    assert AppLimits().answer_seconds < timeout < int(patience.removeprefix("PT").removesuffix("S"))


@every_overlay
def test_knative_may_resolve_the_inference_service(overlay: str) -> None:
    (role,) = [
        manifest
        for manifest in of_kind(overlay, "ClusterRole")
        if "duck.knative.dev/addressable" in manifest["metadata"]["labels"]
    ]
    assert role["metadata"]["labels"]["duck.knative.dev/addressable"] == "true"
    assert role["rules"] == [
        {
            "apiGroups": ["serving.kserve.io"],
            "resources": ["inferenceservices", "inferenceservices/status"],
            "verbs": ["get", "list", "watch"],
        }
    ]
