"""A machine's clock is set back by an hour: nothing is lost by it, and nothing waits for that hour."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from eventing.reconcile import Reconciliation, _candidates
from lungline import bounds
from lungline.errors import StorageUnavailable
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.errors import refusal
from lungline.storage.objects import ObjectInfo
from tests.support.worklist_site import record
from worklist.database import notices
from worklist.database.ingest import ingest
from worklist.database.models import Notice, WorklistEntry, microseconds
from worklist.database.session import Database
from worklist.rules import NoticeRule
from worklist.web.live import Live

HOUR = timedelta(hours=1)
# Apprise's plug-in for mail looks for a module that Python 3.13 dropped; it has its own where there is none.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database.open(Settings(home=tmp_path))) as database:
        yield database


def urgent() -> NoticeRule:
    groups = ("file",), ("json://127.0.0.1/x",)
    return NoticeRule(name="urgent", label=("Pneumonia",), to=groups, escalate_minutes=30)


def judged(number: int = 0) -> ResultRecord:
    now = datetime.now(UTC)
    return record(number, 0.9, arrived=now, done=now)


def queued(database: Database, **values: object) -> None:
    """A notice with what it had been given by a clock that was ahead."""
    ingest(database, judged(), rules=[urgent()])
    with database.writing() as session:
        session.execute(update(Notice).values(**values))


def test_a_notice_does_not_wait_for_the_hour(database: Database) -> None:
    queued(database, due=datetime.now(UTC) + timedelta(minutes=20))
    with database.writing() as session:
        assert notices.seconds_to_next(session) == 0
        assert [due.attempts for due in notices.claim(session, [("urgent", 0, 0)], 5)] == [1]
        assert notices.claim(session, [("urgent", 0, 0)], 5) == [], "it is somebody's now"


def test_a_notice_that_failed_is_not_tried_an_hour_later(database: Database) -> None:
    queued(database, due=datetime.now(UTC) + HOUR, attempts=3)
    with database.writing() as session:
        assert notices.seconds_to_next(session) == 0
        (due,) = notices.claim(session, [("urgent", 0, 0)], 5)
        notices.mark_failed(session, due, "down")
        assert 0 < notices.seconds_to_next(session) < 100, "and then it waits as ever"


def test_a_notice_escalates_although_the_clock_was_set_back(database: Database) -> None:
    """Nobody can say how long ago it was sent, and early is better than late."""
    ahead = datetime.now(UTC) + HOUR
    queued(database, state="sent", sent=ahead, escalates=ahead + timedelta(minutes=30))
    with database.writing() as session:
        assert notices.seconds_to_next(session) == 0
        assert notices.escalate(session, [urgent()]) == 1
        assert notices.escalate(session, [urgent()]) == 0
        assert list(session.scalars(select(Notice.step).order_by(Notice.step))) == [0, 1]


def test_open_pages_show_what_comes_after(database: Database) -> None:
    live = Live(database, lambda entry: entry.identity)
    first, second = judged(1), judged(2)
    ingest(database, first)
    with database.writing() as session:  # by a clock that was ahead
        session.execute(update(WorklistEntry).values(touched=microseconds(datetime.now(UTC) + HOUR)))
    assert _seen_by(live) == [first.upload.identity]
    ingest(database, second)
    assert _seen_by(live) == [second.upload.identity]
    assert _seen_by(live) == []


def _seen_by(live: Live) -> list[str]:
    changed, _ = live._poll()  # noqa: SLF001 - without the pages and the pause around it
    return [entry.identity for entry in changed or ()]


def test_a_lost_upload_of_that_hour_is_sent_again() -> None:
    now, report = datetime.now(UTC), Reconciliation()
    moments = (now - HOUR, now - timedelta(seconds=5), now + HOUR)
    objects = [ObjectInfo(f"{number}.jpeg", f"{number}", 9, moment) for number, moment in enumerate(moments)]
    sent = _candidates(iter(objects), "xray-uploads", report, None, now - timedelta(seconds=30))
    assert [upload.key for upload in sent] == ["0.jpeg", "2.jpeg"]
    assert report.recent == 1


def test_times_of_records_may_lie_a_little_ahead() -> None:
    now = datetime.now(UTC)
    assert bounds.recorded(now + HOUR) == now + HOUR
    assert bounds.recorded(now + timedelta(days=2)) is None
    assert bounds.moment(now + HOUR) is None, "that of an event from elsewhere may not"


def test_a_store_with_another_clock_is_unavailable() -> None:
    """Events wait until the clock is right; as a refusal it made dead letters of them."""
    error = refusal("RequestTimeTooSkewed", 403, "lungline-results", reading=False)
    assert isinstance(error, StorageUnavailable)
    assert "this machine's clock and its own differ too much" in str(error)
