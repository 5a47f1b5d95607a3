"""The components that bring second opinions to a cluster: a predictor, its events, and its way through the network."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from lungline.events.handed_on import HANDED_ON_TYPE
from lungline.events.uploads import UPLOAD_TYPE
from lungline.promotion.challenger import PURPOSES
from lungline.results.events import OPINION_TYPE, RESULT_TYPE
from lungline.settings import Settings
from serving.__main__ import model_of
from tests.support.knative_broker import subscriber, takers
from tests.support.manifests_of import Object, named, objects, rights_of, selects, walk, with_component
from tests.support.strict_validator import assert_valid

KIND = "pneumonia-kind"


@pytest.fixture(params=[("minikube", "shadow"), ("production", "rejudge")])
def place(request: pytest.FixtureRequest) -> tuple[str, str]:
    """An overlay and a component; kustomize adds both components to either in the same way."""
    return request.param


@pytest.fixture
def changed(place: tuple[str, str], tmp_path: Path) -> list[Object]:
    """What the component adds to an overlay, and what it changes there."""
    rendered = with_component(tmp_path, *place)
    return [manifest for manifest in rendered if manifest not in objects(place[0])]


def test_its_predictor_gives_second_opinions(changed: list[Object], place: tuple[str, str]) -> None:
    """And nothing of the one that serves changes."""
    ((name, service),) = kind_of(changed, "InferenceService").items()
    model = service["spec"]["predictor"]["model"]
    assert name == f"pneumonia-{place[1]}"
    assert model["args"] == [f"--purpose={purpose}" for component, purpose in PURPOSES.items() if component == place[1]]
    assert "env" not in model, "`lungline shadow start` brings the whole list"
    assert "pneumonia" in named(place[0], "InferenceService")
    assert service["spec"]["predictor"]["minReplicas"] == (1 if place[1] == "shadow" else 0)


def test_its_opinions_go_to_the_worklist_alone(changed: list[Object], place: tuple[str, str]) -> None:
    triggers = kind_of(changed, "Trigger").values()
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

    assert kind_of(changed, "NetworkPolicy") == {}
    assert policies(f"pneumonia-{place[1]}") == policies("pneumonia")
    assert len(policies("pneumonia")) == 3


def test_its_pods_are_not_counted_as_those_that_serve(changed: list[Object], place: tuple[str, str]) -> None:
    """Neither their results in metrics nor their readiness in alerts; KServe hands the labels on to the pods."""
    ours, (its,) = named(place[0], "InferenceService")["pneumonia"], kind_of(changed, "InferenceService").values()
    budgets = list(named(place[0], "PodDisruptionBudget").items())
    monitors = list(named(place[0], "PodMonitor").items())
    (selector, *more) = [each["spec"]["selector"] for name, each in monitors + budgets if name == "predictor"]
    assert len(more) == (place[0] == "production")
    for each in (selector, *more):
        assert selects(each, pod_labels(ours))
        assert not selects(each, pod_labels(its))


def pod_labels(service: Object) -> dict[str, str]:
    metadata = service["metadata"]
    return {**metadata["labels"], "serving.kserve.io/inferenceservice": metadata["name"]}


@pytest.mark.parametrize("component", ["shadow", "rejudge"])
def test_another_task_has_second_opinions_of_its_own(tmp_path: Path, component: str) -> None:
    """Its InferenceService differs from the default task's by name, and gets what was handed on to its task alone."""
    written = f"{KIND}-{component}"
    done = CliRunner().invoke(app, ["task", "manifests", KIND, "--for", component, "-o", str(tmp_path / written)])
    assert done.exit_code == 0, done.output
    rendered = with_component(tmp_path, "minikube", component, written)
    services, triggers = kind_of(rendered, "InferenceService"), kind_of(rendered, "Trigger")
    ours, its = services[f"pneumonia-{component}"], services[written]
    assert its["spec"] == ours["spec"]
    assert pod_labels(its) == {**pod_labels(ours), "serving.kserve.io/inferenceservice": written}

    def ways(**attributes: str) -> list[tuple[str, str]]:
        """Of those in the broker of this component."""
        broker = triggers[component]["spec"]["broker"]
        return [subscriber(each) for each in takers(triggers.values(), attributes) if each["spec"]["broker"] == broker]

    assert ways(type=HANDED_ON_TYPE, task=KIND) == [(written, f"/v1/models/{KIND}:predict")]
    settings = Settings(purpose=PURPOSES["shadow" if component == "shadow" else "rejudge"])
    assert [model_of(name, settings) for name in (written, f"pneumonia-{component}")] == [KIND, "pneumonia"]
    assert (written, f"/v1/models/{KIND}:predict") not in ways(type=UPLOAD_TYPE)
    assert triggers[f"{component}-{KIND}"]["spec"]["delivery"] == triggers[component]["spec"]["delivery"]
    assert_valid([its, triggers[f"{component}-{KIND}"]])


def kind_of(rendered: list[Object], kind: str) -> dict[str, Object]:
    return {each["metadata"]["name"]: each for each in rendered if each["kind"] == kind}


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
