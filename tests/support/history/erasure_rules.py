"""Erasure: of an upload that was erased nothing is left, whatever was at work on it."""

from collections.abc import Iterator

from tests.support.history.operations import History
from tests.support.history.violation import Violation, short

KEPT = (
    "store object",
    "store file",
    "store reading",
    "predictor record",
    "worklist result",
    "worklist entry",
    "worklist notice",
    "worklist reading",
    "worklist opinion",
)
"""What a stack keeps of an upload. Its audit log goes on naming uploads, by identity."""


def erased_uploads_have_nothing_left(history: History) -> Iterator[Violation]:
    """Once the erasure was confirmed."""
    erased = {erase.subject: erase for erase in history.of("officer erase") if erase.outcome == "ok"}
    for name in KEPT:
        for left in history.of(name):
            if erase := erased.get(left.subject):
                yield Violation(f"Upload {short(left.subject)} was erased, and a {name} is left", (erase, left))


def without_erased(history: History) -> History:
    """A history without the uploads that were erased, or may have been: other rules are about what is to stay."""
    return history.without({erase.subject for erase in history.of("officer erase") if erase.may_have_happened})


RULES = (erased_uploads_have_nothing_left,)
