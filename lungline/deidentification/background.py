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
from lungline.storage.s3 import Storage

# Records only: images are read again, so that none waits in memory.
_MOST_WAITING = 1000

_log = logging.getLogger(__name__)


class BackgroundCopies:
    """Keeps unsure images one after the other; `limits` has the memory that it shares with predictions."""

    def __init__(self, storage: Storage, settings: Settings, limits: Limits) -> None:
        self._storage = storage
        self._settings = settings
        self._limits = limits
        self._waiting: queue.Queue[ResultRecord] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="research", daemon=True)

    def start(self) -> None:
        """Begin; the thread ends with the process, and what it has not done is noted."""
        self._thread.start()

    def later(self, record: ResultRecord, _: object = None) -> None:
        """Note that the image of a record is to be kept, and keep it when its turn comes; never raises."""
        try:
            research.owe(record, self._storage, self._settings)
            self._waiting.put_nowait(record)
        except LunglineError as exc:
            _log.warning("An unsure image was not kept for research: %s (upload %s)", exc, record.upload.identity)
        except queue.Full:
            pass  # the note stays

    def join(self) -> None:
        """Wait until nothing waits."""
        self._waiting.join()

    def _run(self) -> None:
        while True:
            record = self._waiting.get()
            try:
                research.settle(record, self._storage, self._settings, self._limits)
            except LunglineError as exc:
                _log.warning("A note about an unsure image stays: %s (upload %s)", exc, record.upload.identity)
            except Exception as exc:  # noqa: BLE001 - nothing may end this thread; a message could quote the image
                _log.error("An unsure image was not kept: %s (upload %s)", type(exc).__name__, record.upload.identity)
            finally:
                self._waiting.task_done()
