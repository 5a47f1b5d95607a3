import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, time, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from lungline.results.records import ResultRecord
from tests.support.http_stand_in import Quiet, serving
from tests.support.worklist_site import Site, home, record, running_site, wait
from worklist.database import notices
from worklist.database.ingest import ingest
from worklist.database.models import Notice
from worklist.rules import DEFAULT, NoticeRule, load_rules

# Apprise's plug-in for mail looks for a module that Python 3.13 dropped; it has its own where there is none.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


class Service:
    """A chat service's webhook with a configurable status."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.status = 200


@contextmanager
def running_service() -> Iterator[tuple[Service, str]]:
    service = Service()

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if service.status == 200:
                service.received.append(json.loads(body))
            self.send_response(service.status)
            self.end_headers()

    with serving(Handler) as address:
        yield service, f"json{address.removeprefix('http')}/hook"


def rules(folder: Path, text: str) -> Path:
    path = folder / "rules.toml"
    path.write_text(text)
    return path


def fresh(**changes: Any) -> ResultRecord:
    now = datetime.now(UTC)
    values: dict[str, Any] = {"arrived": now, "done": now, "key": "Ward 9/DOE^JANE.jpeg"} | changes
    return record(0, 0.9, **values)


def states(site: Site) -> list[tuple[int, int, str]]:
    with site.database.reading() as session:
        rows = session.scalars(select(Notice).order_by(Notice.step, Notice.target))
        return [(notice.step, notice.target, notice.state) for notice in rows]


def test_notice_is_sent_once_and_names_no_patient(tmp_path: Path) -> None:
    """However often the result arrives."""
    with running_service() as (service, address):
        text = f'[[rule]]\nname = "urgent"\nlabel = ["Pneumonia"]\nto = [["{address}"]]\n'
        with running_site(home(tmp_path, notice_rules=rules(tmp_path, text))) as site:
            for _ in range(3):
                assert site.send(fresh()).status_code == 204
            assert site.send(record(1, 0.1, arrived=datetime.now(UTC))).status_code == 204
            wait(lambda: states(site) == [(0, 0, "sent")])
            site.send(fresh())
            site.app.state.jobs.send_notices()
        # The worklist ends once its sending threads have.
        (notice,) = service.received
        assert "DOE" not in json.dumps(notice)
        assert "Ward" not in json.dumps(notice)
        assert f"{site.url}/x/{fresh().upload.identity}" in notice["message"]


def test_failed_notice_is_shown_and_retried(tmp_path: Path) -> None:
    with running_service() as (service, address), running_service() as (well, other):
        service.status = 500
        text = f'[[rule]]\nname = "urgent"\nto = [["{address}", "{other}"]]\n'
        with running_site(home(tmp_path, notice_rules=rules(tmp_path, text))) as site:
            site.send(fresh())
            wait(lambda: states(site) == [(0, 0, "waiting"), (0, 1, "sent")])
            with site.client() as client:
                assert "could not be sent yet" in client.get("/aside").text
                assert "did not accept the notice" in client.get("/notices").text
                assert address not in client.get("/notices").text
            service.status = 200
            with site.database.writing() as session:
                session.execute(update(Notice).where(Notice.state == "waiting").values(due=datetime.now(UTC)))
            wait(lambda: states(site) == [(0, 0, "sent"), (0, 1, "sent")])
            assert (len(service.received), len(well.received)) == (1, 1)


def test_unacknowledged_notice_escalates_and_acknowledged_does_not(tmp_path: Path) -> None:
    with running_service() as (first, first_url), running_service() as (second, second_url):
        text = f'[[rule]]\nname = "urgent"\nescalate_minutes = 30\nto = [["{first_url}"], ["{second_url}"]]\n'
        with running_site(home(tmp_path, notice_rules=rules(tmp_path, text))) as site:
            site.send(fresh())
            other = fresh(etag="0" * 32)
            site.send(other)
            wait(lambda: len(first.received) == 2)
            wait(lambda: states(site) == [(0, 0, "sent")] * 2)
            with site.client() as client:
                client.post(f"/x/{other.upload.identity}/acknowledge", data=site.form(client, other.upload.identity))
            assert second.received == []
            with site.database.writing() as session:
                late = Notice.escalates.is_not(None)
                session.execute(update(Notice).where(late).values(escalates=datetime.now(UTC)))
            wait(lambda: states(site)[-1] == (1, 0, "sent"))
            (notice,) = second.received
            assert fresh().upload.identity in notice["message"]


def test_reading_acknowledges_the_notice(tmp_path: Path) -> None:
    with running_site(home(tmp_path)) as site:
        site.send(fresh())
        wait(lambda: states(site) == [(0, 0, "sent")])
        with site.client() as client:
            assert "not acknowledged" in client.get("/").text
            site.submit_reading(client, fresh().upload.identity, "confirmed")
            assert "not acknowledged" not in client.get("/").text
    (line,) = (tmp_path / "worklist/notices.log").read_text().splitlines()
    assert json.loads(line)["link"].endswith(f"/x/{fresh().upload.identity}")


def test_old_results_send_no_notice(tmp_path: Path) -> None:
    with running_site(home(tmp_path)) as site:
        site.send(record(done=datetime.now(UTC) - timedelta(hours=2)))
        assert states(site) == [(-1, 0, "not sent")]


def test_a_restored_result_sends_its_notice_when_its_event_comes(tmp_path: Path) -> None:
    """A worklist that starts for the first time finds results of which no event has come yet."""
    with running_site(home(tmp_path)) as site:
        ingest(site.database, fresh())  # as a restoration does: without rules
        assert states(site) == []
        for _ in range(2):
            site.send(fresh())
            wait(lambda: states(site) == [(0, 0, "sent")])
        read = fresh(etag="0" * 32)
        ingest(site.database, read)
        with site.client() as client:
            site.submit_reading(client, read.upload.identity, "confirmed")
        site.send(read)
        assert states(site) == [(0, 0, "sent")]


def test_each_attempt_waits_longer_until_the_last_fails(tmp_path: Path) -> None:
    with running_site(home(tmp_path)) as site:
        site.send(fresh())
        wait(lambda: states(site) == [(0, 0, "sent")])
        with site.database.writing() as session:
            number = session.scalar(select(Notice.number)) or 0
            waits = []
            for attempt in range(1, notices.ATTEMPTS + 1):
                notices.mark_failed(session, notices.Due(number, "i", "pneumonia", 0, 0, attempt), "down")
                notice = session.get_one(Notice, number, populate_existing=True)
                waits.append(round((notice.due - datetime.now(UTC)).total_seconds()))
            assert waits == sorted(waits)
            assert session.scalar(select(Notice.state)) == "failed"


def test_rules_select_results_by_all_conditions() -> None:
    night = NoticeRule(
        name="n", label=("Pneumonia",), risk=0.8, prefix="icu/", hours=(time(18), time(7)), to=(("file",),)
    )
    at = datetime(2026, 1, 1, 23)  # noqa: DTZ001 - local time is what a rule means
    assert night.fits(record(key="icu/a"), at)
    assert not night.fits(record(key="ward/a"), at)
    assert not night.fits(record(0, 0.75, key="icu/a"), at)
    assert not night.fits(record(0, 0.1, key="icu/a"), at)
    assert not night.fits(record(key="icu/a"), at.replace(hour=12))
    assert not night.fits(record(key="icu/a", outcome="gone"), at)
    assert load_rules(None) == DEFAULT
