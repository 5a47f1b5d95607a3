import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select, update

from lungline.errors import SettingsError
from lungline.settings import WorklistSettings
from tests.support.worklist_site import Site, home, record
from worklist.commands import login_url
from worklist.database.access import COOKIE, LINK_FILE, signer
from worklist.database.models import Audit, Session, Token, WorklistEntry
from worklist.web.app import build_app
from worklist.web.oidc import role_of

IDENTITY = record().upload.identity
PAGES = [
    "/", "/rows", "/aside", "/live", "/audit", "/notices", "/session", "/export.csv", "/models/1/card",
    f"/x/{IDENTITY}", f"/x/{IDENTITY}/xray", f"/x/{IDENTITY}/heat", f"/x/{IDENTITY}/thumb",
    f"/results/{record().id}.fhir.json",
]  # fmt: skip


@pytest.mark.parametrize("path", PAGES)
def test_pages_require_a_session(site: Site, path: str) -> None:
    site.send(record())
    with site.client(None) as nobody:
        response = nobody.get(path)
        assert (response.status_code, response.headers.get("location")) == (303, "/login")
        assert nobody.get(path, headers={"accept": "*/*"}).status_code == 401
        nobody.cookies.set(COOKIE, "bWFkZSB1cA.aaaa.bbbb")
        assert nobody.get(path, headers={"accept": "*/*"}).status_code == 401


def test_link_signs_one_person_in_once(site: Site) -> None:
    url = login_url(site.settings, site.url)
    file = site.settings.home / "worklist" / LINK_FILE
    assert file.read_text().strip() == url
    assert file.stat().st_mode & 0o077 == 0
    responses: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: responses.append(httpx.get(url))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (welcome,) = [response for response in responses if response.status_code == 303]
    assert [response.status_code for response in responses].count(403) == 4
    assert welcome.headers["location"] == "/"
    cookie = welcome.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert not file.exists()
    assert httpx.get(site.url, cookies=welcome.cookies).status_code == 200


def test_link_expires_with_a_newer_link_or_a_day(site: Site) -> None:
    first, second = login_url(site.settings, site.url), login_url(site.settings, site.url)
    assert httpx.get(first).status_code == 403
    with site.database.writing() as session:
        session.execute(update(Token).values(expires=datetime.now(UTC) - timedelta(seconds=1)))
    assert httpx.get(second).status_code == 403


def test_database_holds_no_usable_secrets(site: Site) -> None:
    token = login_url(site.settings, site.url).partition("=")[2]
    cookie = site.access.begin("dr.adams", "reader")
    stored = b"".join(path.read_bytes() for path in (site.settings.home / "worklist").glob("worklist.db*"))
    assert token.encode() not in stored
    assert cookie.encode() not in stored


def test_session_ends_by_signing_out_and_by_expiry(site: Site) -> None:
    with site.client() as client:
        kept = dict(client.cookies)
        assert client.post("/logout", data={"csrf": site.csrf(client)}).status_code == 303
        assert httpx.get(f"{site.url}/rows", cookies=kept).status_code == 401
    with site.client() as client:
        with site.database.writing() as session:
            session.execute(update(Session).values(expires=datetime.now(UTC)))
        assert client.get("/rows", headers={"accept": "*/*"}).status_code == 401


def test_readers_cannot_open_audit_log_or_export(site: Site) -> None:
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


def test_actions_are_in_the_audit_log_without_keys(site: Site) -> None:
    site.send(record())
    with site.client("admin") as client:
        client.get(f"/x/{IDENTITY}")
        site.submit_reading(client, IDENTITY, "Normal", "clear")
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
        ("dr.adams", "listed", "audit log"),
    ]
    assert "corrected" in page
    assert "xray-0" not in page


def test_every_response_carries_security_headers(site: Site) -> None:
    with site.client() as client:
        for path in ("/", "/login", "/static/worklist.css", "/nowhere", "/healthz"):
            headers = client.get(path).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["x-frame-options"] == "DENY"
        assert client.get("/").headers["cache-control"] == "no-store"


def test_unknown_host_names_are_refused(site: Site) -> None:
    """Another site may point its own host name at this machine."""
    assert httpx.get(site.url, headers={"host": "evil.example"}).status_code == 400
    response = httpx.post(site.url, content=record().model_dump_json(), headers={"host": "evil.example"})
    assert response.status_code == 400
    assert httpx.get(f"{site.url}/healthz", headers={"host": "10.0.0.7:8900"}).status_code == 200


def test_notice_link_acknowledges_only_by_its_button(site: Site) -> None:
    """The page shows nothing about the patient."""
    site.send(record())
    path = f"{site.url}/acknowledge/{signer(site.settings, 'acknowledge').dumps(IDENTITY)}"
    page = httpx.get(path, timeout=60)
    assert page.status_code == 200
    assert "xray-0" not in page.text
    with site.database.reading() as session:
        assert session.scalar(select(Audit.number)) is None
    assert "Acknowledge this notice?" in httpx.post(path, timeout=60).text  # posted by hand, it asks
    result = page.text.partition('name="result" value="')[2].partition('"')[0]
    assert "Acknowledged" in httpx.post(path, data={"result": result}, timeout=60).text
    forged = signer(site.settings, "session").dumps(IDENTITY)
    assert httpx.get(f"{site.url}/acknowledge/{forged}", timeout=60).status_code == 404


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


def test_without_groups_everybody_is_a_reader() -> None:
    """And nobody is an administrator."""
    assert role_of({"groups": ["admins"]}, WorklistSettings()) == "reader"


def test_oidc_sign_in_needs_a_provider(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="oidc_issuer"):
        build_app(home(tmp_path, login="oidc"))
