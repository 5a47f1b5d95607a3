"""The trigger: each record of the uploads topic goes to the predictor, as Knative's KafkaSource would send it.

Beside it, each result and each dead letter goes to the worklist. Every route has its own courier, its own retries and
its own progress, so that none waits for another. `lungline replay` delivers dead letters again.
"""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laptop.exposition import expose
from laptop.home import Home
from laptop.notes import leave_note, noted_state
from laptop.outbox import Outbox
from laptop.part import Command, State, base_environment, settings_environment
from laptop.process import running
from laptop.route import routes
from laptop.subscription import Subscription
from laptop.trigger_collector import TriggerCollector
from lungline import logs, tracing
from lungline.errors import LunglineError
from lungline.settings import Settings, load_settings

POLL_SECONDS = 0.1

log = logging.getLogger("lungline.trigger")


@dataclass(frozen=True)
class TriggerPart:
    """The trigger as a part of the stack; `settings` name broker and predictor, `worklist` is that one's address."""

    home: Home
    settings: Settings
    worklist: str | None = None

    name = "trigger"
    address = None
    after = ()  # it waits for broker, predictor and worklist by itself
    grace = 5.0
    watched = True

    def command(self) -> Command:
        """How to start it."""
        env = base_environment() | settings_environment(self.settings)
        argv = (sys.executable, "-P", "-m", "laptop.trigger", *([self.worklist] if self.worklist else []))
        return Command(argv, env, self.home.path)

    def probe(self, pid: int) -> State:
        """What it has noted of itself."""
        return noted_state(self.home, self.name, pid)

    def tend(self) -> None:
        """Nothing to do."""


@contextmanager
def running_trigger(home: Path, settings: Settings, worklist: str | None = None) -> Iterator[None]:
    """A trigger alone, between a broker, a predictor and perhaps a worklist."""
    made = Home.make(home)
    part = TriggerPart(made, settings, worklist)
    with running(part, made.log(part.name)):
        yield


class Trigger:
    """Delivers records; `run` until `stop`, from another thread or a signal handler."""

    def __init__(self, home: Home, settings: Settings, worklist: str | None = None) -> None:
        self._home = home
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._outbox = Outbox(settings)
        ways = routes(settings, worklist)
        self._subscriptions = [Subscription(settings, way, self._outbox, self._stopping) for way in ways]
        self._fault: Exception | None = None

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """Its routes at work."""
        return tuple(self._subscriptions)

    def run(self) -> None:
        """Deliver until `stop`; then finish what is in flight and commit."""
        ours = self._subscriptions
        ends = self._begin([one.run for one in ours])
        others = self._begin([self._serve, self._keep_notes, *(one.courier.repeat for one in ours)])
        for thread in ends:
            thread.join()
        self._ended.set()
        for thread in others:
            thread.join()
        if self._fault:
            raise self._fault

    def stop(self) -> None:
        """End `run` soon."""
        self._stopping.set()

    def _begin(self, work: list[Callable[[], None]]) -> list[threading.Thread]:
        threads = [threading.Thread(target=self._guarded, args=(one,)) for one in work]
        for thread in threads:
            thread.start()
        return threads

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run a thread's work; without it the trigger would be there and do nothing, so its fault ends `run`."""
        try:
            work()
        except Exception as exc:  # noqa: BLE001 - raised again by `run`
            self._fault = exc
            self._stopping.set()

    def _serve(self) -> None:
        """Pass on what the broker answers, to the last."""
        while not self._ended.is_set():
            self._outbox.serve(POLL_SECONDS)

    def _keep_notes(self) -> None:
        noted: Any = None
        judging = self._subscriptions[0]
        while not self._stopping.is_set():
            # That the worklist is away is the worklist's own state: uploads go on.
            state: State = "ready" if judging.is_ready else "waiting"
            counts = judging.courier.counts | {"held": judging.held}
            if (state, counts) != noted:
                leave_note(self._home, "trigger", state, **counts)
                noted = (state, counts)
            self._stopping.wait(POLL_SECONDS)


def main() -> None:
    """Run a trigger until SIGTERM; its one argument, if there is one, is the worklist's address."""
    settings = load_settings()
    logs.configure(settings.log_format)
    tracing.configure(settings, "trigger")
    home = Home.make(settings.home)
    trigger = Trigger(home, settings, sys.argv[1] if len(sys.argv) > 1 else None)
    expose(home, "trigger", TriggerCollector(trigger.subscriptions))
    signal.signal(signal.SIGTERM, lambda *_: trigger.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the supervisor, which decides who ends when
    trigger.run()


if __name__ == "__main__":
    try:
        main()
    except LunglineError as exc:
        log.error("%s", exc)  # noqa: TRY400 - the sentence says it; a traceback would not add to it
        sys.exit(1)
