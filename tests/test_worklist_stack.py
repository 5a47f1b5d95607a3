"""The worklist in the real stack: results, kills, rebuilds."""

import json
import os
import re
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from cli.dossiers import dossier
from cli.stack import open_browser, sign_in_link
from laptop import stack
from lungline.datasets.phantom import jpeg
from lungline.dossier.lender import Lender
from lungline.dossier.signing import verify
from lungline.settings import Settings
from lungline.site_key import trusted_keys
from tests.support.dossier_lending import serving
from tests.support.laptop_stack import s3_client
from tests.support.own_host import LoopbackTransport
from tests.support.worklist_site import wait
from worklist.commands import rebuild_worklist
from worklist.database import entries
from worklist.database.entries import Counters
from worklist.database.models import WorklistEntry
from worklist.database.session import Database

pytestmark = pytest.mark.stack


@pytest.fixture
def settings(stack_settings: Settings) -> Settings:
    return stack_settings


def upload(settings: Settings, **images: bytes) -> None:
    client = s3_client(stack.env(settings, scanner=True))
    for name, data in images.items():
        client.put_object(Bucket=settings.uploads_bucket, Key=f"ward/{name}.jpg", Body=data)


def shown(settings: Settings) -> tuple[Counters, list[tuple[Any, ...]]]:
    """The counters and entries of the page."""
    database = Database.open(settings)
    try:
        with database.reading() as session:
            columns = [column for column in WorklistEntry.__table__.columns if column.name not in {"number", "touched"}]
            rows = session.execute(select(*columns).order_by(WorklistEntry.identity)).all()
            return entries.count(session), [tuple(row) for row in rows]
    finally:
        database.close()


def settled(settings: Settings) -> Counters:
    """What the page counts, once results of earlier tests have arrived."""
    counters = [shown(settings)[0]]
    while len(counters) < 2 or counters[-1] != counters[-2]:
        time.sleep(0.5)
        counters.append(shown(settings)[0])
    return counters[-1]


@pytest.fixture
def reader(settings: Settings) -> Iterator[httpx.Client]:
    """A reader who has followed the sign-in link."""
    with httpx.Client(
        transport=LoopbackTransport(), follow_redirects=True, timeout=30, headers={"accept": "text/html"}
    ) as client:
        assert client.get(sign_in_link(settings)).status_code == 200
        yield client


def test_page_shows_uploads_with_heatmaps_and_counters(settings: Settings, reader: httpx.Client) -> None:
    address = stack.status(settings).service("worklist").address
    assert stack.connect(settings).worklist.uri == address
    before = settled(settings)
    upload(settings, a=jpeg(1, opacities=True), b=jpeg(2, opacities=False), hello=b"hello")
    page = str(address)
    more = {"uploaded": 3, "judged": 2, "unsure": 2, "refused": 1, "unread": 3, "deidentified": 2, "dead_lettered": 1}
    expected = replace(before, **{name: getattr(before, name) + number for name, number in more.items()})
    wait(lambda: shown(settings)[0] == expected, 60)
    assert "a.jpg" in reader.get(page).text
    identity = next(row[0] for row in shown(settings)[1] if "judged" in row)
    heatmap = reader.get(f"{page}/x/{identity}/heat")
    assert heatmap.headers["content-type"] == "image/png"
    # Only the trigger has the token for events.
    events = page.replace(httpx.URL(page).host, "127.0.0.1")
    assert httpx.post(events, json={}, headers={"ce-specversion": "1.0"}, timeout=30).status_code == 403
    # A browser sends the cookies of 127.0.0.1 to every server on this machine, so there are no pages there.
    assert httpx.get(events, timeout=30).status_code == 421


def test_killed_worklist_misses_nothing_and_blocks_nothing(settings: Settings) -> None:
    before = stack.wait(settings, "worklist")
    already = settled(settings).uploaded
    assert before.pid
    os.kill(before.pid, signal.SIGSTOP)  # hangs without refusing connections
    upload(settings, **{f"away{number}": jpeg(number, opacities=True) for number in range(6)})
    connected = stack.connect(settings)
    wait(lambda: _count_records(connected) == already + 6, 60)
    os.kill(before.pid, signal.SIGKILL)
    wait(lambda: stack.status(settings).service("worklist").pid not in {None, before.pid}, 60)
    assert stack.wait(settings, "worklist").address == before.address
    upload(settings, after=jpeg(9, opacities=True))
    wait(lambda: shown(settings)[0].uploaded == already + 7, 60)


def _count_records(settings: Settings) -> int:
    from lungline.results.record_store import every
    from lungline.storage.s3 import Storage

    return sum(1 for _ in every(Storage.from_settings(settings), settings.results_bucket))


def test_rebuild_gives_the_same_page(settings: Settings, reader: httpx.Client, tmp_path: Path) -> None:
    address = str(stack.status(settings).service("worklist").address)
    wait(lambda: shown(settings)[0].judged > 0, 60)
    identity = next(row[0] for row in shown(settings)[1] if "judged" in row)
    page = reader.get(f"{address}/x/{identity}").text
    form = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
    response = reader.post(f"{address}/x/{identity}/readings", data=form | {"say": "Normal", "comment": "clear"})
    assert response.status_code == 200
    with closing(sqlite3.connect(settings.home / "worklist" / "worklist.db")) as database:
        wait(lambda: database.execute("SELECT count(*) FROM readings WHERE saved = 0").fetchone() == (0,), 60)
    lost = stack.connect(settings).model_copy(update={"home": tmp_path})
    rebuild_worklist(lost)
    counters, rows = shown(settings)
    again, rows_again = shown(lost)
    assert rows_again == rows
    assert again == replace(counters, deidentified=0)  # counted by the worklist that runs


def test_dossier_tells_all_from_event_to_look(
    settings: Settings, reader: httpx.Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = str(stack.status(settings).service("worklist").address)
    upload(settings, dossier=jpeg(11, opacities=True), broken=b"no film")
    wait(lambda: {"ward/dossier.jpg", "ward/broken.jpg"} <= {row[2] for row in shown(settings)[1]}, 60)
    identity, broken = (
        next(row[0] for row in shown(settings)[1] if row[2] == f"ward/{name}.jpg") for name in ("dossier", "broken")
    )
    assert reader.get(f"{address}/x/{identity}").status_code == 200
    page = tmp_path / "page.html"
    dossier("ward/dossier.jpg", output=page, home=settings.home, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["subject"] == identity
    assert [event["kind"] for event in document["events"]] == ["upload", "result"]
    assert document["results"][0]["event"].startswith("xray-uploads/0/")
    assert "opened" in [entry["act"] for entry in document["worklist"]["audit"]]
    assert "exported" in [entry["act"] for entry in document["worklist"]["audit"]]
    # There is no MLflow in this stack, and nothing was ever promoted.
    missing = {each["part"] for each in document["missing"]}
    version = document["results"][0]["model"]["version"]
    assert missing == {"training run", f"card of model pneumonia {version}", "promotion history"}
    with serving(stack.connect(settings)) as lends:
        lent = Lender(lends).events(identity, document["results"][0]["upload"]["etag"])
        assert lent[-1].kind == "result"  # the broker may have forgotten the other one by now
        assert all(event.model_dump(mode="json") in document["events"] for event in lent)
    dossier(verify=page, home=settings.home)
    assert "is as it was signed" in capsys.readouterr().out
    dossier(broken, home=settings.home, as_json=True)
    events = {event["kind"]: event for event in json.loads(capsys.readouterr().out)["events"]}
    assert "400" in events["dead letter"]["remark"]
    looked = reader.get(f"{address}/x/{identity}/dossier")
    assert "script" not in looked.headers["content-security-policy"]
    assert verify(looked.content, trusted_keys(settings)).content["subject"] == identity
    assert reader.get(f"{address}/x/{identity}/dossier.json").json()["worklist"]["record"] == f"{identity}-{version}"


def test_browser_gets_the_link_in_a_private_file(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where there is a screen."""
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert not open_browser(settings, "http://127.0.0.1:1/login?token=x&y")
    monkeypatch.setenv("DISPLAY", ":0")
    assert open_browser(settings, "http://127.0.0.1:1/login?token=x&y")
    (address,) = opened
    assert "token" not in address
    page = Path(address.removeprefix("file://"))
    assert page.stat().st_mode & 0o077 == 0
    assert "token=x&amp;y" in page.read_text()
