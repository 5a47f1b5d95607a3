"""How a long-running program starts and ends: settings, logs, traces, and one sentence for an error."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable

from lungline import logs, tracing
from lungline.errors import LunglineError, SettingsError
from lungline.network import shield_environment
from lungline.settings import Settings, load_settings


def run(name: str, main: Callable[[Settings], None]) -> None:
    """Run `main` with the settings of the environment, its logs on stderr and its traces under `name`.

    A SettingsError becomes one log line and exit code 2, any other LunglineError exit code 1. Other exceptions are bugs
    and keep their traceback.
    """
    try:
        settings = load_settings()
        shield_environment(mlflow_uri=settings.mlflow_uri)
        logs.configure(settings.log_format)
        if settings.purpose != "answer":
            _give_way()
        tracing.configure(settings, name)
        main(settings)
    except LunglineError as exc:
        logging.getLogger(f"lungline.{name}").error("%s", exc)  # noqa: TRY400 - the sentence says it all
        sys.exit(2 if isinstance(exc, SettingsError) else 1)


def _give_way() -> None:
    """Take the processor only when nobody else wants it; the threads that start from now on do the same.

    The lowest priority (`nice`) still takes its turn, for some milliseconds, while a live upload waits.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # not allowed here: the lowest priority must do
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def stop_on_sigterm(stop: Callable[[], None]) -> None:
    """Call `stop` on SIGTERM. Ctrl-C is left to the supervisor, which decides who ends when."""

    def _stop(_number: int, _frame: object) -> None:
        stop()

    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
