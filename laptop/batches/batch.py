"""`lungline import`: opens a batch, uploads it to the stack or to the store that the settings name, gets its labels."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

from laptop import stack, uploads
from laptop.batches.importing import Import, Pace, Row, Target
from laptop.batches.journal import Journal
from laptop.batches.results import await_results
from laptop.batches.sources import opened
from lungline.errors import LunglineError
from lungline.home import Home
from lungline.imaging.image import Limits
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Batch:
    """What to import, and how."""

    source: str
    rate: float = 5.0
    """Uploads a second."""
    dry_run: bool = False
    again: bool = False


def import_batch(settings: Settings, batch: Batch, on_progress: OnProgress) -> list[Row]:
    """Upload the images of a batch that are not in the bucket yet; returns what became of each file.

    Raises LunglineError: the source cannot be listed, no stack runs, the store refuses or stays away.
    """
    storage = _store(settings)
    target = Target(storage, settings.uploads_bucket, Limits.from_settings(settings))
    with closing(storage), opened(batch.source, _connected(settings)) as entries:
        if not entries:
            raise LunglineError("There is no file to upload.")
        place = f"{settings.s3_endpoint or 'own'}\n{settings.uploads_bucket}"
        with closing(Journal(Home.make(settings.home).file("imports", "journal.db"), place)) as journal:
            importing = Import(target, journal, Pace(batch.rate), batch.dry_run, batch.again)
            return importing.run(entries, lambda _, done: on_progress(done, len(entries)))


def labels(settings: Settings, rows: Sequence[Row], on_progress: OnProgress) -> dict[str, ResultRecord]:
    """The results of a batch by key, once all are there. Raises StackError when they do not come."""
    total = len({row.key for row in rows if row.key})

    def check(waiting: int) -> None:
        if settings.deployment != "cluster":
            uploads.require_disk(settings)
            uploads.require_model(settings, waiting)

    return await_results(_connected(settings), rows, lambda done: on_progress(done, total), check)


def _connected(settings: Settings) -> Settings:
    return settings if settings.deployment == "cluster" else stack.connect(settings)


def _store(settings: Settings) -> Storage:
    return Storage.from_settings(settings) if settings.deployment == "cluster" else uploads.scanner(settings)
