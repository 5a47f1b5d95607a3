"""Two tasks on a cluster: a predictor for each, and a broker that delivers by the filters of the triggers."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from lungline.events.handed_on import HANDED_ON_TYPE
from lungline.events.uploads import UPLOAD_TYPE, Upload, parse
from lungline.results import record_store
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from lungline.task.reading import load_task, text_of
from tests.support.dicom_files import film, write
from tests.support.knative_broker import subscriber, takers
from tests.support.manifests_of import Object, named
from tests.support.predictor import IMAGE, KNATIVE, RESULTS, Predictor, event, put, running_predictor
from tests.support.tiny_package import write_tiny_package

KIND = "pneumonia-kind"
HANDED_ON = f'lungline_handed_on_total{{task="{KIND}"}}'


@dataclass
class Cluster:
    """The InferenceServices by name, and the triggers; `ways` are the deliveries: trigger and status."""

    services: dict[str, Predictor]
    triggers: list[Object]
    ways: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])

    def deliver(self, value: Any, headers: dict[str, str]) -> list[ResultRecord]:
        """What a broker does with an event and the replies to it; the results that come of it."""
        attributes = {name.removeprefix("ce-"): text for name, text in headers.items() if name.startswith("ce-")}
        results: list[ResultRecord] = []
        for trigger in takers(self.triggers, attributes):
            name, path = subscriber(trigger)
            reply = self.services[name].http.post(path, json=value, headers=headers)
            self.ways.append((trigger["metadata"]["name"], reply.status_code))
            results += self._replied(reply)
        return results

    def _replied(self, reply: httpx.Response) -> list[ResultRecord]:
        if reply.headers.get("ce-type") == HANDED_ON_TYPE:
            event_headers = {name: text for name, text in reply.headers.items() if name.startswith("ce-")}
            return self.deliver(reply.json(), event_headers)
        value = reply.json() if "ce-type" in reply.headers else {"records": []}
        return [ResultRecord.model_validate(each) for each in value.get("records", [value])]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config map of further tasks: pneumonia-kind takes images from behind, and a folder of its own."""
    folder = tmp_path_factory.mktemp("tasks")
    text = text_of(KIND).replace("view = []", 'view = ["PA"]')
    (folder / f"{KIND}.toml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def predictors(store: Storage, tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Predictor]]:
    """As KServe starts them: with the same settings, each with the name of its InferenceService."""
    folder = tmp_path_factory.mktemp("packages")
    write_tiny_package(folder / "pneumonia")
    write_tiny_package(folder / KIND, task=load_task(KIND))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LUNGLINE_FURTHER_TASKS", str(tasks))
        with (
            running_predictor(
                folder / "pneumonia", store.endpoint, folder / "first.log", "--model_name=pneumonia"
            ) as first,
            running_predictor(folder / KIND, store.endpoint, folder / "kind.log", f"--model_name={KIND}") as kind,
        ):
            for each in (first, kind):
                each.wait(each.ready)
            yield {"pneumonia": first, KIND: kind}


@pytest.fixture
def cluster(predictors: dict[str, Predictor]) -> Cluster:
    from lungline.deployment.task_manifests import trigger_of

    return Cluster(predictors, [named("minikube", "Trigger")["judge"], trigger_of(KIND)])


def dicom(view: str) -> bytes:
    return write(film(96), ViewPosition=view)


def metric(predictor: Predictor, series: str) -> float:
    lines = predictor.http.get("/metrics").text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(series)), 0.0)


def task_of(cluster: Cluster, store: Storage, upload: Upload, **attributes: str) -> tuple[str, str | None]:
    """The task whose model judged an upload, and the reason if none did; there is one record, and it is the reply."""
    extra = {f"ce-{name}": text for name, text in attributes.items()}
    (record,) = cluster.deliver(event(upload), KNATIVE | extra)
    assert record_store.find(store, RESULTS, upload.identity) == [record]
    assert record.model.version == ("1" if record.task == "pneumonia" else f"{record.task}.1")
    return record.task, record.reason


def test_each_upload_is_judged_by_the_predictor_of_its_task(cluster: Cluster, store: Storage) -> None:
    """By prefix, DICOM header and event."""
    before = metric(cluster.services["pneumonia"], HANDED_ON)
    assert task_of(cluster, store, put(store)) == ("pneumonia", None)
    assert cluster.ways == [("judge", 200)]
    assert task_of(cluster, store, put(store, key=f"{KIND}/ward 7/1.jpeg")) == (KIND, None)
    assert cluster.ways[1:] == [("judge", 200), (f"judge-{KIND}", 200)]
    assert task_of(cluster, store, put(store, dicom("PA"), "ward 7/pa.dcm")) == (KIND, None)
    assert task_of(cluster, store, put(store, dicom("AP"), "ward 7/ap.dcm")) == ("pneumonia", None)
    assert task_of(cluster, store, put(store, key="ward 7/named.jpeg"), task=KIND) == (KIND, None)
    assert metric(cluster.services["pneumonia"], HANDED_ON) == before + 3
    assert metric(cluster.services[KIND], HANDED_ON) == 0


def test_an_upload_that_fits_no_task_is_kept_and_recorded(cluster: Cluster, store: Storage) -> None:
    upload = put(store, key="ward 7/fracture.jpeg")
    assert task_of(cluster, store, upload, task="rib-fracture") == ("pneumonia", "no-task")
    assert cluster.ways == [("judge", 200)]
    assert store.exists(upload.bucket, upload.key)


def test_what_is_handed_on_names_the_upload_and_no_key(predictors: dict[str, Predictor], store: Storage) -> None:
    """In its attributes, which logs and headers may show; its data are an event of the upload."""
    upload = put(store, key=f"{KIND}/Doe-Jane/1.jpeg")
    path = "/v1/models/pneumonia:predict"
    first, again = (predictors["pneumonia"].http.post(path, json=event(upload), headers=KNATIVE) for _ in range(2))
    assert (first.headers["ce-type"], first.headers["ce-task"]) == (HANDED_ON_TYPE, KIND)
    assert first.headers["ce-subject"] == upload.identity
    assert first.headers["ce-id"] == again.headers["ce-id"]
    assert first.headers["ce-traceparent"].split("-")[1] == upload.identity
    assert "Doe" not in str(first.headers)
    (handed,) = parse(first.json())
    assert handed.identity == upload.identity
    assert record_store.find(store, RESULTS, upload.identity) == []
    structured = {"specversion": "1.0", "id": "7", "source": "/s", "type": UPLOAD_TYPE, "data": event(upload)}
    mode = {"content-type": "application/cloudevents+json"}
    reply = predictors["pneumonia"].http.post(path, content=json.dumps(structured), headers=mode).json()
    assert (reply["type"], reply["task"], reply["data"]) == (HANDED_ON_TYPE, KIND, first.json())


def test_of_an_event_of_two_tasks_one_gets_its_results(cluster: Cluster, store: Storage) -> None:
    """A reply is one event; the others have no record, so that `lungline reconcile` sends their own events."""
    ours, its = put(store), [put(store, key=f"{KIND}/several/{number}.jpeg") for number in range(2)]
    (record,) = cluster.deliver(event(its[0], ours), KNATIVE)
    assert record.upload.identity == ours.identity
    assert not record_store.is_known(store, RESULTS, its[0].identity)
    judged = cluster.deliver(event(*its), KNATIVE)
    assert {record.upload.identity for record in judged} == {upload.identity for upload in its}
    assert {record.task for record in judged} == {KIND}


def test_a_task_that_is_added_is_routed_without_a_restart(
    predictors: dict[str, Predictor], store: Storage, tasks: Path
) -> None:
    from lungline.task.writing import begin

    (tasks / "effusion.toml").write_text(begin("effusion", "binary"))
    upload = put(store, key="effusion/1.jpeg")
    reply = predictors["pneumonia"].http.post("/v1/models/pneumonia:predict", json=event(upload), headers=KNATIVE)
    assert reply.headers["ce-task"] == "effusion"
    # The other predictors hand nothing on, so that no upload goes round in circles.
    there = predictors[KIND].http.post(f"/v1/models/{KIND}:predict", json=event(upload), headers=KNATIVE)
    assert ResultRecord.model_validate(there.json()).task == KIND
    (tasks / "effusion.toml").unlink()


def test_dead_letters_of_handed_on_uploads_are_replayed_as_uploads(store: Storage) -> None:
    from eventing.replay import restore
    from lungline.events.cloudevents import kafka_headers
    from lungline.events.handed_on import handed_on
    from lungline.events.uploads import kafka_key

    upload = put(store, IMAGE, f"{KIND}/dead.jpeg")
    letter = handed_on([upload], KIND)
    settings = Settings()
    restored = restore(letter.data.encode(), None, kafka_headers(letter.attributes, "application/json"), settings)
    assert restored is not None
    assert (restored.topic, restored.key) == (settings.uploads_topic, kafka_key(upload))
    assert restored.headers == [("content-type", b"application/json")]
    assert parse(restored.value) == parse(event(upload))
