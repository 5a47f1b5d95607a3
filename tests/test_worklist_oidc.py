import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from sqlalchemy import select

from tests.support.http_stand_in import Quiet, serving
from tests.support.worklist_site import Site, home, running_site
from worklist.web.oidc import person_of


class Provider:
    """An OpenID provider with configurable groups and claims."""

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048, parameters={"kid": "1"})
        self.issuer = ""
        self.groups: list[str] = []
        self.requests: dict[str, dict[str, str]] = {}
        self.changes: dict[str, Any] = {}

    def answer(self, path: str, form: dict[str, str]) -> dict[str, Any]:
        if path.endswith("openid-configuration"):
            ends = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
            urls = {name: f"{self.issuer}/{end}" for name, end in ends.items()}
            return {"issuer": self.issuer, "id_token_signing_alg_values_supported": ["RS256"]} | urls
        if path == "/keys":
            return dict(KeySet([self.key]).as_dict(private=False))
        request = self.requests.pop(form["code"])
        now = int(time.time())
        claims = {
            "iss": self.issuer, "aud": "worklist", "sub": "77", "preferred_username": "dr.berg", "iat": now,
            "exp": now + 60, "nonce": request["nonce"], "groups": self.groups,
        } | self.changes  # fmt: skip
        token = jwt.encode({"alg": "RS256", "kid": "1"}, claims, self.key)
        return {"access_token": "a", "token_type": "Bearer", "id_token": token}

    def agree(self, url: str) -> str:
        """The user types a password; returns where they are redirected."""
        request = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        code = secrets.token_hex(8)
        self.requests[code] = request
        assert request["code_challenge_method"] == "S256"
        return request["redirect_uri"] + "?" + urlencode({"code": code, "state": request["state"]})


@contextmanager
def running_provider() -> Iterator[Provider]:
    provider = Provider()

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("content-length", 0))
            form = {name: values[0] for name, values in parse_qs(self.rfile.read(length).decode()).items()}
            body = json.dumps(provider.answer(self.path, form)).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - as http.server calls it

    with serving(Handler) as provider.issuer:
        yield provider


@pytest.fixture
def provider() -> Iterator[Provider]:
    with running_provider() as provider:
        yield provider


@pytest.fixture
def site(tmp_path: Path, provider: Provider) -> Iterator[Site]:
    settings = home(
        tmp_path,
        login="oidc",
        oidc_issuer=provider.issuer,
        oidc_client_id="worklist",
        oidc_client_secret="secret",
        oidc_reader_group="readers",
        oidc_admin_group="admins",
    )
    with running_site(settings) as site:
        yield site


def sign_in(site: Site, provider: Provider, browser: httpx.Client) -> httpx.Response:
    return browser.get(provider.agree(browser.get("/login/oidc").headers["location"]))


@pytest.mark.parametrize(("groups", "audit"), [(["readers"], 403), (["admins"], 200)])
def test_provider_signs_people_in_with_their_role(
    site: Site, provider: Provider, groups: list[str], audit: int
) -> None:
    provider.groups = groups
    with site.client(None) as browser:
        assert sign_in(site, provider, browser).headers["location"] == "/"
        assert "dr.berg" in browser.get("/").text
        assert browser.get("/audit").status_code == audit


def test_missing_groups_and_forged_tokens_open_nothing(site: Site, provider: Provider) -> None:
    with site.client(None) as browser:
        provider.groups = ["others"]
        assert sign_in(site, provider, browser).status_code == 403
        provider.groups = ["admins"]
        for forged in ({"aud": "another"}, {"nonce": "old"}, {"exp": 1}, {"iss": "http://evil.example"}):
            provider.changes = forged
            assert sign_in(site, provider, browser).status_code == 403, forged
        provider.changes = {}
        assert browser.get("/login/callback?code=x&state=made-up").status_code == 403
        assert browser.get("/").status_code == 303


def test_token_link_opens_nothing_with_oidc(site: Site) -> None:
    token = site.access.new_token("dr.adams", "admin")
    with site.client(None) as browser:
        assert browser.get(f"/login?token={token}").status_code == 200
        assert browser.get("/").status_code == 303


def test_unavailable_provider_is_reported(tmp_path: Path) -> None:
    settings = {"login": "oidc", "oidc_client_id": "w", "oidc_client_secret": "s", "oidc_issuer": "http://127.0.0.1:9"}
    with running_site(home(tmp_path, **settings)) as site, site.client(None) as browser:
        assert browser.get("/login/oidc").status_code == 503


@pytest.mark.attack
def test_a_person_is_issuer_and_subject(site: Site, provider: Provider) -> None:
    """Whoever takes another's name is somebody else in the audit log and in readings."""
    provider.groups = ["readers"]
    people = set[str]()
    for subject in ("77", "78"):
        provider.changes = {"sub": subject, "preferred_username": "dr.berg"}
        with site.client(None) as browser:
            sign_in(site, provider, browser)
            people.add(browser.get("/session").json()["who"])
    host = provider.issuer
    assert people == {f"dr.berg (77 at {host})", f"dr.berg (78 at {host})"}


def test_a_long_identity_becomes_its_digest() -> None:
    first, second = (person_of({"iss": "https://id.example/" + "r" * 200, "sub": "s" * 200 + end}) for end in "ab")
    assert first != second
    assert len(first) < 200


@pytest.mark.attack
def test_a_role_of_a_provider_lasts_a_shift(site: Site, provider: Provider) -> None:
    from datetime import UTC, datetime, timedelta

    from worklist.database.models import Session

    provider.groups = ["admins"]
    site.access._hours = 168  # noqa: SLF001 - as long as the setting allows
    with site.client(None) as browser:
        sign_in(site, provider, browser)
    with site.database.reading() as session:
        (expires,) = session.scalars(select(Session.expires)).all()
    assert expires < datetime.now(UTC) + timedelta(hours=8, minutes=1)
