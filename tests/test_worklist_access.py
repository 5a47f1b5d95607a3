import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select, update

from lungline.errors import SettingsError
from lungline.settings import WorklistSettings
from tests.support.worklist_site import Site, home, record, running_site
from worklist.commands import login_url
from worklist.database.access import COOKIE, LINK_FILE, signer
from worklist.database.models import Audit, Session, Token, WorklistEntry
from worklist.web.app import build_app
from worklist.web.oidc import role_of


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running_site(home(tmp_path)) as site:
        yield site


IDENTITY = record().upload.identity
PAGES = ["/", "/rows", "/aside", "/live", f"/x/{IDENTITY}", f"/x/{IDENTITY}/xray", f"/x/{IDENTITY}/heat",
    f"/x/{IDENTITY}/thumb", "/audit", "/notices", "/export.csv", f"/results/{record().id}.fhir.json", "/models/1/card",
]  # fmt: skip


@pytest.mark.parametrize("path", PAGES)
def test_nothing_is_shown_to_who_is_not_signed_in(site: Site, path: str) -> None:
    site.send(record())
    with site.client(None) as nobody:
        answer = nobody.get(path)
        assert (answer.status_code, answer.headers.get("location")) == (303, "/login")
        assert nobody.get(path, headers={"accept": "*/*"}).status_code == 401
        nobody.cookies.set(COOKIE, "bWFkZSB1cA.aaaa.bbbb")
        assert nobody.get(path, headers={"accept": "*/*"}).status_code == 401


def test_a_link_lets_one_person_in_once(site: Site) -> None:
    url = login_url(site.settings, site.url)
    file = site.settings.home / "worklist" / LINK_FILE
    assert file.read_text().strip() == url
    assert file.stat().st_mode & 0o077 == 0
    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(httpx.get(url))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (welcome,) = [answer for answer in answers if answer.status_code == 303]
    assert [answer.status_code for answer in answers].count(403) == 4
    assert welcome.headers["location"] == "/"
    cookie = welcome.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert not file.exists()
    assert httpx.get(site.url, cookies=welcome.cookies).status_code == 200


def test_a_new_link_and_the_passing_of_a_day_end_the_one_before(site: Site) -> None:
    first, second = login_url(site.settings, site.url), login_url(site.settings, site.url)
    assert httpx.get(first).status_code == 403
    with site.database.writing() as session:
        session.execute(update(Token).values(expires=datetime.now(UTC) - timedelta(seconds=1)))
    assert httpx.get(second).status_code == 403


def test_the_database_holds_nothing_that_opens_the_page(site: Site) -> None:
    token = login_url(site.settings, site.url).partition("=")[2]
    cookie = site.access.begin("dr.adams", "reader")
    stored = b"".join(path.read_bytes() for path in (site.settings.home / "worklist").glob("worklist.db*"))
    assert token.encode() not in stored
    assert cookie.encode() not in stored


def test_a_session_ends_by_signing_out_and_by_itself(site: Site) -> None:
    with site.client() as client:
        kept = dict(client.cookies)
        assert client.post("/logout", data={"csrf": site.csrf(client)}).status_code == 303
        assert httpx.get(f"{site.url}/rows", cookies=kept).status_code == 401
    with site.client() as client:
        with site.database.writing() as session:
            session.execute(update(Session).values(expires=datetime.now(UTC)))
        assert client.get("/rows", headers={"accept": "*/*"}).status_code == 401


def test_readers_see_neither_the_audit_log_nor_the_whole_export(site: Site) -> None:
    site.send(record())
    with site.client("reader") as reader, site.client("admin") as admin:
        for path in ("/audit", "/export.csv"):
            assert reader.get(path).status_code == 403
            assert admin.get(path).status_code == 200
        assert reader.get(f"/x/{IDENTITY}").status_code == 200
        assert "/audit" not in reader.get("/").text


@pytest.mark.parametrize("path", [f"/x/{IDENTITY}/readings", f"/x/{IDENTITY}/acknowledge", "/logout"])
def test_another_sites_form_changes_nothing(site: Site, path: str) -> None:
    site.send(record())
    with site.client() as client, site.client() as other:
        for csrf in ("", "guess", site.csrf(other)):
            assert client.post(path, data={"csrf": csrf, "say": "read"}).status_code == 403
        with site.database.reading() as session:
            assert session.scalar(select(WorklistEntry.read)) == 0
        assert client.get("/").status_code == 200


def test_what_people_did_stands_in_the_audit_log_without_any_key(site: Site) -> None:
    site.send(record())
    with site.client("admin") as client:
        client.get(f"/x/{IDENTITY}")
        site.say(client, IDENTITY, "Normal", "clear")
        client.get(f"/results/{record().id}.fhir.json")
        client.get("/export.csv")
        page = client.get("/audit").text
    with site.database.reading() as session:
        lines = [(line.who, line.act, line.detail) for line in session.scalars(select(Audit).order_by(Audit.number))]
    assert lines == [
        ("dr.adams", "signed in", ""),
        ("dr.adams", "opened", ""),
        ("dr.adams", "corrected", "Normal"),
        ("dr.adams", "exported", "fhir"),
        ("dr.adams", "exported", "csv"),
    ]
    assert "corrected" in page
    assert "xray-0" not in page


def test_every_answer_carries_the_headers_that_keep_others_out(site: Site) -> None:
    with site.client() as client:
        for path in ("/", "/login", "/static/worklist.css", "/nowhere", "/healthz"):
            said = client.get(path).headers
            assert "default-src 'none'" in said["content-security-policy"]
            assert "unsafe" not in said["content-security-policy"]
            assert said["x-content-type-options"] == "nosniff"
            assert said["referrer-policy"] == "no-referrer"
            assert said["x-frame-options"] == "DENY"
        assert client.get("/").headers["cache-control"] == "no-store"


def test_an_address_that_is_not_ours_is_refused(site: Site) -> None:
    """A page elsewhere may point its own name at this machine."""
    assert httpx.get(site.url, headers={"host": "evil.example"}).status_code == 400
    answer = httpx.post(site.url, content=record().model_dump_json(), headers={"host": "evil.example"})
    assert answer.status_code == 400
    assert httpx.get(f"{site.url}/healthz", headers={"host": "10.0.0.7:8900"}).status_code == 200


def test_the_link_of_a_notice_acknowledges_only_by_its_button_and_shows_nothing(site: Site) -> None:
    site.send(record())
    path = f"{site.url}/acknowledge/{signer(site.settings, 'acknowledge').dumps(IDENTITY)}"
    page = httpx.get(path)
    assert page.status_code == 200
    assert "xray-0" not in page.text
    with site.database.reading() as session:
        assert session.scalar(select(Audit.number)) is None
    assert "Acknowledged" in httpx.post(path).text
    forged = signer(site.settings, "session").dumps(IDENTITY)
    assert httpx.get(f"{site.url}/acknowledge/{forged}").status_code == 404


@pytest.mark.parametrize(
    ("groups", "role"),
    [
        (["readers"], "reader"),
        (["admins", "readers"], "admin"),
        ("readers", "reader"),
        (["others"], None),
        (None, None),
    ],
)
def test_groups_of_the_provider_become_roles(groups: object, role: str | None) -> None:
    settings = WorklistSettings(oidc_reader_group="readers", oidc_admin_group="admins")
    assert role_of({"groups": groups}, settings) == role


def test_everybody_may_read_when_no_group_is_named_and_nobody_is_admin() -> None:
    assert role_of({"groups": ["admins"]}, WorklistSettings()) == "reader"


def test_signing_in_by_openid_needs_a_provider(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="oidc_issuer"):
        build_app(home(tmp_path, login="oidc"))
