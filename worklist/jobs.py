"""Background jobs: send and escalate notices, store readings and DICOM results in S3."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from sqlalchemy import select, update
from starlette.concurrency import run_in_threadpool

from lungline import tracing
from lungline.errors import DataError, LunglineError, ObjectGone
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from worklist import metrics
from worklist.database import counters, entries, notices, readings
from worklist.database.access import signer
from worklist.database.models import ResultRow
from worklist.database.notices import Due
from worklist.database.session import Database
from worklist.exports.images import ImageRenderer
from worklist.exports.secondary_capture import capture, capture_key
from worklist.rules import LOCAL_FILE, NoticeRule

EVERY_SECONDS = 1.0
# Images may be added to the research bucket later, without an event.
RECOUNT_SECONDS = 60.0

_log = logging.getLogger(__name__)


class Jobs:
    """The jobs of one worklist; each round does what is due."""

    def __init__(
        self, database: Database, storage: Storage, settings: Settings, rules: Sequence[NoticeRule], address: str
    ) -> None:
        self._database = database
        self._storage = storage
        self._settings = settings
        self._rules = {rule.name: rule for rule in rules}
        self._address = (settings.worklist.uri or address).rstrip("/")
        self._images = ImageRenderer(storage, settings)
        self._stopping = asyncio.Event()
        self._signer = signer(settings, "acknowledge")
        self._unsure, self._recount = -1, 0.0

    async def run(self) -> None:
        """Run rounds until stopped."""
        while not self._stopping.is_set():
            for job in (self.send_notices, self.save_readings, self.save_captures, self.count_deidentified):
                await run_in_threadpool(_attempt, job)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), EVERY_SECONDS)

    def stop(self) -> None:
        """Stop after the current round, so that no notice is left half sent."""
        self._stopping.set()

    def send_notices(self) -> None:
        """Send due notices, and escalate those that were not acknowledged in time."""
        with self._database.reading() as session:
            if not notices.anything_due(session):
                return
        with self._database.writing() as session:
            notices.escalate(session, list(self._rules.values()))
            due = notices.claim(session)
        for notice in due:
            with tracing.span("notice", tracing.of_upload(notice.identity), "client") as span:
                error = self._send(notice)
                span.add(sent=not error)
            _log.info("notice failed" if error else "notice sent", extra={"identity": notice.identity})
            metrics.notice_outcome("failed" if error else "sent").inc()
            with self._database.writing() as session:
                if error:
                    notices.mark_failed(session, notice, error)
                else:
                    rule = self._rules.get(notice.rule)
                    last = rule is None or notice.step + 1 >= len(rule.to)
                    notices.mark_sent(session, notice.number, None if last or not rule else rule.escalate_minutes)

    def save_readings(self) -> None:
        """Store new readings in S3."""
        with self._database.reading() as session:
            waiting = readings.unsaved(session)
        saved: list[str] = []
        try:
            for reading in waiting:
                data = reading.model_dump_json().encode()
                self._storage.put_if_absent(self._settings.results_bucket, reading.key, data, "application/json")
                saved.append(reading.id)
        finally:
            if saved:
                with self._database.writing() as session:
                    readings.mark_saved(session, saved)

    def save_captures(self) -> None:
        """Store results of DICOM uploads as DICOM files beside their records."""
        with self._database.reading() as session:
            bodies = session.scalars(select(ResultRow.body).where(ResultRow.capture == 1).limit(20)).all()
        for record in map(ResultRecord.model_validate_json, bodies):
            self._save_capture(record)
            with self._database.writing() as session:
                session.execute(update(ResultRow).where(ResultRow.id == record.id).values(capture=0))

    def count_deidentified(self) -> None:
        """Count the images in the research bucket after each new unsure result, and once a minute."""
        with self._database.reading() as session:
            unsure = entries.count_unsure(session)
        if unsure == self._unsure and time.monotonic() < self._recount:
            return
        self._unsure, self._recount = unsure, time.monotonic() + RECOUNT_SECONDS
        count = counters.count_research(self._storage, self._settings)
        with self._database.writing() as session:
            counters.save_research_count(session, count)

    def _save_capture(self, record: ResultRecord) -> None:
        bucket = self._settings.results_bucket
        try:
            original = self._images.original(record)
            overlaid = self._storage.get(bucket, record.heatmap or "").data
            data = capture(original, overlaid, record)
        except (ObjectGone, DataError) as exc:  # retrying cannot help
            _log.warning("Upload %s gets no DICOM result: %s", record.upload.identity, exc)
        else:
            self._storage.put_if_absent(bucket, capture_key(record), data, "application/dicom")

    def _send(self, due: Due) -> str | None:
        """Send one notice; return what went wrong, without the target's URL."""
        rule = self._rules.get(due.rule)
        if rule is None or due.step >= len(rule.to) or due.target >= len(rule.to[due.step]):
            return "The rule no longer has this target."
        link = f"{self._address}/x/{due.identity}"
        target = rule.to[due.step][due.target]
        if target == LOCAL_FILE:
            self._write(rule.name, due.step, link)
            return None
        acknowledge = f"{self._address}/acknowledge/{self._signer.dumps(due.identity)}"
        text = f"An X-ray on the worklist needs to be read.\n\nOpen it: {link}\nAcknowledge: {acknowledge}\n"
        return _notify(target, f"Lungline worklist: {rule.name}", text)

    def _write(self, rule: str, step: int, link: str) -> None:
        folder = self._settings.home / "worklist"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        line = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "rule": rule, "step": step, "link": link}
        with (folder / "notices.log").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _notify(target: str, title: str, text: str) -> str | None:
    import apprise

    sender = apprise.Apprise()
    sender.add(target)
    try:
        accepted = sender.notify(body=text, title=title)
    except Exception as exc:  # noqa: BLE001 - each of a hundred services has its own errors
        return f"The service failed ({type(exc).__name__})."
    return None if accepted else "The service did not accept the notice."


def _attempt(job: Callable[[], None]) -> None:
    try:
        job()
    except LunglineError as exc:
        _log.warning("%s is retried: %s", job.__name__, exc)
    except OSError as exc:
        _log.warning("%s is retried: %s", job.__name__, type(exc).__name__)
