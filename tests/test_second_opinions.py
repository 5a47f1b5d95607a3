"""Second opinions in the store: where they lie, what they leave alone, and what a promotion asks of them."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from starlette.datastructures import Headers, QueryParams

from lungline.datasets.phantom import jpeg
from lungline.diagnosis.diagnoser import Diagnoser
from lungline.diagnosis.routing import Routing
from lungline.diagnosis.upload import diagnose_upload
from lungline.errors import PromotionRefused
from lungline.events.cloudevents import CloudEvent
from lungline.events.uploads import Upload
from lungline.package.card import Thresholds, amend_card
from lungline.package.package import Package
from lungline.promotion.shadow_rule import require_shadow, shadow_of
from lungline.results import latest_list, opinions, record_store
from lungline.results.events import OPINION_TYPE, opinions_of
from lungline.settings import GateSettings, Settings
from lungline.storage.s3 import Storage
from lungline.task.reading import load_task
from serving.endpoints import UploadEvents
from serving.http import Request
from tests.support import dicom_files
from tests.support.predictor import PATIENTS, RESULTS, UPLOADS, event
from tests.support.tiny_package import write_tiny_package

SHADOW, REJUDGED = Settings(purpose="shadow"), Settings(purpose="rejudged")


@pytest.fixture(scope="module")
def second(versions: Path) -> Diagnoser:
    """Version 2, whose labels are others than those of version 1."""
    return Diagnoser(Package.load(versions / "2"))


def put(store: Storage, name: str, data: bytes | None = None) -> Upload:
    key = f"ward 7/{name}.jpeg"
    etag = store.put(UPLOADS, key, data or jpeg(1, opacities=True))
    return Upload(UPLOADS, key, etag=etag, sequencer="1", uploaded_at=datetime.now(UTC))


def keys(store: Storage, upload: Upload) -> list[str]:
    """Everything in the results bucket that names an upload."""
    return [info.key for info in store.list(RESULTS) if upload.identity in info.key]


@pytest.mark.parametrize("settings", [SHADOW, REJUDGED])
def test_a_second_opinion_leaves_nothing_but_itself(store: Storage, second: Diagnoser, settings: Settings) -> None:
    """Nothing among results, the latest, patients and research; another delivery finds it."""
    film = dicom_files.write(dicom_files.film(bits=12), bits=12, PatientID="P-4711")
    upload = put(store, f"{settings.purpose}-only", film)
    kept: list[object] = []
    record = diagnose_upload(upload, second, store, settings, keep_unsure=lambda *seen: kept.append(seen))
    again = diagnose_upload(upload, second, store, settings)
    assert again.times.done == record.times.done
    assert settings.purpose != "answer"
    assert keys(store, upload) == [opinions.key_of(record, settings.purpose)]
    assert not kept
    assert record.patient is None
    assert not list(store.list(PATIENTS))
    assert not record_store.is_known(store, RESULTS, upload.identity)


def test_no_second_opinion_is_given_on_uploads_of_another_task(store: Storage, second: Diagnoser) -> None:
    """On a cluster, where it gets every upload's event; the predictor that serves hands these on."""
    key = "pneumonia-kind/1.jpeg"
    upload = Upload(UPLOADS, key, etag=store.put(UPLOADS, key, jpeg(1, opacities=True)))
    request = Request(Headers({"ce-id": "1"}), QueryParams(""), b"{}", datetime.now(UTC))
    routing = Routing((second,), elsewhere=(load_task("pneumonia-kind"),))
    assert UploadEvents(store, SHADOW).predict(event(upload), request, routing).status == 204
    assert keys(store, upload) == []


def test_second_opinions_and_answers_of_an_upload_lie_apart(
    store: Storage, diagnoser: Diagnoser, second: Diagnoser
) -> None:
    upload = put(store, "both")
    answer = diagnose_upload(upload, diagnoser, store, Settings())
    shadow = diagnose_upload(upload, second, store, SHADOW)
    diagnose_upload(upload, second, store, REJUDGED)
    assert record_store.find(store, RESULTS, upload.identity) == [answer]
    given = list(opinions.of_upload(store, RESULTS, upload.identity))
    assert [(each.purpose, each.record.model.version) for each in given] == [("shadow", "2"), ("rejudged", "2")]
    assert given[0].record == shadow
    stored = {*opinions.keys_of_upload(store, RESULTS, upload.identity), answer.key}
    (latest,) = {*keys(store, upload)} - stored
    assert latest.startswith(latest_list.LATEST)
    assert latest.endswith("-1")


@pytest.mark.parametrize("data", [None, b"no image"])
def test_its_event_names_the_place_and_no_object(store: Storage, second: Diagnoser, data: bytes | None) -> None:
    """Also for an image that is refused, which is no dead letter here."""
    upload = put(store, "event", data)
    handler = UploadEvents(store, SHADOW)
    value = event(upload)
    request = Request(Headers({"ce-id": "1"}), QueryParams(""), b"{}", datetime.now(UTC))
    reply = handler.predict(value, request, Routing((second,)))
    assert reply.status == 200
    assert reply.headers
    assert reply.headers["ce-type"] == OPINION_TYPE
    assert b"ward" not in reply.body
    (hint,) = opinions_of(CloudEvent(OPINION_TYPE, json.loads(reply.body), "binary", None))
    stored = opinions.load_or_none(store, RESULTS, hint.identity, hint.version, hint.purpose)
    assert stored
    assert stored.outcome == ("judged" if data is None else "refused")


@pytest.fixture(scope="module")
def challenger(versions: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Version 3, which calls everything Pneumonia."""
    folder = shutil.copytree(versions / "2", tmp_path_factory.mktemp("challenger") / "3")
    everything = Thresholds(low=0.0, high=0.0, operating=0.0, chosen="By hand.")
    amend_card(folder, version="3", thresholds=everything)
    return Package.load(folder)


def test_a_rule_lets_the_shadow_decide_on_promotions(store: Storage, diagnoser: Diagnoser, challenger: Package) -> None:
    for number in range(2):
        upload = put(store, f"rule-{number}", jpeg(number, opacities=False))
        diagnose_upload(upload, diagnoser, store, Settings())
        diagnose_upload(upload, Diagnoser(challenger), store, SHADOW)
    few = Settings(gate=GateSettings(shadow_results=3))
    with pytest.raises(PromotionRefused, match=r"expected at least 3 \(gate.shadow_results\), found 2"):
        require_shadow(store, few, challenger, "3")
    strict = Settings(gate=GateSettings(shadow_results=2, shadow_disagreement=0.4))
    with pytest.raises(PromotionRefused, match=r"at most 40.0% with another label .* found 100.0% of 2"):
        require_shadow(store, strict, challenger, "3")
    require_shadow(store, Settings(gate=GateSettings(shadow_results=2, shadow_disagreement=1.0)), challenger, "3")


def test_the_rule_counts_only_opinions_of_the_version_of_its_task(
    store: Storage, diagnoser: Diagnoser, challenger: Package, tmp_path: Path
) -> None:
    """Versions of two tasks may have the same number."""
    kind = load_task("pneumonia-kind")
    write_tiny_package(tmp_path / "3", version="3", task=kind)
    others = Package.load(tmp_path / "3")
    upload = put(store, "rule-of-another-task")
    diagnose_upload(upload, diagnoser, store, Settings())
    before = shadow_of(store, RESULTS, "3", 100).results
    diagnose_upload(upload, Diagnoser(others), store, SHADOW)
    assert shadow_of(store, RESULTS, "3", 100).results == before
    rule = Settings(gate=GateSettings(shadow_results=1, shadow_disagreement=1.0))
    with pytest.raises(PromotionRefused, match="found 0"):
        require_shadow(store, rule, others, "3")


def test_without_the_rule_nothing_is_read(challenger: Package) -> None:
    require_shadow(Storage("http://127.0.0.1:9"), Settings(), challenger, "3")
