"""Let a version judge old uploads: start its services, send the events, stop them when everything is judged."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from eventing.kafka import REJUDGE_GROUP, REJUDGED_OPINIONS_GROUP
from eventing.rejudge import OnProgress, Rejudged, Wanted, rejudge
from laptop import challengers, stack
from laptop.home.challengers import folder_of
from laptop.stack import OnChange
from laptop.supervision.reconciler import is_handled
from lungline.home import Home
from lungline.package.card import read_card
from lungline.promotion.challenger import challenge, recorded, task_name
from lungline.registry.versions import Registry
from lungline.service_state import number_of, read_state
from lungline.settings import Settings

# While so many live uploads are in work, old ones wait.
MOST_LIVE = 2
# What the worklist has not had by then, it gets with the next back-fill.
SHOWN_SECONDS = 60.0


def rejudge_uploads(
    settings: Settings,
    version: str | None,
    *,
    since: datetime | None,
    until: datetime | None,
    labels: frozenset[str],
    most: int | None,
    rate: float,
    on_progress: OnProgress = lambda _: None,
    on_change: OnChange | None = None,
) -> Rejudged:
    """Let a version, the registry's challenger by default, judge the old uploads that are wanted.

    On a cluster the component `rejudge` judges them. Raises StackError when no stack runs, or another version is at old
    uploads; RegistryError; Unavailable.
    """
    if settings.deployment == "cluster":
        target = Registry(settings).resolve(version)
        challenge(settings, target, "rejudge")
        wanted = Wanted(recorded(settings, target), task_name(settings), since, until, labels, most)
        return rejudge(settings, wanted, rate, on_progress=on_progress)
    challenger = challengers.start(settings, version, "rejudged", on_change)
    connected = stack.connect(settings)
    task = read_card(folder_of(Home(connected.home), "rejudged").champion)[0].task.name
    wanted = Wanted(challenger.recorded, task, since, until, labels, most)
    done = rejudge(connected, wanted, rate, may_send=_is_calm(Home(connected.home)), on_progress=on_progress)
    if done.judged == done.sent:  # else they go on with what is left, and so does the next call
        _await_worklist(connected)
        challengers.stop(settings, "rejudged")
    return done


def _await_worklist(connected: Settings) -> None:
    """Let the worklist have what was said: the trigger that takes it there ends with the challenger."""
    deadline = time.monotonic() + SHOWN_SECONDS
    ways = (connected.rejudge_topic, REJUDGE_GROUP), (connected.rejudged_topic, REJUDGED_OPINIONS_GROUP)
    for topic, group in ways:
        until = datetime.now(UTC)
        while not is_handled(connected, until, topic, group) and time.monotonic() < deadline:
            time.sleep(challengers.POLL_SECONDS)


def _is_calm(home: Home) -> Callable[[], bool]:
    """Whether few live uploads are in work, by what their trigger says."""
    return lambda: number_of(read_state(home, "trigger"), "held") <= MOST_LIVE
