"""Whom X-rays are of: who sees it, what is found by it, and what the audit log says of each look."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from sqlalchemy import select

from lungline.results import patients
from lungline.results.patients import PatientRecord
from lungline.results.records import ResultRecord
from lungline.settings import Settings, WorklistSettings
from lungline.storage.s3 import Storage
from tests.support.object_store import running_store
from tests.support.worklist_browser import opened
from tests.support.worklist_site import Site, home, record, running_site
from worklist.database.models import Audit, PatientRow
from worklist.database.rebuild import rebuild
from worklist.database.session import Database
from worklist.web.oidc import may_see_patients

OURS = Settings()
NAME, NUMBER, ACCESSION = "Quellenhofer, Wendelin", "P-4711", "ACC99012"


@pytest.fixture(scope="module")
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    buckets = (OURS.results_bucket, OURS.patients_bucket, OURS.uploads_bucket, OURS.models_bucket)
    with running_store(tmp_path_factory.mktemp("store"), *buckets) as storage:
        yield storage


@pytest.fixture
def named(tmp_path: Path, own_store: Storage) -> Iterator[Site]:
    with running_site(home(tmp_path), own_store) as site:
        yield site


def of(site: Site, number: int, probability: float = 0.9, **whose: str) -> ResultRecord:
    """A result of a DICOM upload, its patient saved before it, as the predictor does."""
    result = record(number, probability, key=f"{site.settings.home.name}/{number}.dcm")
    identity = result.upload.identity
    storage: Storage = site.app.state.worklist.storage
    fields = {"patient_id": NUMBER, "issuer": "WARD7", "name": "Quellenhofer^Wendelin", "accession": ACCESSION} | whose
    key = patients.save(storage, OURS.patients_bucket, PatientRecord.model_validate({"identity": identity} | fields))
    result = result.model_copy(update={"patient": key})
    assert site.send(result).status_code == 204
    return result


def audited(site: Site, act: str) -> list[str | None]:
    with site.database.reading() as session:
        return list(session.scalars(select(Audit.identity).where(Audit.act == act).order_by(Audit.number)))


def test_page_shows_the_patient_only_to_those_who_may_see(named: Site) -> None:
    identity = of(named, 1).upload.identity
    with named.client(patients=True) as allowed, named.client("admin") as admin:
        page = allowed.get(f"/x/{identity}").text
        assert all(text in page for text in (NAME, NUMBER, ACCESSION, "WARD7"))
        assert audited(named, "saw patient") == [identity]
        hidden = admin.get(f"/x/{identity}").text + admin.get("/?view=all").text
        assert not any(text in hidden for text in (NAME, NUMBER, ACCESSION))
        assert admin.get(f"/patients?of={identity}").status_code == 403
    assert audited(named, "saw patient") == [identity]


def test_list_gets_patients_apart_from_its_rows(named: Site) -> None:
    first, second = (of(named, number).upload.identity for number in (1, 2))
    plain = record(3, key=f"{named.settings.home.name}/3.jpeg")
    named.send(plain)
    with named.client(patients=True) as reader:
        assert NAME not in reader.get("/?view=all").text
        query = "&".join(f"of={identity}" for identity in (first, second, plain.upload.identity, "0" * 32))
        answer = reader.get(f"/patients?{query}")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.json() == {
            identity: {"patient": f"{NAME} · {NUMBER}", "accession": ACCESSION} for identity in (first, second)
        }
        reader.get(f"/patients?{query}")  # the same look again
    assert sorted(audited(named, "saw patient"), key=str) == sorted((first, second))


@pytest.mark.parametrize("query", [ACCESSION, "acc99012", NUMBER, "p-4711 ", "quellen", "wendelin"])
def test_search_finds_by_accession_patient_and_name(named: Site, query: str) -> None:
    wanted = of(named, 1).upload.identity
    other = of(named, 2, patient_id="X1", accession="ACC990121", name="Sommer^Ida").upload.identity
    with named.client(patients=True) as reader, named.client("admin") as admin:
        rows = reader.get("/rows", params={"q": query, "view": "all"}).text
        assert wanted in rows
        assert other not in rows
        assert wanted not in admin.get("/rows", params={"q": query, "view": "all"}).text
        with named.database.reading() as session:
            details = list(session.scalars(select(Audit.detail).where(Audit.act == "searched")))
        assert not any(query.strip().lower() in detail.lower() for detail in details)


def test_other_images_of_the_patient_are_beside_this_one(named: Site) -> None:
    now = of(named, 5).upload.identity
    earlier = of(named, 1, study_date="2025-11-02", view="AP").upload.identity
    renamed = of(named, 2, name="Quellenhofer-Sommer^Wendelin").upload.identity
    elsewhere = of(named, 3, issuer="WARD8").upload.identity
    unnumbered = of(named, 4, patient_id="").upload.identity
    with named.client(patients=True) as reader:
        page = reader.get(f"/x/{now}").text
        shown = page.partition("Other images of this patient")[2].partition("</section>")[0]
        assert all(f"/x/{identity}?view=all" in shown for identity in (earlier, renamed))
        assert not any(identity in shown for identity in (elsewhere, unnumbered))
        assert "2025-11-02" in shown
        assert "name there: Quellenhofer-Sommer, Wendelin" in shown
        assert sorted(audited(named, "saw patient"), key=str) == sorted((now, earlier, renamed))
        assert "Other images of this patient" not in reader.get(f"/x/{unnumbered}").text


def test_rebuild_restores_patients(named: Site, tmp_path: Path, own_store: Storage) -> None:
    identity = of(named, 1).upload.identity
    with closing(Database.open(home(tmp_path / "other"))) as database:
        rebuild(database, own_store, OURS)
        with database.reading() as session:
            row = session.get(PatientRow, identity)
        assert row
        assert (row.patient_id, row.accession) == (NUMBER, ACCESSION)


def test_unreadable_patient_hides_nothing_else(named: Site, caplog: pytest.LogCaptureFixture) -> None:
    result = record(1, key=f"{named.settings.home.name}/odd.dcm").model_copy(update={"patient": "anything"})
    storage: Storage = named.app.state.worklist.storage
    storage.put(OURS.patients_bucket, patients.key_of(result.upload.identity), b'{"name": "Quellenhofer"}')
    assert named.send(result).status_code == 204
    with named.client(patients=True) as reader:
        assert reader.get(f"/x/{result.upload.identity}").status_code == 200
    assert "its patient is not shown" in caplog.text
    assert "Quellenhofer" not in caplog.text


@pytest.mark.parametrize(
    ("group", "groups", "may"),
    [
        (None, ["doctors"], False),
        ("doctors", ["doctors"], True),
        ("doctors", "doctors", True),
        ("doctors", ["x"], False),
    ],
)
def test_provider_gives_the_right_by_group(group: str | None, groups: object, may: bool) -> None:
    settings = WorklistSettings(oidc_patients_group=group)
    assert may_see_patients({"groups": groups}, settings) is may


def test_browser_fills_in_patients(named: Site, browser: Browser) -> None:
    of(named, 1)
    with opened(browser, named, "/?view=all", patients=True) as page:
        expect(page.locator("#rows .patient")).to_have_text(f"{NAME} · {NUMBER} · {ACCESSION}")
        of(named, 2, name="Sommer^Ida", patient_id="S-1", accession="")
        expect(page.locator("#rows .patient", has_text="Sommer, Ida · S-1")).to_be_visible()
        page.locator("[type=search]").fill("sommer")
        expect(page.locator("#rows tbody tr")).to_have_count(1)
    with opened(browser, named, "/?view=all") as page:
        expect(page.locator("#rows tbody tr")).to_have_count(2)
        expect(page.locator("#rows .patient:visible")).to_have_count(0)
