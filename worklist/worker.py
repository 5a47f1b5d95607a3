"""A worker: a thread of its own that lives while there is something to do, so that no worker waits for another."""

import threading
from collections.abc import Callable


class Worker:
    """Runs a function in a thread, at most once at a time."""

    def __init__(self, name: str, run: Callable[[], None]) -> None:
        self._name = name
        self._run = run
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Run, unless that is under way."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait until the run has ended, at most this long."""
        if self._thread:
            self._thread.join(seconds)
