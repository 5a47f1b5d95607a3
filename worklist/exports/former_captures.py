"""Secondary Captures where earlier versions kept them, in the results bucket, and their move into the patients bucket.

They name the patient, and whoever may read results could read them there. The worklist looks through the results bucket
when it starts and once a day, a little at a time, and moves what it meets. So none stays behind after an upgrade, while
an earlier version still runs beside this one, after an interrupted move or a restored backup; and nothing has to be
remembered.
"""

import logging
import re
import time

from lungline.errors import ObjectGone
from lungline.results.records import PREFIX
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from lungline.wording import count
from worklist.exports.secondary_capture import CAPTURES

ROUND_SECONDS = 0.25
AGAIN_SECONDS = 86_400.0
_FORMER = re.compile(rf"{PREFIX}(?P<rest>[0-9a-f]{{2}}/[0-9a-f]{{32}}/[^/]+\.dcm)")

_log = logging.getLogger(__name__)


class FormerCaptures:
    """The move, which goes through the whole bucket in rounds."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage = storage
        self._results, self._patients = settings.results_bucket, settings.patients_bucket
        self._after: str | None = None
        self._moved = 0

    def move_some(self, seconds: float = ROUND_SECONDS) -> bool:
        """Go on for about this long; returns whether the end was reached, after which the next call begins anew.

        Raises StorageUnavailable; the next call goes on where this one stopped.
        """
        until = time.monotonic() + seconds
        for info in self._storage.list(self._results, PREFIX, start_after=self._after):
            if former := _FORMER.fullmatch(info.key):
                self._move(info.key, CAPTURES + former["rest"])
            self._after = info.key
            if time.monotonic() > until:
                return False
        if self._moved:
            _log.warning("%s moved from the results bucket to the patients bucket.", count(self._moved, "DICOM result"))
        self._after, self._moved = None, 0
        return True

    def _move(self, former: str, key: str) -> None:
        try:
            data = self._storage.get(self._results, former).data
        except ObjectGone:
            return
        # One that is there already was made of the same result, or by a move that did not come to its end.
        self._storage.put_if_absent(self._patients, key, data, "application/dicom")
        self._storage.delete(self._results, former)
        self._moved += 1
