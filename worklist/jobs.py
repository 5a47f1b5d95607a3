"""Background jobs: notices, deliveries, what S3 keeps of both, a lost database from there, lost objects."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from sqlalchemy import select, update
from starlette.concurrency import run_in_threadpool

from lungline.errors import DataError, LunglineError, ObjectGone, Unavailable
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from lungline.wording import count
from worklist.database import audit, counters, entries, readings
from worklist.database.delivered import Keeper
from worklist.database.losses import Losses
from worklist.database.models import ResultRow
from worklist.database.rebuild import Restoration
from worklist.database.session import Database
from worklist.delivery.courier import Courier
from worklist.exports.former_captures import AGAIN_SECONDS, FormerCaptures
from worklist.exports.images import ImageRenderer
from worklist.exports.secondary_capture import capture_key
from worklist.exports.study_instances import instances_of
from worklist.notifier import Notifier

EVERY_SECONDS = 1.0
DELIVER_SECONDS = 0.25
STOP_SECONDS = 3.0
# Images may be added to the research bucket later, without an event.
RECOUNT_SECONDS = 60.0
ANCHOR_SECONDS = 60.0
MOVE_AGAIN_SECONDS = 60.0
LOOK_SECONDS, LOOK_AGAIN_SECONDS = 60.0, 5.0

_log = logging.getLogger(__name__)


class Jobs:
    """The jobs of one worklist; each round does what is due."""

    def __init__(
        self,
        database: Database,
        storage: Storage,
        settings: Settings,
        *,
        notifier: Notifier,
        courier: Courier,
        restoration: Restoration | None = None,
        losses: Losses | None = None,
    ) -> None:
        self._database = database
        self._storage = storage
        self._settings = settings
        self._notifier = notifier
        self._courier = courier
        self._keeper = Keeper(database, storage, settings.results_bucket, courier.destinations)
        self._restoration = restoration or Restoration()
        self._losses, self._look_due = losses or Losses(), 0.0
        self._images = ImageRenderer(storage, settings)
        self._former, self._move_due = FormerCaptures(storage, settings), 0.0
        self._stopping = asyncio.Event()
        self._unsure, self._recount = -1, 0.0
        self._anchored, self._anchor = 0, 0.0

    async def run(self) -> None:
        """Run rounds until stopped; notices and deliveries do not wait for the store."""
        looked = (self.restore, self.look_for_losses)
        stored = (
            self.save_readings,
            self.save_captures,
            self.keep_deliveries,
            self.count_deidentified,
            self.anchor_audit,
        )
        delivered = self._repeat(self.deliver_results, every=DELIVER_SECONDS)
        moved = self._repeat(self.move_former_captures)
        await asyncio.gather(
            self._repeat(self.send_notices), delivered, self._repeat(*stored), self._repeat(*looked), moved
        )
        stopping = (run_in_threadpool(part, STOP_SECONDS) for part in (self._notifier.join, self._courier.stop))
        await asyncio.gather(*stopping)

    async def _repeat(self, *jobs: Callable[[], None], every: float = EVERY_SECONDS) -> None:
        while not self._stopping.is_set():
            for job in jobs:
                await run_in_threadpool(_attempt, job)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), every)

    def stop(self) -> None:
        """Stop after the current round, so that no notice is left half sent."""
        self._stopping.set()

    def send_notices(self) -> None:
        """Start sending due notices, and escalate those that were not acknowledged in time."""
        self._notifier.send_due()

    def deliver_results(self) -> None:
        """Start delivering due results to other systems, once it is known what they have had."""
        if not self._restoration.needed:
            self._courier.deliver_due()

    def keep_deliveries(self) -> None:
        """Keep in S3 what was delivered."""
        if self._restoration.needed:
            return
        try:
            self._keeper.keep()
        except Unavailable:
            raise
        except LunglineError:  # nobody has made the bucket yet
            return

    def restore(self) -> None:
        """Restore the list of an empty database from the store."""
        try:
            done = self._restoration.restore(self._database, self._storage, self._settings)
        except Unavailable:
            raise
        except LunglineError:  # nobody has made the bucket yet
            return
        if done:
            detail = f"{count(done.added, 'result')}, {count(done.readings, 'reading')}"
            if done.delivered or done.due:
                detail += f", {count(done.delivered, 'delivery', 'deliveries')} made before, {done.due} due"
            _log.warning("The database was empty; restored from the store: %s.", detail)
            with self._database.writing() as session:
                audit.record(session, "the worklist", "none", "restored", detail=detail)

    def look_for_losses(self) -> None:
        """Look once a minute whether the store still has what the list shows."""
        if time.monotonic() < self._look_due:
            return
        self._look_due = time.monotonic() + LOOK_AGAIN_SECONDS
        before = self._losses.sentence
        self._losses.look(self._database, self._storage, self._settings.results_bucket, self._settings.home)
        self._look_due = time.monotonic() + LOOK_SECONDS
        if self._losses.sentence != before:
            _log.warning("%s", self._losses.sentence or "The store has what the list shows again.")

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
        """Store results of DICOM uploads as DICOM files, which name the patient, in the patients bucket."""
        with self._database.reading() as session:
            bodies = session.scalars(select(ResultRow.body).where(ResultRow.capture == 1).limit(20)).all()
        for record in map(ResultRecord.model_validate_json, bodies):
            error = self._save_capture(record)
            with self._database.writing() as session:
                done = {"capture": 0, "capture_error": error}
                session.execute(update(ResultRow).where(ResultRow.id == record.id).values(**done))

    def move_former_captures(self) -> None:
        """Move DICOM files that earlier versions stored in the results bucket; after a failure go on in a minute."""
        if time.monotonic() < self._move_due:
            return
        self._move_due = time.monotonic() + MOVE_AGAIN_SECONDS
        done = self._former.move_some()
        self._move_due = time.monotonic() + AGAIN_SECONDS if done else 0.0

    def count_deidentified(self) -> None:
        """Count the images in the research bucket after each new unsure result, and once a minute."""
        with self._database.reading() as session:
            unsure = entries.count_unsure(session)
        if unsure == self._unsure and time.monotonic() < self._recount:
            return
        self._unsure, self._recount = unsure, time.monotonic() + RECOUNT_SECONDS
        images = counters.count_research(self._storage, self._settings)
        with self._database.writing() as session:
            counters.save_research_count(session, images)

    def anchor_audit(self) -> None:
        """Keep the hash of the audit log's last entry in the store, once a minute when there are new entries."""
        if time.monotonic() < self._anchor:
            return
        with self._database.reading() as session:
            head = audit.head(session)
        if head and head.number != self._anchored:
            audit.save_anchor(self._storage, self._settings.results_bucket, head)
            self._anchored, self._anchor = head.number, time.monotonic() + ANCHOR_SECONDS

    def _save_capture(self, record: ResultRecord) -> str | None:
        """Store the DICOM file of a result; return why there cannot be one, which retrying would not change."""
        try:
            with instances_of(record, self._images) as made:
                data = made.capture()
        except (ObjectGone, DataError) as exc:
            _log.warning("Upload %s gets no DICOM result: %s", record.upload.identity, exc)
            return str(exc)
        except Unavailable:
            raise
        except Exception as exc:  # noqa: BLE001 - headers of scanners hold anything; one must not stop all others
            _log.warning("Upload %s gets no DICOM result: %s", record.upload.identity, type(exc).__name__)
            return f"The file could not be written ({type(exc).__name__})."
        bucket = self._settings.patients_bucket
        self._storage.put_if_absent(bucket, capture_key(record), data, "application/dicom")
        return None


def _attempt(job: Callable[[], None]) -> None:
    try:
        job()
    except LunglineError as exc:
        _log.warning("%s is retried: %s", job.__name__, exc)
    except Exception as exc:  # noqa: BLE001 - the loop must live: a job that fails once must not end all others
        _log.warning("%s is retried: %s", job.__name__, type(exc).__name__)
