"""A list that looks complete beside a store that has lost what it shows."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lungline.home import Home, write_json
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.contents import Contents, contents_file, loss_of, remembered
from lungline.storage.s3 import Storage
from tests.support.object_store import running_store
from tests.support.worklist_site import Site, home, record, running_site
from worklist.database.losses import Losses, put_back

OURS = Settings()
RESULTS, UPLOADS = OURS.results_bucket, OURS.uploads_bucket


@pytest.fixture
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with running_store(tmp_path_factory.mktemp("store"), RESULTS, UPLOADS) as storage:
        yield storage


@pytest.fixture
def listed(tmp_path: Path, own_store: Storage) -> Iterator[Site]:
    with running_site(home(tmp_path / "home"), own_store) as site:
        yield site


def shown(site: Site, store: Storage, number: int) -> ResultRecord:
    """An X-ray and its result, on the list."""
    key = f"lost/{number}.jpeg"
    result = record(number, key=key, etag=store.put(UPLOADS, key, b"image"))
    assert site.send(result).status_code == 204
    return result


def looked(site: Site, store: Storage) -> Losses:
    losses = site.app.state.worklist.losses
    losses.look(site.database, store, RESULTS, site.settings.home)
    return losses


def test_missing_results_are_counted_and_on_the_page(listed: Site, own_store: Storage) -> None:
    results = [shown(listed, own_store, number) for number in range(3)]
    assert looked(listed, own_store).sentence == ""
    with listed.client() as reader:
        assert "The store lacks" not in reader.get("/").text
        for result in results[:2]:
            own_store.delete(RESULTS, result.key)
        assert looked(listed, own_store).sentence == "The store lacks 2 results of this list."
        assert "The store lacks 2 results of this list." in reader.get("/").text


def test_results_can_be_put_back(listed: Site, own_store: Storage) -> None:
    results = [shown(listed, own_store, number) for number in range(3)]
    for result in results:
        own_store.delete(RESULTS, result.key)
    assert looked(listed, own_store).results == 3
    assert put_back(listed.database, own_store, RESULTS) == 3
    assert put_back(listed.database, own_store, RESULTS) == 0
    assert looked(listed, own_store).sentence == ""


def test_images_count_only_when_all_of_the_newest_are_gone(listed: Site, own_store: Storage) -> None:
    """Single X-rays may be deleted on purpose."""
    for number in range(6):
        shown(listed, own_store, number)
    for number in (2, 3, 4):
        own_store.delete(UPLOADS, f"lost/{number}.jpeg")
    assert looked(listed, own_store).sentence == ""
    own_store.delete(UPLOADS, "lost/5.jpeg")
    assert looked(listed, own_store).sentence == "The store lacks the newest 4 X-rays of this list."


def test_home_remembers_the_store_that_it_has_used(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, own_store: Storage
) -> None:
    ours = Contents(Home.make(tmp_path / "home"), own_store)
    assert ours.settle((RESULTS, UPLOADS), used=True) == (), "of an earlier release: no bucket has a tag yet"
    assert ours.settle((RESULTS, UPLOADS, "later"), used=True) == ()
    with running_store(tmp_path_factory.mktemp("other"), "another") as other:
        assert ours.settle((RESULTS, UPLOADS, "later"), used=True) == ()
        elsewhere = Contents(ours.home, other)
        assert elsewhere.settle((RESULTS, UPLOADS, "later"), used=True) == ("later", RESULTS, UPLOADS)
    assert loss_of(ours.home.path) == f"The store has lost what was in later, {RESULTS}, {UPLOADS}, or is another one."
    assert ours.settle((RESULTS, UPLOADS, "later"), used=True) == (), "the right store is back"
    assert loss_of(ours.home.path) == ""


def test_damaged_memory_of_the_store_is_made_again(tmp_path: Path, own_store: Storage) -> None:
    ours = Contents(Home.make(tmp_path / "home"), own_store)
    ours.settle((RESULTS,), used=True)
    before = remembered(ours.home.path)
    write_json(contents_file(ours.home.path), {"identity": 7})
    assert remembered(ours.home.path) is None
    assert ours.settle((RESULTS,), used=True) == ()
    assert remembered(ours.home.path) == before
