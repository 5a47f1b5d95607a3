"""How far a stream of numbered things is done when they finish in any order.

Only what is done without a gap may be committed: after a crash everything behind the gap comes again.
"""

import threading
from collections import OrderedDict


class OffsetTracker:
    """Begin things in their order, finish them in any; may be shared by threads.

    Each has a mark, what would be committed for it. Marks may repeat or step back a little; the number that `begin`
    returns tells things apart.
    """

    def __init__(self, done: int) -> None:
        self._done = done
        self._next = 0
        self._begun: OrderedDict[int, int] = OrderedDict()
        self._finished: set[int] = set()
        self._lock = threading.Lock()

    @property
    def done(self) -> int:
        """The highest mark of what is done without a gap."""
        with self._lock:
            return self._done

    @property
    def open(self) -> int:
        """How many have begun and hold the progress up or wait behind one that does."""
        with self._lock:
            return len(self._begun)

    def begin(self, mark: int) -> int:
        """Take note of a thing; its number."""
        with self._lock:
            self._next += 1
            self._begun[self._next] = mark
            return self._next

    def finish(self, number: int) -> None:
        """Take note that a thing is done; one that is done already changes nothing."""
        with self._lock:
            if number in self._begun:
                self._finished.add(number)
            while self._begun and (first := next(iter(self._begun))) in self._finished:
                self._finished.remove(first)
                self._done = max(self._done, self._begun.pop(first))
