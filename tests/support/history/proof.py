"""The history of a running stack: what its actors wrote and what it kept, held against all rules."""

import sqlite3
import time
from collections.abc import Sequence

from lungline.errors import LunglineError
from lungline.settings import Settings
from tests.support.history.checker import Verdict, check
from tests.support.history.operations import History, Journal, Operation
from tests.support.history.traces import traces
from tests.support.history.witness import Witness

SETTLE_SECONDS = 120.0


def prove(settings: Settings, journal: Journal, topics: Witness, seconds: float = SETTLE_SECONDS) -> Verdict:
    """Check until all rules hold, at most for some seconds: what is on its way may arrive, what is wrong stays so."""
    deadline = time.monotonic() + seconds
    while True:
        operations = _traces(settings) if topics.catch_up() else None
        if operations is not None:
            verdict = check(History([*journal.operations, *operations]))
            if verdict.holds or time.monotonic() > deadline:
                return verdict
        assert time.monotonic() < deadline + seconds, "the stack does not tell its history"
        time.sleep(0.5)


def _traces(settings: Settings) -> Sequence[Operation] | None:
    """None while a part of the stack is not ready."""
    try:
        return traces(settings)
    except (sqlite3.OperationalError, LunglineError):
        return None
