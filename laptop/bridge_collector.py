"""The bridge's figures for Prometheus."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from laptop.bridge import Bridge


class BridgeCollector(Collector):
    """Asks the bridge when Prometheus asks: its work is not slowed down by counting."""

    def __init__(self, bridge: "Bridge") -> None:
        self._bridge = bridge

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """The bridge's figures now."""
        bridge = self._bridge
        # It goes on after a restart where it was: its note in the home folder holds it.
        yield CounterMetricFamily("lungline_uploads", "Uploads that were told to Kafka.", bridge.delivered)
        yield GaugeMetricFamily("lungline_bridge_ready", "Whether the bridge follows the store.", bridge.is_ready)
        yield GaugeMetricFamily("lungline_bridge_pending_uploads", "Uploads that Kafka does not have.", bridge.pending)
        last = GaugeMetricFamily("lungline_last_upload_timestamp_seconds", "When the last upload was stored.")
        if moment := bridge.last_upload:
            last.add_metric([], moment)
        yield last
