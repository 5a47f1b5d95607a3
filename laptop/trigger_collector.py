"""The trigger's figures for Prometheus."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from laptop.subscription import Subscription

_COUNTERS = {
    "delivered": ("lungline_deliveries", "Records that their receiver has taken."),
    "retried": ("lungline_retries", "Attempts that are to be made again."),
    "dead_letters": ("lungline_dead_letters", "Records that nobody took, refused images among them."),
}


class TriggerCollector(Collector):
    """Asks each route when Prometheus asks: deliveries are not slowed down by counting."""

    def __init__(self, subscriptions: "Sequence[Subscription]") -> None:
        self._subscriptions = subscriptions

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """The routes' figures now."""
        for what, (name, text) in _COUNTERS.items():
            family = CounterMetricFamily(name, text, labels=["route"])
            for one in self._subscriptions:
                family.add_metric([one.route.name], one.courier.counts[what])
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
