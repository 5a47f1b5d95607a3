"""What is lost is made again or said: an empty database, a notice that came too late; and exports are private."""

import stat
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select

from lungline.errors import StorageUnavailable
from lungline.storage.s3 import Storage
from tests.support.object_store import running_store
from tests.support.worklist_site import Site, home, record, running_site, wait
from worklist import commands
from worklist.database import entries
from worklist.database.ingest import ingest
from worklist.database.models import Audit, Notice, WorklistEntry
from worklist.database.session import Database

RESULTS = "lungline-results"


@pytest.fixture(scope="module")
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with running_store(tmp_path_factory.mktemp("store"), "xray-uploads", RESULTS) as storage:
        yield storage


def count(site: Site) -> int:
    with site.database.reading() as session:
        return session.scalar(select(func.count()).select_from(WorklistEntry)) or 0


def restored(site: Site) -> str | None:
    with site.database.reading() as session:
        return session.scalar(select(Audit.detail).where(Audit.act == "restored"))


def test_an_empty_database_beside_a_full_bucket_is_restored(tmp_path: Path, own_store: Storage) -> None:
    """With readings, without notices, past foreign objects; and it stands in the audit log."""
    results = [record(number, key=f"restored/{number}.jpeg") for number in range(4)]
    with running_site(home(tmp_path / "1"), own_store) as site, site.client() as client:
        for result in results:
            site.send(result)
        assert site.submit_reading(client, results[0].upload.identity, "Normal").status_code == 303
        wait(lambda: any(own_store.list(RESULTS, "readings/")))
    own_store.put(RESULTS, "results/00/foreign.json", b"{")
    own_store.put(RESULTS, f"{results[0].key.rpartition('/')[0]}/9.json", b'{"schema_version": 2}')
    with running_site(home(tmp_path / "2"), own_store, restore=True) as site:
        assert wait(lambda: restored(site)) == "4 results, 1 reading"
        assert count(site) == 4
        with site.database.reading() as session:
            entry = entries.find(session, results[0].upload.identity)
            sent = session.scalar(select(func.count()).select_from(Notice))
        assert entry
        assert (entry.read, entry.verdict) == (1, "Normal")
        assert sent == 0
        assert not site.app.state.worklist.restoration.running


def test_a_result_that_comes_first_does_not_prevent_it(tmp_path: Path, own_store: Storage) -> None:
    """The store answers only later, and a new result is on the list until then."""
    for number in range(10, 13):
        result = record(number, key=f"first/{number}.jpeg")
        own_store.put(RESULTS, result.key, result.model_dump_json().encode())
    away = {"until": False}

    class Later(Storage):
        def list(self, *arguments: object, **options: object) -> Iterator[object]:  # type: ignore[override]
            if not away["until"]:
                raise StorageUnavailable("The store does not answer yet.")
            yield from own_store.list(*arguments, **options)  # type: ignore[arg-type]

        def get(self, *arguments: object, **options: object) -> object:  # type: ignore[override]
            return own_store.get(*arguments, **options)  # type: ignore[arg-type]

    later = Later("http://127.0.0.1:9", access_key=SecretStr("a"), secret_key=SecretStr("b"))
    with running_site(home(tmp_path), later, restore=True) as site:
        ingest(site.database, record(20, key="first/20.jpeg"))
        away["until"] = True
        wait(lambda: count(site) >= 4)


def test_a_full_database_is_left_alone(tmp_path: Path, own_store: Storage) -> None:
    result = record(30, key="alone/30.jpeg")
    own_store.put(RESULTS, result.key, result.model_dump_json().encode())
    settings = home(tmp_path)
    with closing(Database.open(settings)) as database:
        ingest(database, record(31, key="alone/31.jpeg"))
    with running_site(settings, own_store, restore=True) as site:
        assert not site.app.state.worklist.restoration.needed


def test_page_says_that_the_list_is_restored(tmp_path: Path) -> None:
    with running_site(home(tmp_path)) as site, site.client() as client:
        assert "being restored" not in client.get("/").text
        site.app.state.worklist.restoration.running = True
        assert "The list is being restored from the store" in client.get("/").text
        assert client.get("/healthz").json()["restoring"] is True


def test_a_result_too_late_for_a_notice_says_that_none_was_sent(tmp_path: Path) -> None:
    """On its page and among the notices; one that comes in time later is sent all the same."""
    done = datetime.now(UTC) - timedelta(hours=3)
    late = record(1, 0.9, arrived=done, done=done)
    with running_site(home(tmp_path)) as site, site.client() as client:
        site.send(late)
        page = client.get(f"/x/{late.upload.identity}").text
        assert "none was sent" in page
        assert "The result was 3 h old when it came, and 1 h is the limit." in page
        listed = client.get("/notices").text
        assert "not sent" in listed
        assert "attempts: 0" not in listed
        site.send(record(1, 0.9, version="2", arrived=done, done=datetime.now(UTC)))
        with site.database.reading() as session:
            assert session.scalars(select(Notice.number).where(Notice.step == 0)).all()
        ordinary = record(2, 0.1, arrived=done, done=done)
        site.send(ordinary)
        assert "none was sent" not in client.get(f"/x/{ordinary.upload.identity}").text


@pytest.mark.parametrize("form", ["csv", "fhir"])
def test_an_export_is_readable_by_its_owner_only(tmp_path: Path, form: str) -> None:
    """Whatever lay there before, a draft that a crash left too."""
    settings = home(tmp_path)
    with closing(Database.open(settings)) as database:
        ingest(database, record(1))
    target, draft = tmp_path / "all.txt", tmp_path / ".all.txt.draft"
    for path in (target, draft):
        path.write_text("old")
        path.chmod(0o644)
    assert commands.export_results(settings, "csv" if form == "csv" else "fhir", target) == 1
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert "old" not in target.read_text()
    assert not draft.exists()
