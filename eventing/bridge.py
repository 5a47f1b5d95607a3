"""The event bridge: every completed upload in the store's change log becomes one S3 record on the uploads topic.

Its state file holds the position up to which the broker has accepted records, and the bridge resumes there after a
restart. So no upload is lost while the bridge or the broker is down, and a record may be sent twice, which the identity
of uploads makes harmless. Changes are lost only if the store was killed before it wrote them to its log and no bridge
had read them: `lungline reconcile` finds those uploads.
"""

import argparse
import contextlib
import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from eventing.kafka import ensure_topics
from eventing.metrics import expose
from eventing.offsets import OffsetTracker
from eventing.producer import Delivered, Outbox
from eventing.seaweedfs_log import Change, Changes
from eventing.seaweedfs_tls import Certificates
from lungline import bounds, program, tracing
from lungline.errors import ObjectGone, Unavailable
from lungline.events.cloudevents import Headers
from lungline.events.uploads import Upload, kafka_key, minio_record
from lungline.home import Home
from lungline.litter import is_litter
from lungline.service_state import HEARTBEAT_SECONDS, State, number_of, read_state, write_state
from lungline.settings import Settings
from lungline.storage.s3 import Storage

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

POLL_SECONDS = 0.2
# Kafka must take an upload's event within this time, or the bridge is not ready.
ACCEPTED_SECONDS = 12.0
# Where reading resumes when the position saved cannot be: changes since the day before the last save.
LOOK_BACK = timedelta(days=1)
RECENT = 64
MIN_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.05, 1.0

log = logging.getLogger("lungline.bridge")


class Bridge:
    """Follows the change log; `run` until `stop`, which another thread or a signal handler calls."""

    def __init__(self, home: Home, settings: Settings, filer_grpc_port: int) -> None:
        self._home = home
        self._settings = settings
        self._port = filer_grpc_port
        self._storage = Storage.from_settings(settings)
        self._outbox = Outbox(settings)
        saved = read_state(home, "bridge")
        self.mended = 0
        """How many positions that cannot be were given up."""
        self._tracker = OffsetTracker(self._position(saved))
        self._read_until = self._tracker.done
        self._recent: deque[tuple[str, str | None]] = deque(maxlen=RECENT)
        self._delivered = number_of(saved, "delivered")
        self._litter = number_of(saved, "litter")
        self._state: State = "waiting"
        self._fault: Exception | None = None
        self._stuck_at: tuple[int, float] | None = None
        self._refused = threading.Event()
        self._stopping = threading.Event()
        self._changes: Changes | None = None
        self.last_upload: float | None = None
        """When the latest upload that Kafka has was stored, in seconds since 1970."""

    @property
    def delivered(self) -> int:
        """The number of uploads that Kafka has accepted, since the first start in this home."""
        return self._delivered

    @property
    def litter(self) -> int:
        """How many files of operating systems and sync programs were left out, since the first start in this home."""
        return self._litter

    @property
    def pending(self) -> int:
        """How many changes wait for Kafka, or behind one that does."""
        return self._tracker.open

    @property
    def is_ready(self) -> bool:
        """Whether it follows the change log and Kafka takes its records."""
        stuck = self._stuck_at
        return self._state == "ready" and (stuck is None or time.monotonic() - stuck[1] < ACCEPTED_SECONDS)

    def run(self) -> None:
        """Send records until `stop`. Raises what ended the thread that reports, without which it would do nothing."""
        reporter = threading.Thread(target=self._guard, name="report")
        reporter.start()
        try:
            self._follow()
        finally:  # also after a fault: a bridge that only reports would look alive
            self._stopping.set()
            reporter.join()
        self._outbox.flush(2)
        self._save()
        if self._fault:
            raise self._fault

    def stop(self) -> None:
        """End `run` soon.

        The reporting thread closes the change log: a signal interrupts the thread that reads it, perhaps while that
        holds the lock that closing needs.
        """
        self._stopping.set()

    def _follow(self) -> None:
        backoff = MIN_BACKOFF_SECONDS
        while not self._stopping.is_set():
            try:
                changes = self._connect()
                backoff = MIN_BACKOFF_SECONDS
                for change in changes if not self._stopping.is_set() else ():
                    self._send(change)
            except Unavailable as exc:
                self._state = "waiting"
                if not self._stopping.is_set():
                    log.warning("%s Trying again.", exc)
            self._stopping.wait(backoff)
            backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)

    def _connect(self) -> Changes:
        ensure_topics(self._settings, [self._settings.uploads_topic])
        if self._refused.is_set():
            # Read again from the last position that Kafka has.
            self._outbox.clear()
            self._tracker = OffsetTracker(self._tracker.done)
            self._read_until = self._tracker.done
            self._recent.clear()
            self._refused.clear()
        self._follow_clock()
        certificates = Certificates.of(self._home.file("store", "config"))
        self._changes = Changes(self._port, certificates, self._settings.uploads_bucket, self._read_until)
        self._state = "ready"
        log.info("Following the changes in bucket %s.", self._settings.uploads_bucket)
        return self._changes

    def _follow_clock(self) -> None:
        """Step back with a clock that was set back: a store that has started since writes moments before ours."""
        now = time.time_ns()
        if self._read_until > now:
            self._read_until = now
            self._tracker = OffsetTracker(min(self._tracker.done, now))

    def _send(self, change: Change) -> None:
        self._read_until = max(self._read_until, change.moment)
        tracker = self._tracker
        ticket = tracker.begin(change.moment)
        upload = change.upload and self._unless_litter(change.upload)
        if upload is None or self._is_repeated(upload):
            tracker.finish(ticket)
            return

        def delivered(error: "KafkaError | None", _: "Message") -> None:
            if error is None:
                tracker.finish(ticket)
                self._delivered += 1
                self.last_upload = change.moment / 1e9
            elif not self._stopping.is_set() and not self._refused.is_set():
                log.error("The broker refused upload %s: %s.", upload.identity, error)
                self._refused.set()
                if self._changes:
                    self._changes.close()

        self._produce(upload, delivered)

    def _is_repeated(self, upload: Upload) -> bool:
        """Whether this change was read before; after an interruption the log repeats the last ones."""
        change = (upload.identity, upload.sequencer)
        if change in self._recent:
            return True
        self._recent.append(change)
        return False

    def _unless_litter(self, upload: Upload) -> Upload | None:
        """The complete upload; None, and counted, for a file that an operating system or a sync program left behind."""
        if not is_litter(upload.key):
            return self._complete(upload)
        if not self._is_repeated(upload):
            self._litter += 1
        return None

    def _complete(self, upload: Upload) -> Upload | None:
        """The upload with its ETag, which is missing when the object was not written over S3; None when it is gone."""
        if upload.etag:
            return upload
        try:
            info = self._storage.head(upload.bucket, upload.key, upload.version_id)
        except ObjectGone:
            return None
        return replace(upload, etag=info.etag, size=info.size)

    def _produce(self, upload: Upload, delivered: Delivered) -> None:
        value = json.dumps(minio_record(upload), ensure_ascii=False)
        identity = upload.identity
        with tracing.root(identity, "upload", size=upload.size or 0) as traceparent:
            headers: Headers = [(tracing.HEADER, traceparent.encode())]
            log.info("upload", extra={"identity": identity})
        while not self._outbox.put(self._settings.uploads_topic, value, kafka_key(upload), delivered, headers):
            if self._stopping.wait(POLL_SECONDS):  # the outbox is full: the change log keeps the rest
                return

    def _guard(self) -> None:
        """Report; a fault ends the bridge, so that it is started again."""
        try:
            self._report()
        except Exception as exc:  # noqa: BLE001 - raised again by `run`
            self._fault = exc
        finally:
            self._stopping.set()
            if self._changes:
                self._changes.close()

    def _report(self) -> None:
        """Serve the broker's acknowledgements, and save the state when it changes and as a heartbeat.

        What a full disk does not take is saved again after a while: without a state file the bridge is not ready, and
        goes on all the same.
        """
        saved, saved_at = None, -math.inf
        while not self._stopping.is_set():
            self._outbox.serve(POLL_SECONDS)
            self._watch_acceptance()
            current = (self.is_ready, self._tracker.done)
            age = time.monotonic() - saved_at
            if age > HEARTBEAT_SECONDS or (current != saved and (saved or age > POLL_SECONDS)):
                saved = current if self._save() else None
                saved_at = time.monotonic()

    def _watch_acceptance(self) -> None:
        """Note since when the oldest change that Kafka does not have is the same."""
        done = self._tracker.done
        if not self._tracker.open:
            self._stuck_at = None
        elif self._stuck_at is None or self._stuck_at[0] != done:
            self._stuck_at = (done, time.monotonic())

    def _save(self) -> bool:
        counters = {"position": self._tracker.done, "delivered": self._delivered, "litter": self._litter}
        state: State = "waiting" if self._state == "ready" and not self.is_ready else self._state
        return write_state(self._home, "bridge", state, **counters, mended=self.mended)

    def _position(self, saved: dict[str, Any]) -> int:
        """The position in a state file; one that cannot be is told and replaced by an earlier one."""
        position, now = saved.get("position", 0), time.time_ns()
        if isinstance(position, int) and 0 <= position <= now + bounds.CLOCK_SKEW.total_seconds() * 1e9:
            return position
        resumed = now - int(LOOK_BACK.total_seconds() * 1e9)
        with contextlib.suppress(OSError):
            written = self._home.file("run", "bridge.json").stat().st_mtime_ns
            resumed = min(resumed, written - int(LOOK_BACK.total_seconds() * 1e9))
        self.mended += 1
        when = datetime.fromtimestamp(resumed / 1e9, UTC)
        log.error(
            "The position in the store's change log lies beyond its end: reading again from %s on. `lungline reconcile`"
            " finds older uploads without a result.",
            f"{when:%Y-%m-%d %H:%M} UTC",
        )
        return max(0, resumed)


class BridgeCollector(Collector):
    """The bridge's metrics, read when Prometheus scrapes: counting does not slow uploads down."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """The metrics now."""
        bridge = self._bridge
        # It continues over restarts: the state file holds it.
        yield CounterMetricFamily("lungline_uploads", "Uploads whose event Kafka has.", bridge.delivered)
        yield CounterMetricFamily(
            "lungline_litter", "Files of operating systems and sync programs that were left out.", bridge.litter
        )
        yield CounterMetricFamily(
            "lungline_bridge_positions_mended",
            "Positions beyond the end of the change log that were given up.",
            bridge.mended,
        )
        yield GaugeMetricFamily("lungline_bridge_ready", "Whether the bridge follows the store.", bridge.is_ready)
        yield GaugeMetricFamily(
            "lungline_bridge_pending_uploads", "Uploads whose event Kafka does not have yet.", bridge.pending
        )
        last = GaugeMetricFamily("lungline_last_upload_timestamp_seconds", "When the last upload was stored.")
        if moment := bridge.last_upload:
            last.add_metric([], moment)
        yield last


def main(settings: Settings) -> None:
    """Run a bridge until SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m eventing.bridge", description="Upload events from SeaweedFS's change log."
    )
    parser.add_argument("--filer_grpc_port", type=int, required=True, help="gRPC port of the store's filer")
    parser.add_argument("--metrics_port", type=int, help="port for Prometheus; none by default")
    arguments = parser.parse_args()
    bridge = Bridge(Home.make(settings.home), settings, arguments.filer_grpc_port)
    expose(arguments.metrics_port, BridgeCollector(bridge))
    program.stop_on_sigterm(bridge.stop)
    bridge.run()


if __name__ == "__main__":
    program.run("bridge", main)
