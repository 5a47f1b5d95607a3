"""Looks at the field by itself, now and then.

Each look is a process of its own at low priority: what it takes of memory it gives back, and no upload waits for it.
"""

import logging
import sys
import threading

from laptop.services.process import Process
from laptop.services.service import Command, base_environment, settings_environment
from lungline.errors import LunglineError
from lungline.home import Home
from lungline.settings import Settings

# Once the stack has settled; then every `monitor.minutes`.
FIRST_SECONDS = 300.0
LOOK_SECONDS = 0.2
STOP_SECONDS = 2.0

log = logging.getLogger("lungline.monitoring")


class Monitoring:
    """A thread that starts look after look, and waits for each; it ends with the supervisor."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self._home = home
        self._settings = settings
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitoring", daemon=True)

    def start(self) -> None:
        """Begin, unless the settings turn it off."""
        if self._settings.monitor.minutes:
            self._thread.start()

    def stop(self) -> None:
        """End, with the look that is under way."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(2 * STOP_SECONDS)

    def _run(self) -> None:
        pause = min(FIRST_SECONDS, 60 * self._settings.monitor.minutes)
        while not self._stopping.wait(pause):
            pause = 60 * self._settings.monitor.minutes
            try:
                self._look()
            except LunglineError as exc:
                log.warning("The field was not looked at: %s", exc)
            except Exception:
                log.exception("The field was not looked at.")

    def _look(self) -> None:
        argv = (sys.executable, "-P", "-m", "laptop.retraining")
        command = Command(argv, base_environment() | settings_environment(self._settings), self._home.path)
        with self._home.log("monitoring").open("wb") as output:
            process = Process(command, output.fileno())
            # Not a mere wait: the process must end with us, in the middle of a training run too.
            while process.exit_code is None and not self._stopping.wait(LOOK_SECONDS):
                pass
        code = process.stop(STOP_SECONDS)
        if code and not self._stopping.is_set():
            log.warning("The field was not looked at; see %s.", self._home.log("monitoring"))
