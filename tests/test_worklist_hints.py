"""An event is a hint: the worklist shows the record in the results bucket, and nothing that an event claims."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from lungline.registry.history import Facts, History
from lungline.results.records import ResultRecord, Times
from lungline.storage.s3 import Storage
from tests.support.object_store import running_store
from tests.support.worklist_site import Site, headers, home, record, running_site
from worklist import incoming
from worklist.database import entries
from worklist.metrics import REGISTRY

BUCKETS = ("lungline-results", "lungline-models")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with running_store(tmp_path_factory.mktemp("bucket"), *BUCKETS) as storage:
        yield storage


@pytest.fixture
def stored(tmp_path: Path, bucket: Storage) -> Iterator[Site]:
    """A worklist with a real store."""
    with running_site(home(tmp_path), bucket) as site:
        yield site


def shown(site: Site, identity: str) -> tuple[str | None, float | None, str, datetime] | None:
    with site.database.reading() as session:
        entry = entries.find(session, identity)
        return entry and (entry.label, entry.probability, entry.version, entry.done)


def refused(reason: str) -> float:
    return REGISTRY.get_sample_value("lungline_worklist_refused_total", {"reason": reason}) or 0.0


def claim(result: ResultRecord, **changes: Any) -> ResultRecord:
    """The event of a record that somebody has changed."""
    return ResultRecord.model_validate(json.loads(result.model_dump_json()) | changes)


def test_a_forged_diagnosis_changes_nothing(stored: Site) -> None:
    genuine = record(1, 0.97)
    stored.keep(genuine)
    times = json.loads(genuine.times.model_dump_json())
    forged = claim(genuine, label="Normal", probability=0.01, times=times)
    assert stored.send_event(forged).status_code == 204
    assert shown(stored, genuine.upload.identity) == ("Pneumonia", 0.97, "1", genuine.times.done)


def test_a_result_that_was_never_stored_is_retried_and_no_row(stored: Site) -> None:
    forged, before = record(2, 0.99), refused("missing")
    response = stored.send_event(forged)
    assert response.status_code == 404, "Knative and the trigger deliver it again"
    assert shown(stored, forged.upload.identity) is None
    assert refused("missing") == before + 1
    assert stored.send(forged).status_code == 204, "the record has come"
    assert shown(stored, forged.upload.identity) is not None


@pytest.mark.parametrize("year", [1999, 9998])
def test_an_event_of_another_age_is_refused(stored: Site, year: int) -> None:
    genuine, before = record(3, 0.97), refused("malformed")
    stored.keep(genuine)
    times = json.loads(genuine.times.model_dump_json()) | {"done": f"{year}-12-31T00:00:00Z"}
    response = stored.send_event(claim(genuine, times=times))
    assert response.status_code == 400
    assert "before 2000 or in the future" in response.text
    assert refused("malformed") == before + 1


def test_a_stored_record_of_the_future_is_refused(stored: Site) -> None:
    later = datetime.now(UTC) + timedelta(days=2)
    odd = record(4, 0.97, done=later)
    stored.keep(odd)
    past = Times(uploaded=None, received=odd.times.received, done=odd.times.received)
    assert stored.send_event(odd.model_copy(update={"times": past})).status_code == 400
    assert shown(stored, odd.upload.identity) is None


def test_a_clock_that_was_set_back_hides_no_x_ray(stored: Site) -> None:
    """What was judged before then lies in the future, and would have been a dead letter."""
    ahead = datetime.now(UTC) + timedelta(hours=1)
    before = record(6, 0.97, done=ahead)
    assert stored.send(before).status_code == 204
    assert shown(stored, before.upload.identity) == ("Pneumonia", 0.97, "1", ahead)


def test_an_impossible_time_of_upload_hides_no_x_ray(stored: Site) -> None:
    genuine = record(5, 0.97)
    for uploaded in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z"):
        document = json.loads(genuine.model_dump_json())
        document["times"]["uploaded"] = uploaded
        stored.app.state.worklist.storage.put("lungline-results", genuine.key, json.dumps(document).encode())
        assert httpx.post(stored.url, json=document, headers=headers(), timeout=20).status_code == 204
    with stored.database.reading() as session:
        entry = entries.find(session, genuine.upload.identity)
        assert entry
        assert entry.arrived == genuine.times.received


def test_a_record_under_anothers_key_is_refused(stored: Site) -> None:
    genuine, other = record(6, 0.97), record(7, 0.02)
    stored.app.state.worklist.storage.put("lungline-results", genuine.key, other.model_dump_json().encode())
    assert stored.send_event(genuine).status_code == 400
    assert shown(stored, genuine.upload.identity) is None
    assert shown(stored, other.upload.identity) is None


def test_versions_that_were_never_promoted_are_refused_until_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "REREAD_SECONDS", 0.0)
    with running_store(tmp_path, *BUCKETS) as storage, running_site(home(tmp_path), storage) as site:
        assert site.send(record(1, version="1")).status_code == 204, "without a history every version is taken"
        history = History(storage, "lungline-models", "pneumonia")
        facts = Facts(package="a" * 64)
        began = history.append(
            None, act="began", kind="promotion", version="1", champion=None, facts=facts, by="dr.adams", reason="first"
        )
        before = refused("version")
        response = site.send(record(2, version="2"))
        assert (response.status_code, refused("version")) == (409, before + 1)
        assert response.json() == {"error": "The result's model version is not in the promotion history."}
        assert site.send(record(3, version="1")).status_code == 204, "a promotion under way serves already"
        assert site.send(record(4, version="a" * 12)).status_code == 204, "so a package without a number is named"
        done = history.append(
            began,
            act="promoted",
            kind="promotion",
            version="1",
            champion="1",
            facts=facts,
            by="dr.adams",
            reason="first",
        )
        history.append(
            done, act="began", kind="promotion", version="2", champion="1", facts=facts, by="dr.adams", reason="first"
        )
        assert site.send(record(2, version="2")).status_code == 204
        assert site.send(record(5, version="1")).status_code == 204, "an old version is replayed"
