"""The trigger: posts each record of the uploads topic to the predictor, as Knative's KafkaSource would.

Each result and each dead letter goes to the worklist. Every route has its own dispatcher, retries and offsets, so that
none waits for another. `lungline replay` delivers dead letters again.
"""

import argparse
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from eventing.metrics import expose
from eventing.producer import Outbox
from eventing.routes import RetryPolicy, routes, trigger_name
from eventing.subscription import Subscription
from lungline import program
from lungline.home import Home
from lungline.service_state import HEARTBEAT_SECONDS, State, write_state
from lungline.settings import Settings

POLL_SECONDS = 0.1
# For how long results wait for others under high load: they are saved already, and pages gather them as well.
GATHERING_MILLISECONDS = 150
# Nobody waits for second opinions; each write costs the broker as much as one of fifty.
OPINIONS_MILLISECONDS = 1000
# How often counters are saved while they change; a state is saved at once.
COUNTERS_SECONDS = 0.5


class Trigger:
    """Delivers records; `run` until `stop`, which another thread or a signal handler calls."""

    def __init__(
        self,
        home: Home,
        settings: Settings,
        worklist: str | None = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        *,
        plain_predictor: bool = False,
    ) -> None:
        self._home = home
        self._name = trigger_name(settings)
        self._stopping = threading.Event()
        self._ended = threading.Event()
        waits = (GATHERING_MILLISECONDS, 0) if settings.purpose == "answer" else (OPINIONS_MILLISECONDS,) * 2
        self._outbox = Outbox(settings, *waits)
        planned = routes(settings, worklist, retry, plain_predictor=plain_predictor)
        self._subscriptions = [Subscription(settings, route, self._outbox, self._stopping) for route in planned]
        self._fault: Exception | None = None

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """Its routes at work."""
        return tuple(self._subscriptions)

    def run(self) -> None:
        """Deliver until `stop`; then finish what is in flight and commit."""
        readers = self._start([subscription.run for subscription in self._subscriptions])
        retries = [subscription.dispatcher.run_retries for subscription in self._subscriptions]
        helpers = self._start([self._serve_outbox, self._report, *retries])
        for thread in readers:
            thread.join()
        self._ended.set()
        for thread in helpers:
            thread.join()
        if self._fault:
            raise self._fault

    def stop(self) -> None:
        """End `run` soon."""
        self._stopping.set()

    def _start(self, tasks: list[Callable[[], None]]) -> list[threading.Thread]:
        threads = [threading.Thread(target=self._guard, args=(task,)) for task in tasks]
        for thread in threads:
            thread.start()
        return threads

    def _guard(self, task: Callable[[], None]) -> None:
        """Run a thread's task; its fault ends `run`, because the trigger would be alive and do nothing."""
        try:
            task()
        except Exception as exc:  # noqa: BLE001 - raised again by `run`
            self._fault = exc
            self._stopping.set()

    def _serve_outbox(self) -> None:
        """Serve the broker's acknowledgements until the last subscription has ended."""
        while not self._ended.is_set():
            self._outbox.serve(POLL_SECONDS)

    def _report(self) -> None:
        """Save the state of the first route, that of uploads, when it changes, and as a heartbeat.

        Only of that route: without the worklist, uploads are still predicted. A full disk ends nothing.
        """
        saved: Any = None
        saved_at = -math.inf
        uploads = self._subscriptions[0]
        while not self._stopping.is_set():
            state: State = "ready" if uploads.is_ready else "waiting"
            counts = uploads.dispatcher.counts | {"held": uploads.held, "mended": uploads.mended}
            age = time.monotonic() - saved_at
            is_due = counts != (saved and saved[1]) and age > COUNTERS_SECONDS
            if state != (saved and saved[0]) or is_due or age > HEARTBEAT_SECONDS:
                written = write_state(self._home, self._name, state, **counts)
                saved, saved_at = ((state, counts), time.monotonic()) if written else (None, saved_at)
            self._stopping.wait(POLL_SECONDS if saved else HEARTBEAT_SECONDS)


_COUNTERS = {
    "delivered": ("lungline_deliveries", "Records that their receiver has accepted."),
    "retried": ("lungline_retries", "Failed delivery attempts that are made again."),
    "unproved": ("lungline_unproved_answers", "Answers that another program may have given; none was believed."),
    "dead_letters": ("lungline_dead_letters", "Records that could not be delivered, refused images among them."),
}


class TriggerCollector(Collector):
    """The routes' metrics, read when Prometheus scrapes: counting does not slow deliveries down."""

    def __init__(self, subscriptions: Sequence[Subscription]) -> None:
        self._subscriptions = subscriptions

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """The metrics now."""
        for counter, (name, text) in _COUNTERS.items():
            family = CounterMetricFamily(name, text, labels=["route"])
            for subscription in self._subscriptions:
                family.add_metric([subscription.route.name], subscription.dispatcher.counts[counter])
            yield family
        mended = CounterMetricFamily(
            "lungline_offsets_mended", "Positions beyond the end of a topic that were given up.", labels=["route"]
        )
        held = GaugeMetricFamily("lungline_held_records", "Records read and not done.", labels=["route"])
        ready = GaugeMetricFamily("lungline_receiver_ready", "Whether a receiver accepts records.", labels=["route"])
        lag = GaugeMetricFamily(
            "lungline_consumer_lag_records", "Records of a topic that are not done.", labels=["topic", "group"]
        )
        for subscription in self._subscriptions:
            route = subscription.route
            mended.add_metric([route.name], subscription.mended)
            held.add_metric([route.name], subscription.held)
            ready.add_metric([route.name], subscription.is_ready)
            lag.add_metric([route.topic, route.group], subscription.lag())
        yield from (mended, held, ready, lag)


def main(settings: Settings) -> None:
    """Run a trigger until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m eventing.trigger", description="Kafka records to HTTP sinks.")
    parser.add_argument("--worklist", help="address of the worklist; without one, results go nowhere")
    parser.add_argument("--metrics_port", type=int, help="port for Prometheus; none by default")
    plain = "the predictor is another's: it has not the key of events, and its answers are believed"
    parser.add_argument("--plain_predictor", action="store_true", help=plain)
    arguments = parser.parse_args()
    home = Home.make(settings.home)
    trigger = Trigger(home, settings, arguments.worklist, plain_predictor=arguments.plain_predictor)
    expose(arguments.metrics_port, TriggerCollector(trigger.subscriptions))
    program.stop_on_sigterm(trigger.stop)
    trigger.run()


if __name__ == "__main__":
    program.run("trigger", main)
