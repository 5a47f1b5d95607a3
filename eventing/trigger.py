"""The trigger: each record of the uploads topic goes to the predictor, as Knative's KafkaSource would send it.

Beside it, each result and each dead letter goes to the worklist. Every route has a dispatcher, retries and offsets of
its own, so that none waits for another. `lungline replay` delivers dead letters again.
"""

import argparse
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from eventing.metrics import expose
from eventing.producer import Outbox
from eventing.routes import routes
from eventing.state import State, write_state
from eventing.subscription import Subscription
from lungline import program
from lungline.home import Home
from lungline.settings import Settings

_COUNTERS = {
    "delivered": ("lungline_deliveries", "Records that their receiver has taken."),
    "retried": ("lungline_retries", "Attempts that are to be made again."),
    "dead_letters": ("lungline_dead_letters", "Records that nobody took, refused images among them."),
}


class TriggerCollector(Collector):
    """Asks each route when Prometheus asks: deliveries are not slowed down by counting."""

    def __init__(self, subscriptions: Sequence[Subscription]) -> None:
        self._subscriptions = subscriptions

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """The routes' figures now."""
        for what, (name, text) in _COUNTERS.items():
            family = CounterMetricFamily(name, text, labels=["route"])
            for one in self._subscriptions:
                family.add_metric([one.route.name], one.dispatcher.counts[what])
            yield family
        held = GaugeMetricFamily("lungline_held_records", "Records taken and not done.", labels=["route"])
        ready = GaugeMetricFamily("lungline_receiver_ready", "Whether a receiver takes records.", labels=["route"])
        lag = GaugeMetricFamily(
            "lungline_consumer_lag_records", "Records of a topic that are not done.", labels=["topic", "group"]
        )
        for one in self._subscriptions:
            held.add_metric([one.route.name], one.held)
            ready.add_metric([one.route.name], one.is_ready)
            lag.add_metric([one.route.topic, one.route.group], one.lag())
        yield from (held, ready, lag)


POLL_SECONDS = 0.1


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
        others = self._begin([self._serve, self._keep_notes, *(one.dispatcher.retry_due for one in ours)])
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
            counts = judging.dispatcher.counts | {"held": judging.held}
            if (state, counts) != noted:
                write_state(self._home, "trigger", state, **counts)
                noted = (state, counts)
            self._stopping.wait(POLL_SECONDS)


def main(settings: Settings) -> None:
    """Run a trigger until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m eventing.trigger", description="Kafka records to HTTP sinks.")
    parser.add_argument("--worklist", help="address of the worklist; results go nowhere without one")
    parser.add_argument("--metrics_port", type=int, help="port to answer Prometheus on; none by default")
    arguments = parser.parse_args()
    trigger = Trigger(Home.make(settings.home), settings, arguments.worklist)
    expose(arguments.metrics_port, TriggerCollector(trigger.subscriptions))
    program.stop_on_sigterm(trigger.stop)
    trigger.run()


if __name__ == "__main__":
    program.run("trigger", main)
