"""The event bridge: each completed upload in the store's log of changes becomes one S3 record on the uploads topic.

It notes how far the broker has taken the records. After any end it goes on from there, so nothing is lost while the
bridge or the broker is away, and a record may come twice (the upload's identity makes that harmless). Lost are the
changes that the store itself had not written to its log when it was killed and that no running bridge had read:
`lungline reconcile` finds those uploads.
"""

import json
import logging
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from laptop.bridge_collector import BridgeCollector
from laptop.certificates import Certificates
from laptop.changes import Change, Changes
from laptop.exposition import expose
from laptop.home import Home
from laptop.notes import find_note, leave_note, noted_state
from laptop.outbox import Delivered, Headers, Outbox
from laptop.part import Command, State, base_environment, settings_environment
from laptop.ports import Ports, claim_ports, load_ports
from laptop.process import running
from laptop.progress import Progress
from laptop.topics import ensure_topics
from lungline import logs, tracing
from lungline.errors import LunglineError, ObjectGone, Unavailable
from lungline.events import Upload, kafka_key, minio_record
from lungline.settings import Settings, load_settings
from lungline.storage import Storage

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

NOTE_SECONDS = 0.2
# How old the note of a quiet bridge gets; by its age a probe tells it from one that hangs.
IDLE_NOTE_SECONDS = 10.0
RECENT = 64
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.0

log = logging.getLogger("lungline.bridge")


@dataclass(frozen=True)
class BridgePart:
    """The bridge as a part of the stack; `settings` name store and broker."""

    home: Home
    settings: Settings
    ports: Ports

    name = "bridge"
    address = None
    after = ()  # it waits for store and broker by itself
    grace = 5.0
    watched = True

    def command(self) -> Command:
        """How to start it."""
        argv = (sys.executable, "-P", "-m", "laptop.bridge", str(self.ports.filer_grpc))
        return Command(argv, base_environment() | settings_environment(self.settings), self.home.path)

    def probe(self, pid: int) -> State:
        """What it has noted of itself."""
        return noted_state(self.home, self.name, pid)

    def tend(self) -> None:
        """Nothing to do."""


@contextmanager
def running_bridge(home: Path, settings: Settings) -> Iterator[None]:
    """A bridge alone, between a store in the same home and a broker."""
    made = Home.make(home)
    # The store runs already: its ports are taken and must stay what they are.
    part = BridgePart(made, settings, load_ports(made) or claim_ports(made))
    with running(part, made.log(part.name)):
        yield


class Bridge:
    """Follows the log of changes; `run` until `stop`, from another thread or a signal handler."""

    def __init__(self, home: Home, settings: Settings, filer_grpc_port: int) -> None:
        self._home = home
        self._settings = settings
        self._port = filer_grpc_port
        self._storage = Storage.from_settings(settings)
        self._outbox = Outbox(settings)
        note = find_note(home, "bridge")
        self._progress = Progress(int(note.get("position", 0)))
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
            self._progress = Progress(self._progress.done)
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
        with tracing.root(identity, "upload", size=upload.size or 0) as told:
            headers: Headers = [(tracing.HEADER, told.encode())]
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
        leave_note(self._home, "bridge", self._state, position=self._progress.done, delivered=self._delivered)


def main() -> None:
    """Run a bridge until SIGTERM; its one argument is the store's gRPC port."""
    settings = load_settings()
    logs.configure(settings.log_format)
    tracing.configure(settings, "bridge")
    home = Home.make(settings.home)
    bridge = Bridge(home, settings, int(sys.argv[1]))
    expose(home, "bridge", BridgeCollector(bridge))
    signal.signal(signal.SIGTERM, lambda *_: bridge.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the supervisor, which decides who ends when
    bridge.run()


if __name__ == "__main__":
    try:
        main()
    except LunglineError as exc:
        log.error("%s", exc)  # noqa: TRY400 - the sentence says it; a traceback would not add to it
        sys.exit(1)
