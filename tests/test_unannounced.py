"""A record whose predictor died before its answer reaches the list, although another version has answered since."""

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from lungline.events.uploads import Upload
from lungline.package.card import Thresholds
from lungline.results import latest_list, record_store
from lungline.storage.s3 import Storage
from tests.support.flaky_store import flaky_proxy
from tests.support.predictor import RESULTS, Predictor, deliver, put, running_predictor
from tests.support.tiny_package import write_tiny_package
from tests.support.worklist_site import Site, headers, home, record, running_site
from worklist.database import entries, notices
from worklist.database.models import ResultRow
from worklist.unannounced import Unannounced
from worklist.web.events import take_in

RULES = """
[[rule]]
name = "urgent"
label = ["Pneumonia"]
to = [["file"]]
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1, which calls everything Pneumonia, and version 2, which calls it Normal."""
    folder = tmp_path_factory.mktemp("models")
    for version, cut in (("1", 0.0), ("2", 1.0)):
        band = Thresholds(low=cut, high=cut, operating=cut, chosen="By hand.")
        write_tiny_package(folder / version, version=version, thresholds=band)
    return folder


@pytest.fixture
def site(store: Storage, tmp_path: Path) -> Iterator[Site]:
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES)
    with running_site(home(tmp_path / "home", notice_rules=rules), store) as site:
        yield site


def looking(site: Site, store: Storage) -> Unannounced:
    """It has taken in what other tests have left in the store."""
    look = Unannounced(site.database, store, RESULTS, partial(take_in, site.app.state.worklist))
    look.look()
    look.look()
    return look


def judge_and_die(store: Storage, package: Path, log: Path) -> Upload:
    """An upload that a predictor judges, which is killed once it has saved the record."""
    port = int((store.endpoint or "").rpartition(":")[2])
    running: list[Predictor] = []

    def kill_after_the_record(sent: bytes) -> None:
        if b"/erased/" in sent:  # what it looks for next
            running[0].process.kill()

    with (
        flaky_proxy(lambda: port, kill_after_the_record) as proxy,
        running_predictor(package, f"http://127.0.0.1:{proxy.port}", log) as predictor,
    ):
        predictor.wait(predictor.ready)
        running.append(predictor)
        upload = put(store)
        with pytest.raises(httpx.TransportError):
            deliver(predictor, upload)
    return upload


def versions_on_the_list(site: Site, upload: Upload) -> list[str]:
    with site.database.reading() as session:
        return sorted(session.scalars(select(ResultRow.id).where(ResultRow.identity == upload.identity)))


def test_a_record_of_a_dead_predictor_is_taken_in(site: Site, store: Storage, models: Path, tmp_path: Path) -> None:
    look = looking(site, store)
    upload = judge_and_die(store, models / "1", tmp_path / "1.log")
    with running_predictor(models / "2", store.endpoint, tmp_path / "2.log") as promoted:
        promoted.wait(promoted.ready)
        reply = deliver(promoted, upload)
    assert httpx.post(site.url, content=reply.content, headers=headers(), timeout=20).status_code == 204
    assert {each.model.version for each in record_store.find(store, RESULTS, upload.identity)} == {"1", "2"}
    assert versions_on_the_list(site, upload) == [f"{upload.identity}-2"]
    assert [look.look(), look.look()] == [0, 1]
    assert versions_on_the_list(site, upload) == [f"{upload.identity}-1", f"{upload.identity}-2"]
    with site.database.reading() as session:
        assert [notice.label for notice in notices.of_upload(session, upload.identity)] == ["Pneumonia"]
    with site.database.reading() as session:
        entry = entries.find(session, upload.identity)
    assert entry
    assert (entry.version, entry.label) == ("2", "Normal")  # the latest answer is shown


def test_a_result_that_is_on_its_way_is_left_alone(site: Site, store: Storage) -> None:
    look, now = looking(site, store), datetime.now(UTC)
    result = record(key="late", arrived=now, done=now)
    record_store.save(store, RESULTS, result)
    assert look.look() == 0
    assert site.send_event(result).status_code == 204
    assert look.look() == 0


def test_a_listed_result_that_was_never_saved_is_given_up(site: Site, store: Storage) -> None:
    look = looking(site, store)
    latest_list.list_latest(store, RESULTS, "0" * 32, "1", datetime.now(UTC))
    assert [look.look() for _ in range(3)] == [0, 0, 0]
