"""Jobs that rest while nothing changes: a worklist on which nothing happens does next to nothing.

A job returns for how many seconds it has nothing to do unless something is committed. It rests for so long, and is
woken by a commit of any process; where the database cannot tell of commits, it never rests.
"""

import time
from collections.abc import Callable

from worklist.database.session import Database

MOST_SECONDS = 5.0
"""Clocks may be set, and stand still while a laptop sleeps."""


class Resting:
    """A job with its rests; for one thread at a time."""

    def __init__(self, database: Database, job: Callable[[], float]) -> None:
        self.__name__ = job.__name__
        self._database = database
        self._job = job
        self._version: int | None = None
        self._until = 0.0

    def __call__(self) -> None:
        """Do the job unless it rests."""
        # Before the job: what is committed while it runs, by itself too, wakes it.
        version = self._database.version()
        if version is not None and version == self._version and time.monotonic() < self._until:
            return
        self._version = None  # an error is no rest
        seconds = self._job()
        self._version, self._until = version, time.monotonic() + min(seconds, MOST_SECONDS)
