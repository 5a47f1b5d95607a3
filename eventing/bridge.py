"""The event bridge: each completed upload in the store's log of changes becomes one S3 record on the uploads topic.

It notes how far the broker has taken the records. After any end it goes on from there, so nothing is lost while the
bridge or the broker is away, and a record may come twice (the upload's identity makes that harmless). Lost are the
changes that the store itself had not written to its log when it was killed and that no running bridge had read:
`lungline reconcile` finds those uploads.
"""

import argparse
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from eventing.kafka import ensure_topics
from eventing.metrics import expose
from eventing.offsets import OffsetTracker
from eventing.producer import Delivered, Outbox
from eventing.seaweedfs_log import Change, Changes
from eventing.seaweedfs_tls import Certificates
from eventing.state import State, read_state, write_state
from lungline import program, tracing
from lungline.errors import ObjectGone, Unavailable
from lungline.events.cloudevents import Headers
from lungline.events.uploads import Upload, kafka_key, minio_record
from lungline.home import Home
from lungline.settings import Settings
from lungline.storage.s3 import Storage


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


if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

NOTE_SECONDS = 0.2
# How old the note of a quiet bridge gets; by its age a probe tells it from one that hangs.
IDLE_NOTE_SECONDS = 10.0
RECENT = 64
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.0

log = logging.getLogger("lungline.bridge")


class Bridge:
    """Follows the log of changes; `run` until `stop`, from another thread or a signal handler."""

    def __init__(self, home: Home, settings: Settings, filer_grpc_port: int) -> None:
        self._home = home
        self._settings = settings
        self._port = filer_grpc_port
        self._storage = Storage.from_settings(settings)
        self._outbox = Outbox(settings)
        note = read_state(home, "bridge")
        self._progress = OffsetTracker(int(note.get("position", 0)))
        self._seen = self._progress.done
        self._recent: deque[tuple[str, str | None]] = deque(maxlen=RECENT)
        self._delivered = int(note.get("delivered", 0))
        self._state: State = "waiting"
        self._refused = threading.Event()
        self._stopping = threading.Event()
        self._changes: Changes | None = None
        self.last_upload: float | None = None
        """When the store had the last upload that Kafka has, in seconds since 1970."""

    @property
    def delivered(self) -> int:
        """How many uploads Kafka has taken, since the first start in this home."""
        return self._delivered

    @property
    def pending(self) -> int:
        """How many changes wait for Kafka, or behind one that does."""
        return self._progress.open

    @property
    def is_ready(self) -> bool:
        """Whether it follows the log of changes."""
        return self._state == "ready"

    def run(self) -> None:
        """Carry records until `stop`."""
        keeper = threading.Thread(target=self._keep_notes, name="notes")
        keeper.start()
        pause = SHORTEST_PAUSE_SECONDS
        while not self._stopping.is_set():
            try:
                self._connect()
                pause = SHORTEST_PAUSE_SECONDS
                for change in self._changes or ():
                    self._take(change)
            except Unavailable as exc:
                self._state = "waiting"
                if not self._stopping.is_set():
                    log.warning("%s Trying again.", exc)
            self._stopping.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        keeper.join()
        self._outbox.flush(2)
        self._note()

    def stop(self) -> None:
        """End `run` soon."""
        self._stopping.set()
        if self._changes:
            self._changes.close()

    def _connect(self) -> None:
        ensure_topics(self._settings)
        if self._refused.is_set():
            # Read again from the last place that is safe.
            self._outbox.clear()
            self._progress = OffsetTracker(self._progress.done)
            self._seen = self._progress.done
            self._recent.clear()
            self._refused.clear()
        certificates = Certificates.of(self._home.file("store", "config"))
        self._changes = Changes(self._port, certificates, self._settings.uploads_bucket, self._seen)
        self._state = "ready"
        log.info("Following the changes in bucket %s.", self._settings.uploads_bucket)

    def _take(self, change: Change) -> None:
        self._seen = max(self._seen, change.moment)
        progress = self._progress
        number = progress.begin(change.moment)
        upload = change.upload and self._complete(change.upload)
        if upload is None or self._is_repeated(upload):
            progress.finish(number)
            return

        def delivered(error: "KafkaError | None", _: "Message") -> None:
            if error is None:
                progress.finish(number)
                self._delivered += 1
                self.last_upload = change.moment / 1e9
            elif not self._stopping.is_set() and not self._refused.is_set():
                log.error("The broker refused upload %s: %s.", upload.identity, error)
                self._refused.set()
                if self._changes:
                    self._changes.close()

        self._produce(upload, delivered)

    def _is_repeated(self, upload: Upload) -> bool:
        """Whether this very change was read before; after a break the log repeats the last ones."""
        this = (upload.identity, upload.sequencer)
        if this in self._recent:
            return True
        self._recent.append(this)
        return False

    def _complete(self, upload: Upload) -> Upload | None:
        """The upload with its ETag, which is missing where something other than S3 wrote the object."""
        if upload.etag:
            return upload
        try:
            info = self._storage.head(upload.bucket, upload.key, upload.version_id)
        except ObjectGone:
            return None
        return Upload(
            upload.bucket, upload.key, upload.version_id, info.etag, upload.sequencer, info.size, upload.uploaded_at
        )

    def _produce(self, upload: Upload, delivered: Delivered) -> None:
        value = json.dumps(minio_record(upload), ensure_ascii=False)
        identity = upload.identity
        with tracing.root(identity, "upload", size=upload.size or 0) as traceparent:
            headers: Headers = [(tracing.HEADER, traceparent.encode())]
            log.info("upload", extra={"identity": identity})
        while not self._outbox.put(self._settings.uploads_topic, value, kafka_key(upload), delivered, headers):
            if self._stopping.wait(NOTE_SECONDS):  # so many wait for the broker: let the log of changes hold the rest
                return

    def _keep_notes(self) -> None:
        """Serve the broker's answers, and note the progress they make; now and then also that there is none."""
        noted, moment = None, 0.0
        while not self._stopping.is_set():
            self._outbox.serve(NOTE_SECONDS)
            now = (self._state, self._progress.done)
            if now != noted or time.monotonic() - moment > IDLE_NOTE_SECONDS:
                self._note()
                noted, moment = now, time.monotonic()

    def _note(self) -> None:
        write_state(self._home, "bridge", self._state, position=self._progress.done, delivered=self._delivered)


def main(settings: Settings) -> None:
    """Run a bridge until SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m eventing.bridge", description="Upload events from SeaweedFS's log."
    )
    parser.add_argument("--filer_grpc_port", type=int, required=True, help="gRPC port of the store's filer")
    parser.add_argument("--metrics_port", type=int, help="port to answer Prometheus on; none by default")
    arguments = parser.parse_args()
    bridge = Bridge(Home.make(settings.home), settings, arguments.filer_grpc_port)
    expose(arguments.metrics_port, BridgeCollector(bridge))
    program.stop_on_sigterm(bridge.stop)
    bridge.run()


if __name__ == "__main__":
    program.run("bridge", main)
