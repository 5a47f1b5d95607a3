"""The components that bring second opinions to a cluster: a predictor, its events, and its way through the network."""

from pathlib import Path

import pytest

from lungline.promotion.challenger import PURPOSES
from lungline.results.events import OPINION_TYPE, RESULT_TYPE
from lungline.settings import Settings
from tests.support.manifests_of import Object, named, objects, rights_of, selects, walk, with_component
from tests.support.strict_validator import assert_valid


@pytest.fixture(params=[("minikube", "shadow"), ("production", "rejudge")])
def place(request: pytest.FixtureRequest) -> tuple[str, str]:
    """An overlay and a component; kustomize adds both components to either in the same way."""
    return request.param


@pytest.fixture
def changed(place: tuple[str, str], tmp_path: Path) -> list[Object]:
    """What the component adds to an overlay, and what it changes there."""
    rendered = with_component(tmp_path, *place)
    return [manifest for manifest in rendered if manifest not in objects(place[0])]


def only(changed: list[Object], kind: str) -> dict[str, Object]:
    return {manifest["metadata"]["name"]: manifest for manifest in changed if manifest["kind"] == kind}


def test_its_predictor_gives_second_opinions(changed: list[Object], place: tuple[str, str]) -> None:
    """And nothing of the one that serves changes."""
    ((name, service),) = only(changed, "InferenceService").items()
    model = service["spec"]["predictor"]["model"]
    assert name == f"pneumonia-{place[1]}"
    assert model["args"] == [f"--purpose={purpose}" for component, purpose in PURPOSES.items() if component == place[1]]
    assert "env" not in model, "`lungline shadow start` brings the whole list"
    assert "pneumonia" in named(place[0], "InferenceService")
    assert service["spec"]["predictor"]["minReplicas"] == (1 if place[1] == "shadow" else 0)


def test_its_opinions_go_to_the_worklist_alone(changed: list[Object], place: tuple[str, str]) -> None:
    triggers = only(changed, "Trigger").values()
    by_type = {trigger["spec"]["filter"]["attributes"]["type"]: trigger["spec"] for trigger in triggers}
    assert by_type["dev.knative.kafka.event"]["subscriber"]["ref"]["name"] == f"pneumonia-{place[1]}"
    assert by_type[OPINION_TYPE]["subscriber"]["ref"]["name"] == "worklist-events"
    (published,) = [each for each in named(place[0], "Trigger").values() if "filters" in each["spec"]]
    prefix = published["spec"]["filters"][0]["prefix"]["type"]
    assert RESULT_TYPE.startswith(prefix)
    assert not OPINION_TYPE.startswith(prefix)


def test_every_policy_of_the_predictor_holds_for_it(changed: list[Object], place: tuple[str, str]) -> None:
    """What the network lets the predictor do that serves, it lets this one do, and no more."""

    def policies(name: str) -> list[str]:
        label = {"serving.kserve.io/inferenceservice": name}
        selectors = (
            (policy, path)
            for policy, each in named(place[0], "NetworkPolicy").items()
            for path, value in walk(each["spec"])
            if path.endswith("podSelector") and value and selects(value, label)
        )
        return [f"{policy}{path}" for policy, path in selectors]

    assert only(changed, "NetworkPolicy") == {}
    assert policies(f"pneumonia-{place[1]}") == policies("pneumonia")
    assert len(policies("pneumonia")) == 3


def test_its_pods_are_not_counted_as_those_that_serve(place: tuple[str, str]) -> None:
    """Neither their results in metrics nor their readiness in alerts."""
    selector = named(place[0], "PodMonitor")["predictor"]["spec"]["selector"]
    assert selects(selector, {"serving.kserve.io/inferenceservice": "pneumonia"})
    assert not selects(selector, {"serving.kserve.io/inferenceservice": f"pneumonia-{place[1]}"})


def test_old_uploads_have_a_topic_and_rights_of_their_own(tmp_path: Path) -> None:
    rendered = with_component(tmp_path, "production", "rejudge")
    (source,) = [each for each in rendered if each["kind"] == "KafkaSource" and each["metadata"]["name"] == "rejudge"]
    assert source["spec"]["topics"] == [Settings().rejudge_topic]
    topics = {each["metadata"]["name"] for each in rendered if each["kind"] == "KafkaTopic"}
    users = {each["metadata"]["name"]: rights_of(each) for each in rendered if each["kind"] == "KafkaUser"}
    for topic in ("xray-rejudge", "xray-rejudge-broker"):
        assert topic in topics
        assert "Read" in users["eventing"][f"topic {topic}"]
    assert users["tools"]["topic xray-rejudge"] == {"Write", "Describe"}


def test_the_component_is_valid(changed: list[Object]) -> None:
    assert_valid(changed)
