"""Sends the events of old uploads to the topic of a version that judges them again, below live traffic.

What it has judged lies in the store as second opinions (`lungline.results.opinions`), and an upload that has one is not
sent again: so a run that was interrupted goes on where it stopped, on whichever machine. An event that is sent twice
does no harm, for the first record stays.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

from eventing.kafka import ensure_topics
from eventing.producer import Sender
from lungline.events.cloudevents import Headers, kafka_headers
from lungline.events.handed_on import handed_on
from lungline.events.uploads import Upload, kafka_key, minio_record
from lungline.results import latest_list, opinions, record_store
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from lungline.task.reading import DEFAULT

# As long as a predictor may take to come back.
PATIENCE_SECONDS = 120.0
YIELD_SECONDS = 0.2
# Nobody waits for the events; each write costs the broker as much as one of fifty.
LINGER_MILLISECONDS = 1000
_EVER = datetime(1970, 1, 2, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which old uploads a version judges: those that a version of its task has answered.

    `version` as records name it, `labels` those of the answers, all if empty.
    """

    version: str
    task: str
    since: datetime | None = None
    until: datetime | None = None
    labels: frozenset[str] = frozenset()
    most: int | None = None


@dataclass(slots=True)
class Rejudged:
    """What was counted, in uploads; `str()` of it is a sentence.

    `chosen` fit what is wanted; `before` of them had the version's judgement already; `sent` did not, and `judged` have
    it now.
    """

    chosen: int = 0
    before: int = 0
    sent: int = 0
    judged: int = 0

    def __str__(self) -> str:
        """The counts that matter."""
        missing = self.sent - self.judged
        rest = f"; not judged yet: {missing}" if missing else ""
        return f"Of {self.chosen} uploads {self.before} were judged before and {self.judged} now{rest}."


OnProgress = Callable[[Rejudged], None]


def rejudge(
    settings: Settings,
    wanted: Wanted,
    rate: float,
    *,
    may_send: Callable[[], bool] = lambda: True,
    on_progress: OnProgress = lambda _: None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Rejudged:
    """Send old uploads, `rate` a second at most and only while it `may_send`; wait until all of them are judged.

    Returns after `patience_seconds` without one more judgement. Raises StorageUnavailable and KafkaUnavailable.
    """
    ensure_topics(settings, [settings.rejudge_topic])
    report = Rejudged()
    waiting: list[str] = []
    with closing(Storage.from_settings(settings)) as storage:
        sender = Sender(settings, linger_milliseconds=LINGER_MILLISECONDS)
        due = time.monotonic()
        for upload in _to_send(storage, settings, wanted, report):
            while (left := due - time.monotonic()) > 0 or not may_send():
                time.sleep(max(left, 0) or YIELD_SECONDS)
            due = max(due, time.monotonic() - 1 / rate) + 1 / rate
            value, headers = _event(upload, wanted.task)
            sender.send(settings.rejudge_topic, value, kafka_key(upload), headers)
            waiting.append(upload.identity)
            report.sent += 1
            on_progress(report)
        sender.flush()
        for _ in _judged(storage, settings, wanted.version, waiting, patience_seconds):
            report.judged += 1
            on_progress(report)
    return report


def chosen(storage: Storage, bucket: str, wanted: Wanted) -> Iterator[ResultRecord]:
    """The answers to the uploads that are wanted, the latest first; reads no record of others than their own.

    Without what was set aside, and without what was gone or overwritten before it was read.
    """
    seen: set[str] = set()
    for key, _ in latest_list.keys_since(storage, bucket, wanted.since or _EVER):
        identity = key.split("/")[2]
        if identity in seen:
            continue
        seen.add(identity)
        stored = record_store.find(storage, bucket, identity)
        if stored and _fits(answer := max(stored, key=lambda record: record.times.done), wanted):
            yield answer


def _fits(answer: ResultRecord, wanted: Wanted) -> bool:
    at = answer.times.uploaded or answer.times.received
    in_time = (wanted.until is None or at <= wanted.until) and (wanted.since is None or at >= wanted.since)
    usable = answer.outcome in ("judged", "refused") and not answer.is_set_aside
    other = answer.task == wanted.task and answer.model.version != wanted.version
    return in_time and usable and other and (not wanted.labels or answer.label in wanted.labels)


def _to_send(storage: Storage, settings: Settings, wanted: Wanted, report: Rejudged) -> Iterator[Upload]:
    for answer in chosen(storage, settings.results_bucket, wanted):
        if report.chosen == wanted.most:
            return
        report.chosen += 1
        place = opinions.place(answer.upload.identity, wanted.version, "rejudged")
        if storage.exists(settings.results_bucket, place):
            report.before += 1
        else:
            yield _upload(answer)


def _upload(answer: ResultRecord) -> Upload:
    """The upload as its first event described it, so that it has the same identity."""
    facts, read = answer.upload, answer.read
    size, at = (read.size, answer.times.uploaded or read.modified) if read else (None, answer.times.uploaded)
    return Upload(facts.bucket, facts.key, facts.version_id, facts.etag, facts.sequencer, size, at)


def _event(upload: Upload, task: str) -> tuple[str, Headers]:
    """The event of the store; of another task than the default the one that a cluster's broker delivers by its task."""
    if task == DEFAULT:
        return json.dumps(minio_record(upload), ensure_ascii=False), []
    event = handed_on([upload], task)
    return event.data, kafka_headers(event.attributes, "application/json")


def _judged(
    storage: Storage, settings: Settings, version: str, waiting: Sequence[str], patience_seconds: float
) -> Iterator[str]:
    """Those of the uploads that are judged, as they are; in the order in which they were sent, as they are judged."""
    deadline = time.monotonic() + patience_seconds
    for identity in waiting:
        place = opinions.place(identity, version, "rejudged")
        while not (is_there := storage.exists(settings.results_bucket, place)) and time.monotonic() < deadline:
            time.sleep(YIELD_SECONDS)
        if is_there:
            deadline = time.monotonic() + patience_seconds
            yield identity
