import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lungline.events.uploads import Upload, minio_record
from lungline.logs import TextFormatter
from lungline.results import record_store
from lungline.results.events import RESULT_TYPE
from tests.support.object_store import running_store
from tests.support.worklist_site import Site, headers, home, record, running_site, wait
from worklist.database import entries
from worklist.database.entries import Counters, Filter


def count(site: Site) -> Counters:
    with site.database.reading() as session:
        return entries.count(session)


def structured(data: Any, **changes: Any) -> tuple[bytes, dict[str, str]]:
    event = {"specversion": "1.0", "type": RESULT_TYPE, "id": "1", "source": "/x", "data": data} | changes
    return json.dumps(event).encode(), {"content-type": "application/cloudevents+json; charset=utf-8"}


def test_result_in_binary_and_structured_mode_counts_once(site: Site) -> None:
    result = record()
    assert site.send(result).status_code == 204
    body, event_headers = structured(json.loads(result.model_dump_json()))
    assert httpx.post(site.url, content=body, headers=event_headers).status_code == 204
    assert site.send(result).status_code == 204
    assert count(site).uploaded == 1


def values(**changes: Any) -> bytes:
    return json.dumps(json.loads(record().model_dump_json()) | changes).encode()


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        (b"", {}),
        (b"{}", {}),
        (b"[]", {}),
        (b'"text"', {}),
        (b"\xff\xfe", {}),
        (b"[" * 100_000, {}),
        (values(), {"ce-type": "com.example.order"}),
        (values(), {"ce-type": ""}),
        (values(), {"ce-specversion": "0.3"}),
        (values(), {"content-type": "text/plain"}),
        (values(id="other"), {}),
        (values(probability=7), {}),
        (values(probability=None), {}),
        (values(label="Cat"), {}),
        (values(label="Refused"), {}),
        (values(outcome="gone"), {}),
        (values(unknown=1), {}),
        (values(times={"uploaded": None, "received": "2026-01-01T00:00:00", "done": "2026-01-01T00:00:00"}), {}),
        (values(upload=json.loads(record(2).model_dump_json())["upload"]), {}),
        (values(model={"name": "m", "version": "../../x", "run_id": None, "sha256": "", "synthetic": False}), {}),
        (b'{"key": "' + b"x" * 2**20 + b'"}', {}),
        structured({"no": "result"}),
        structured(None, specversion="2.0"),
        (b"[]", {"content-type": "application/cloudevents+json"}),
        (b"{}", {"content-type": "application/cloudevents-batch+json"}),
        (b"[1]", {"content-type": "application/cloudevents-batch+json"}),
    ],
)
def test_invalid_result_is_refused_and_stores_nothing(site: Site, body: bytes, changes: dict[str, str]) -> None:
    response = httpx.post(site.url, content=body, headers=headers() | changes)
    assert response.status_code == 400
    assert "ward/xray" not in response.text
    assert count(site) == Counters()


on_sqlite = pytest.mark.skipif("LUNGLINE_TEST_POSTGRES" in os.environ, reason="SQLite only")


@on_sqlite
def test_locked_database_asks_for_retry(tmp_path: Path) -> None:
    with running_site(home(tmp_path), busy_seconds=0.1) as site:
        other = sqlite3.connect(tmp_path / "worklist/worklist.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert site.send(record()).status_code == 503
        other.execute("ROLLBACK")
        other.close()
        assert site.send(record()).status_code == 204


@on_sqlite
def test_removed_database_asks_for_retry_and_is_unhealthy(site: Site, tmp_path: Path) -> None:
    assert httpx.get(f"{site.url}/healthz").status_code == 200
    (tmp_path / "worklist/worklist.db").unlink()
    assert site.send(record()).status_code == 503
    assert httpx.get(f"{site.url}/healthz").status_code == 503


def test_restarted_worklist_has_all_results(tmp_path: Path) -> None:
    with running_site(home(tmp_path)) as site:
        assert site.send(record(1)).status_code == 204
    with pytest.raises(httpx.ConnectError):
        site.send(record(2))
    with running_site(home(tmp_path)) as site:
        assert site.send(record(2)).status_code == 204  # the trigger tries again
        assert count(site).uploaded == 2


def test_events_need_the_token_when_there_is_one(tmp_path: Path) -> None:
    with running_site(home(tmp_path, event_token="s3cret")) as site:
        assert site.send(record()).status_code == 403
        authorised = headers() | {"authorization": "Bearer s3cret"}
        assert httpx.post(site.url, content=record().model_dump_json(), headers=authorised).status_code == 204


def send_letter(site: Site, body: bytes | str) -> httpx.Response:
    letter = headers("dev.knative.kafka.event") | {"ce-knativeerrorcode": "400"}
    return httpx.post(f"{site.url}/dead-letters", content=body, headers=letter, timeout=30)


def test_dead_letters_are_counted_once_and_shown_without_any_result(site: Site) -> None:
    following = lines(site, "", [])
    next(line for line in following if line.startswith("data:"))
    for body in (b"first", b"second", b"first"):
        assert send_letter(site, body).status_code == 204
    assert count(site).dead_lettered == 2
    assert next(line for line in following if '"dead_lettered": 2' in line)


def test_images_in_the_research_bucket_are_counted_as_deidentified(tmp_path: Path) -> None:
    with running_store(tmp_path, "lungline-results") as store, running_site(home(tmp_path), store) as site:
        site.send(record(1, 0.5))
        wait(lambda: count(site).unsure == 1)
        assert count(site).deidentified == 0
        store.ensure_buckets("lungline-research")
        for name in ("unsure/ab/abc.png", "unsure/ab/abc.json"):
            store.put("lungline-research", name, b"{}")
        site.send(record(2, 0.5))
        wait(lambda: count(site).deidentified == 1)


def test_event_of_several_uploads_is_stored_whole_or_not(site: Site) -> None:
    records = [json.loads(record(number).model_dump_json()) for number in range(3)]
    batch = headers("org.lungline.results.v1")
    assert httpx.post(site.url, json={"records": [*records, {}]}, headers=batch).status_code == 400
    assert httpx.post(site.url, json={"records": []}, headers=batch).status_code == 400
    assert count(site).uploaded == 0
    for number in range(3):
        assert httpx.post(site.url, json={"records": records}, headers=batch).status_code == 404
        assert count(site).uploaded == 0
        site.keep(record(number))
    assert httpx.post(site.url, json={"records": records}, headers=batch).status_code == 204
    assert count(site).uploaded == 3


def batched(*bodies: str, kind: str = RESULT_TYPE) -> tuple[str, dict[str, str]]:
    members = (
        f'{{"specversion": "1.0", "type": "{kind}", "id": "{number}", "source": "/x", "data": {body}}}'
        for number, body in enumerate(bodies)
    )
    return f"[{','.join(members)}]", {"content-type": "application/cloudevents-batch+json"}


def test_a_batch_of_events_is_shown_whole_or_not(site: Site) -> None:
    records = [record(number) for number in range(3)]
    bodies = [result.model_dump_json() for result in records]

    def send(*bodies: str, **changes: Any) -> int:
        body, event_headers = batched(*bodies, **changes)
        return httpx.post(site.url, content=body, headers=event_headers, timeout=20).status_code

    for result in records[:2]:
        site.keep(result)
    assert send(*bodies) == 404
    assert send(*bodies[:2], "{}") == 400
    assert send(*bodies[:2], kind="com.example.order") == 400
    assert count(site).uploaded == 0
    assert send() == 204
    site.keep(records[2])
    assert send(*bodies, bodies[0]) == 204
    assert count(site).uploaded == 3


def test_dead_letter_of_refused_image_loads_its_record(tmp_path: Path) -> None:
    with running_store(tmp_path, "lungline-results") as store, running_site(home(tmp_path), store) as site:
        refused = record(outcome="refused")
        record_store.save(store, "lungline-results", refused)
        facts = refused.upload
        for sequencer in ("1", "2"):  # sent twice, it is still the same upload
            letter = minio_record(Upload(facts.bucket, facts.key, None, facts.etag, sequencer))
            assert send_letter(site, json.dumps(letter)).status_code == 204
        assert (count(site).refused, count(site).dead_lettered) == (1, 1)
        site.send(record())  # after a fix it was delivered again
        assert (count(site).refused, count(site).dead_lettered) == (0, 0)


def lines(site: Site, query: str, received: list[str]) -> Iterator[str]:
    with site.client() as client, client.stream("GET", f"/live{query}") as stream:
        for line in stream.iter_lines():
            received.append(line)
            yield line


def test_live_pages_receive_only_what_their_filter_selects(site: Site) -> None:
    received: list[str] = []
    following = lines(site, "?label=Unsure", received)
    next(line for line in following if line.startswith("data:"))
    site.send(record(1, 0.9))
    site.send(record(2, 0.5))
    event = next(line for line in following if "row" in line and line.startswith("event"))
    assert event == "event: row"
    message = json.loads(next(following).removeprefix("data: "))
    assert message["identity"] == record(2).upload.identity
    assert "Unsure" in message["html"]
    assert record(1).upload.identity not in [
        json.loads(line[6:]).get("identity") for line in received if line.startswith("data: ") and "html" in line
    ]


def test_change_by_another_process_is_shown(site: Site, tmp_path: Path) -> None:
    from worklist.database.ingest import ingest
    from worklist.database.session import Database

    following = lines(site, "?view=all", [])
    next(line for line in following if line.startswith("data:"))
    other = Database.open(home(tmp_path))
    ingest(other, record(5))
    other.close()
    assert next(line for line in following if line == "event: row")


def test_filter_survives_the_round_trip_through_a_url() -> None:
    wanted = Filter(view="all", label="Unsure", version="3", age="7d", q='"><b>&x=1', sort="newest")
    assert Filter.of(httpx.QueryParams(wanted.query()[1:])) == wanted
    assert Filter.of({"view": "nonsense", "label": "Cat", "sort": "", "age": "1y"}) == Filter()


def test_a_fault_is_logged_without_its_message(
    capsys: pytest.CaptureFixture[str], site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes to the log of the service, whose lines have no messages of exceptions: uvicorn's own quoted them."""

    def fail(_: list[Any]) -> list[Any]:
        raise ValueError("Jane Doe")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site.app.state.worklist.incoming, "recorded", fail)
        assert site.send(record()).status_code == 500
    (line,) = wait(lambda: [each for each in caplog.records if each.exc_info])
    assert line.name == "uvicorn.error"
    assert "ValueError at" in TextFormatter().format(line)
    assert "Jane" not in TextFormatter().format(line) + capsys.readouterr().err
