"""How far a stream of numbered things is done when they finish in any order.

Only what is done without a gap may be committed: after a crash everything behind the gap comes again.
"""

import threading
from collections import OrderedDict


class Progress:
    """Begin numbers in rising order, finish them in any; may be shared by threads."""

    def __init__(self, done: int) -> None:
        self._done = done
        self._begun: OrderedDict[int, bool] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def done(self) -> int:
        """The highest number below which, and including which, nothing is unfinished."""
        with self._lock:
            return self._done

    @property
    def open(self) -> int:
        """How many numbers have begun and hold the progress up or wait behind one that does."""
        with self._lock:
            return len(self._begun)

    def begin(self, number: int) -> None:
        """Take note of a number."""
        with self._lock:
            self._begun[number] = False

    def finish(self, number: int) -> None:
        """Take note that a number is done; one that has not begun, or is done already, changes nothing."""
        with self._lock:
            if number in self._begun:
                self._begun[number] = True
            while self._begun and next(iter(self._begun.values())):
                self._done, _ = self._begun.popitem(last=False)
