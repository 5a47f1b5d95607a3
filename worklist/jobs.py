"""Background jobs: notices, deliveries, what S3 keeps of both, a lost database from there, lost objects."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence

from sqlalchemy import select, update
from starlette.concurrency import run_in_threadpool

from lungline.errors import DataError, LunglineError, ObjectGone, Unavailable
from lungline.results import returned
from lungline.results.readings import ReadingRecord
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from lungline.wording import count
from worklist.database import audit, counters, entries, erased, readings
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
from worklist.resting import Resting
from worklist.unannounced import Unannounced

EVERY_SECONDS = 1.0
DELIVER_SECONDS = 0.25
STOP_SECONDS = 3.0
# Images may be added to the research bucket later, without an event.
RECOUNT_SECONDS = 60.0
ANCHOR_SECONDS = 60.0
MOVE_AGAIN_SECONDS = 60.0
LOOK_SECONDS, LOOK_AGAIN_SECONDS = 60.0, 5.0

Job = Resting | Callable[[], None]

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
        unannounced: Unannounced | None = None,
    ) -> None:
        self._database = database
        self._storage = storage
        self._settings = settings
        self._notifier = notifier
        self._courier = courier
        self._keeper = Keeper(database, storage, settings.results_bucket, courier.destinations)
        self._restoration = restoration or Restoration()
        self._losses, self._look_due = losses or Losses(), 0.0
        self._unannounced = unannounced
        self._images = ImageRenderer(storage, settings)
        self._former, self._move_due = FormerCaptures(storage, settings), 0.0
        self._stopping = asyncio.Event()
        self._unsure, self._recount = -1, 0.0
        self._anchored, self._anchor = 0, 0.0

    async def run(self) -> None:
        """Run rounds until stopped; notices and deliveries do not wait for the store."""
        looked = (self.restore, self.look_for_losses, self.look_for_unannounced)
        stored = self._resting(
            self.save_readings,
            self.save_captures,
            self.keep_deliveries,
            self.count_deidentified,
            self.anchor_audit,
        )
        noticed, delivered = self._resting(self.send_notices), self._resting(self.deliver_results)
        often = DELIVER_SECONDS if self._courier.destinations else EVERY_SECONDS
        await asyncio.gather(
            self._repeat(*noticed),
            self._repeat(*delivered, every=often),
            self._repeat(*stored, self.move_former_captures),
            self._repeat(*looked),
        )
        stopping = (run_in_threadpool(part, STOP_SECONDS) for part in (self._notifier.join, self._courier.stop))
        await asyncio.gather(*stopping)

    def _resting(self, *jobs: Callable[[], float]) -> list[Resting]:
        return [Resting(self._database, job) for job in jobs]

    async def _repeat(self, *jobs: Job, every: float = EVERY_SECONDS) -> None:
        while not self._stopping.is_set():
            await run_in_threadpool(self._attempt_all, jobs)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), every)

    def _attempt_all(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if not self._stopping.is_set():
                _attempt(job)

    def stop(self) -> None:
        """Stop after the current round, so that no notice is left half sent."""
        self._stopping.set()

    def send_notices(self) -> float:
        """Start sending due notices, and escalate those that were not acknowledged in time."""
        return self._notifier.send_due()

    def deliver_results(self) -> float:
        """Start delivering due results to other systems, once it is known what they have had."""
        return 0.0 if self._restoration.needed else self._courier.deliver_due()

    def keep_deliveries(self) -> float:
        """Keep in S3 what was delivered."""
        if self._restoration.needed:
            return 0.0
        try:
            self._keeper.keep()
        except Unavailable:
            raise
        except LunglineError:  # nobody has made the bucket yet
            return 0.0
        return math.inf

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

    def look_for_unannounced(self) -> None:
        """Look for results that no event has announced, once the list is whole."""
        if self._unannounced and not self._restoration.needed:
            self._unannounced.look_when_due()

    def save_readings(self) -> float:
        """Store new readings in S3."""
        with self._database.reading() as session:
            waiting = readings.unsaved(session)
        saved: list[ReadingRecord] = []
        try:
            for reading in waiting:
                data = reading.model_dump_json().encode()
                self._storage.put_once(self._settings.results_bucket, reading.key, data, "application/json")
                saved.append(reading)
        finally:
            if saved:
                with self._database.writing() as session:
                    readings.mark_saved(session, [reading.id for reading in saved])
                bucket = self._settings.results_bucket
                self._take_back([(reading.identity, bucket, reading.key) for reading in saved])
        return 0.0 if waiting else math.inf

    def save_captures(self) -> float:
        """Store results of DICOM uploads as DICOM files, which name the patient, in the patients bucket."""
        with self._database.reading() as session:
            bodies = session.scalars(select(ResultRow.body).where(ResultRow.capture == 1).limit(20)).all()
        for record in map(ResultRecord.model_validate_json, bodies):
            error = self._save_capture(record)
            with self._database.writing() as session:
                done = {"capture": 0, "capture_error": error}
                session.execute(update(ResultRow).where(ResultRow.id == record.id).values(**done))
            self._take_back([(record.upload.identity, self._settings.patients_bucket, capture_key(record))])
        return 0.0 if bodies else math.inf

    def move_former_captures(self) -> None:
        """Move DICOM files that earlier versions stored in the results bucket; after a failure go on in a minute."""
        if time.monotonic() < self._move_due:
            return
        self._move_due = time.monotonic() + MOVE_AGAIN_SECONDS
        done = self._former.move_some()
        self._move_due = time.monotonic() + AGAIN_SECONDS if done else 0.0

    def count_deidentified(self) -> float:
        """Count the images in the research bucket after each new unsure result, and once a minute."""
        with self._database.reading() as session:
            unsure = entries.count_unsure(session)
        if unsure == self._unsure and (seconds := self._recount - time.monotonic()) > 0:
            return seconds
        self._unsure, self._recount = unsure, time.monotonic() + RECOUNT_SECONDS
        images = counters.count_research(self._storage, self._settings)
        with self._database.writing() as session:
            counters.save_research_count(session, images)
        return RECOUNT_SECONDS

    def anchor_audit(self) -> float:
        """Keep the hash of the audit log's last entry in the store, once a minute when there are new entries."""
        if (seconds := self._anchor - time.monotonic()) > 0:
            return seconds
        with self._database.reading() as session:
            head = audit.head(session)
        if head and head.number != self._anchored:
            audit.save_anchor(self._storage, self._settings.results_bucket, head)
            self._anchored, self._anchor = head.number, time.monotonic() + ANCHOR_SECONDS
        return math.inf

    def _take_back(self, stored: Sequence[tuple[str, str, str]]) -> None:
        """Delete what was just stored of uploads that were erased meanwhile: identity, bucket and key of each."""
        with self._database.reading() as session:
            marked = erased.among(session, (identity for identity, _, _ in stored))
        for identity, bucket, key in stored:
            if identity in marked:
                returned.delete_or_note(self._storage, self._settings.results_bucket, identity, [(bucket, key)])

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
        self._storage.put_once(bucket, capture_key(record), data, "application/dicom")
        return None


def _attempt(job: Job) -> None:
    try:
        job()
    except LunglineError as exc:
        _log.warning("%s is retried: %s", job.__name__, exc)
    except Exception as exc:  # noqa: BLE001 - the loop must live: a job that fails once must not end all others
        _log.warning("%s is retried: %s", job.__name__, type(exc).__name__)
