"""Copies of unsure images for research, made after the answer was given, by one thread.

Online there is only a note, which `lungline reconcile` works off where this process cannot.
"""

import logging
import queue
import threading

from lungline.deidentification import research
from lungline.errors import LunglineError
from lungline.imaging.image import Limits
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.objects import StoredObject
from lungline.storage.s3 import Storage

_MOST_WAITING = 1000
# Of images that wait in memory; the others are read again.
_MOST_BYTES = 8 * 2**20

_log = logging.getLogger(__name__)


class BackgroundCopies:
    """Keeps unsure images one after the other; `limits` has the memory that it shares with predictions."""

    def __init__(self, storage: Storage, settings: Settings, limits: Limits) -> None:
        self._storage = storage
        self._settings = settings
        self._limits = limits
        self._waiting: queue.Queue[tuple[ResultRecord, bytes | None]] = queue.Queue(_MOST_WAITING)
        self._room = _MOST_BYTES
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="research", daemon=True)

    def start(self) -> None:
        """Begin; the thread ends with the process, and what it has not done is noted."""
        self._thread.start()

    def later(self, record: ResultRecord, stored: StoredObject) -> None:
        """Note that the image of a record is to be kept, and keep it when its turn comes; never raises."""
        try:
            research.owe(record, self._storage, self._settings)
        except LunglineError as exc:
            _log.warning("An unsure image was not kept for research: %s (upload %s)", exc, record.upload.identity)
            return
        data = stored.data if self._take(len(stored.data)) else None
        try:
            self._waiting.put_nowait((record, data))
        except queue.Full:  # the note stays
            self._give_back(data)

    def join(self) -> None:
        """Wait until nothing waits."""
        self._waiting.join()

    def _run(self) -> None:
        while True:
            record, data = self._waiting.get()
            try:
                research.settle(record, self._storage, self._settings, self._limits, data)
            except LunglineError as exc:
                _log.warning("A note about an unsure image stays: %s (upload %s)", exc, record.upload.identity)
            except Exception as exc:  # noqa: BLE001 - nothing may end this thread; a message could quote the image
                _log.error("An unsure image was not kept: %s (upload %s)", type(exc).__name__, record.upload.identity)
            finally:
                self._give_back(data)
                self._waiting.task_done()

    def _take(self, size: int) -> bool:
        """Whether there is room for an image in memory, which is then taken."""
        with self._lock:
            if size > self._room:
                return False
            self._room -= size
            return True

    def _give_back(self, data: bytes | None) -> None:
        with self._lock:
            self._room += len(data or b"")
