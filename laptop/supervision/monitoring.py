"""Runs the monitoring of production data every `monitor.interval_minutes`.

Each run is a process of its own at low priority, so that its memory is freed and no upload waits for it.
"""

import logging
import sys
import threading

from laptop.services.process import Process
from laptop.services.service import Command, base_environment, settings_environment
from lungline.errors import LunglineError
from lungline.home import Home
from lungline.settings import Settings

# The first run, once the stack has settled; then every `monitor.interval_minutes`.
FIRST_SECONDS = 300.0
POLL_SECONDS = 0.2
STOP_SECONDS = 2.0

log = logging.getLogger("lungline.monitoring")


class Monitoring:
    """A thread that starts one monitoring run after another; it ends with the supervisor."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self._home = home
        self._settings = settings
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitoring", daemon=True)

    def start(self) -> None:
        """Start, unless the settings turn it off."""
        if self._settings.monitor.interval_minutes:
            self._thread.start()

    def stop(self) -> None:
        """Stop, together with a run in progress."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(2 * STOP_SECONDS)

    def _run(self) -> None:
        pause = min(FIRST_SECONDS, 60 * self._settings.monitor.interval_minutes)
        while not self._stopping.wait(pause):
            pause = 60 * self._settings.monitor.interval_minutes
            try:
                self._run_once()
            except LunglineError as exc:
                log.warning("Monitoring failed: %s", exc)
            except Exception:
                log.exception("Monitoring failed.")

    def _run_once(self) -> None:
        argv = (sys.executable, "-P", "-m", "laptop.retraining")
        command = Command(argv, base_environment() | settings_environment(self._settings), self._home.path)
        with self._home.log("monitoring").open("wb") as output:
            process = Process(command, output.fileno())
            # It polls instead of waiting, because the process must end with us, even during a training run.
            while process.exit_code is None and not self._stopping.wait(POLL_SECONDS):
                pass
        code = process.stop(STOP_SECONDS)
        if code and not self._stopping.is_set():
            log.warning("Monitoring failed; see %s.", self._home.log("monitoring"))
