"""Reconciliation between a real store and a real broker: what `lungline reconcile` and the laptop's supervisor do."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lungline.events import Upload, kafka_key, minio_record
from lungline.recovery.reconcile import reconcile
from lungline.recovery.sending import Sender
from lungline.results import OWED
from lungline.settings import Settings
from lungline.storage import Storage


@dataclass(frozen=True, slots=True)
class Resent:
    """What a reconciliation came to, in uploads; `str()` of it is a sentence.

    `older` and `recent` were stored outside the time that was asked for; `unusable` lie under keys that no event can
    carry; `research` are unsure images that are now kept for research and were not when they were judged.
    """

    uploads: int
    with_result: int
    sent: int
    older: int
    recent: int
    unusable: int
    research: int

    def __str__(self) -> str:
        """The counts that matter."""
        lost = f"those without a result were sent again: {self.sent}" if self.sent else "none was lost"
        late = f"; {self.recent} are too recent to be asked for" if self.recent else ""
        kept = f"; {self.research} unsure images went to research" if self.research else ""
        return f"Of {self.uploads} uploads {lost}{late}{kept}."


def resend(settings: Settings, *, since: datetime | None = None, grace_seconds: float = 30.0) -> Resent:
    """Send the events of uploads without a result again, but for those of the last `grace_seconds`.

    Also keeps for research what could not be kept. Raises StorageUnavailable or KafkaUnavailable; doing it again does
    no harm.
    """
    storage = Storage.from_settings(settings)
    sender = Sender(settings)

    def send(upload: Upload) -> None:
        event = json.dumps(minio_record(upload), ensure_ascii=False)
        sender.send(settings.uploads_topic, event, kafka_key(upload))

    try:
        until = datetime.now(UTC) - timedelta(seconds=grace_seconds)
        found = reconcile(storage, settings, send, since=since, until=until)
        sender.flush()
        kept = _keep_for_research(storage, settings)
    finally:
        storage.close()
    return Resent(found.uploads, found.with_result, found.sent, found.older, found.recent, found.unusable, kept)


def _keep_for_research(storage: Storage, settings: Settings) -> int:
    """Keep the images that are owed to research; how many."""
    if not any(True for _ in storage.list(settings.results_bucket, OWED, page_size=1)):
        return 0
    from lungline.deidentification import research  # with libraries that are seldom needed here

    return research.catch_up_owed(storage, settings).kept
