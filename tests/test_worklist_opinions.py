"""Second opinions on the worklist: who sees which, and that they are never the answer."""

import json
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from lungline.results import opinions, record_store
from lungline.results.events import OPINION_TYPE, opinion_event
from lungline.results.purposes import Purpose
from lungline.results.records import ResultRecord
from lungline.storage.s3 import Storage
from tests.support.predictor import RESULTS
from tests.support.record_store import RecordStore
from tests.support.worklist_site import START, Site, headers, home, record
from worklist.database import notices
from worklist.database.entries import find
from worklist.database.opinions import pairs
from worklist.database.rebuild import rebuild
from worklist.database.session import Database


def opine(site: Site, number: int, probability: float, purpose: Purpose = "shadow") -> httpx.Response:
    """Store what version 2 says of an upload, and send its event."""
    opinion = record(number, probability, version="2", done=START + timedelta(hours=1, minutes=number))
    storage = site.app.state.worklist.storage
    assert isinstance(storage, RecordStore)
    storage.keep(opinion, opinions.key_of(opinion, purpose))
    return send(site, opinion, purpose)


def send(site: Site, opinion: ResultRecord, purpose: Purpose) -> httpx.Response:
    event = opinion_event([opinion], "00-" + "1" * 32 + "-" + "2" * 16 + "-01", purpose)
    return httpx.post(site.url, content=event.data, headers=headers(OPINION_TYPE), timeout=20)


@pytest.fixture
def judged(site: Site) -> Site:
    """A worklist with three answers, on two of which version 2 has another opinion."""
    for number, (answer, opinion) in enumerate(((0.9, 0.95), (0.9, 0.1), (0.05, 0.8))):
        site.send(record(number, answer))
        assert opine(site, number, opinion).status_code == 204
    return site


def test_the_page_compares_a_shadow_with_the_answers(judged: Site) -> None:
    with judged.client("admin") as client:
        value = client.get("/shadow.json").json()
        page = client.get("/shadow").text
    assert (value["version"], value["results"], value["different"]) == ("2", 3, 2)
    assert [each["opinion"] for each in value["reading_list"]] == ["Normal", "Pneumonia"]
    assert "xray-1.jpeg" not in json.dumps(value)
    assert "xray-1.jpeg" in page
    assert "66.7 %" in page


def test_readers_never_see_a_shadow(judged: Site) -> None:
    identity = record(1).upload.identity
    with judged.client("reader") as client:
        for path in ("/shadow", "/shadow.json"):
            assert client.get(path).status_code == 403
        page = client.get(f"/x/{identity}").text
        assert "back-filled" not in page
        assert "/shadow" not in page
    with judged.database.reading() as session:
        entry = find(session, identity)
        assert entry
        assert (entry.version, entry.label) == ("1", "Pneumonia")


def test_an_opinion_on_an_old_upload_stands_beside_its_answer(site: Site) -> None:
    site.send(record(0, 0.9))
    assert opine(site, 0, 0.1, "rejudged").status_code == 204
    with site.client("reader") as client:
        page = client.get(f"/x/{record().upload.identity}").text
    assert "version 2 (back-filled)" in page
    with site.database.reading() as session:
        assert notices.count_open(session).waiting == 0


def test_agreement_with_readers_is_part_of_it(judged: Site) -> None:
    identity = record(1).upload.identity
    with judged.client("admin") as client:
        judged.submit_reading(client, identity, "Normal")
        readers = client.get("/shadow.json").json()["readers"]
    assert readers == {"uploads": 1, "answer": 0, "opinion": 1}


def test_an_opinion_that_is_not_stored_is_not_believed(site: Site) -> None:
    opinion = record(0, 0.9, version="2")
    assert send(site, opinion, "shadow").status_code == 404
    body = json.dumps({"opinions": [{"purpose": "answer", "identity": "a", "version": "2"}]})
    assert httpx.post(site.url, content=body, headers=headers(OPINION_TYPE)).status_code == 400


def test_a_rebuild_brings_second_opinions_back(store: Storage, tmp_path: Path) -> None:
    answer, opinion = record(0, 0.9), record(0, 0.2, version="2")
    record_store.save(store, RESULTS, answer)
    opinions.save(store, RESULTS, opinion, "shadow")
    settings = home(tmp_path)
    with closing(Database.open(settings)) as database:
        rebuild(database, store, settings)
        with database.reading() as session:
            (pair,) = pairs(session, "shadow", "2")
    assert (pair.answer, pair.opinion) == ("Pneumonia", "Normal")
