"""What an event points at: an event is a hint, and the record that the worklist shows is the one in the results bucket.

Whoever can write to Kafka, or knows the token of events, can therefore make the worklist look, and nothing more:
diagnosis, times, version and key come from the record that lies where the event's identity and version lead.
"""

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from lungline.errors import EventMalformed, LunglineError, ObjectGone, Unavailable
from lungline.registry.history import History
from lungline.results import opinions as second_opinions
from lungline.results import record_store
from lungline.results import records as results
from lungline.results.events import OpinionHint, check
from lungline.results.opinions import Opinion
from lungline.results.patients import PatientRecord, patients_of
from lungline.results.records import ResultRecord
from lungline.retention.tombstones import is_erased
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from lungline.task.overrides import default_model
from worklist import metrics

READERS = 8
# A name comes from a record; nobody serves more models than this.
MOST_MODELS = 64
# The history is read again for an unknown version, and not more often than this.
REREAD_SECONDS = 5.0
# As `version_of` names a package that was never registered.
DIGEST_DIGITS = 12

_log = logging.getLogger(__name__)


class ResultMissing(LunglineError):
    """The store has no such record, or not yet."""


class VersionUnknown(LunglineError):
    """The promotion history names no such model version, or not yet."""


class PromotedVersions:
    """The model versions that the promotion history names, also those of promotions that have just begun or failed.

    Without a history nothing was ever promoted, and every version is taken; so it is where the history cannot be read:
    `lungline history` says why.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._versions: set[str] = set()
        self._read_at: float | None = None
        self._reading = threading.Lock()

    def require(self, version: str) -> None:
        """Raise VersionUnknown for a version that was never promoted, StorageUnavailable when nobody can say."""
        if not self.has(version) and self._versions:
            raise VersionUnknown("The result's model version is not in the promotion history.")

    def has(self, version: str) -> bool:
        """Whether a version was promoted. Raises StorageUnavailable when nobody can say."""
        if version in self._versions:
            return True
        with self._reading:
            if self._read_at is None or time.monotonic() - self._read_at > REREAD_SECONDS:
                self._versions = self._read()
                self._read_at = time.monotonic()
        return version in self._versions

    def _read(self) -> set[str]:
        try:
            entries = self._history.entries()
        except Unavailable:
            raise
        except LunglineError as exc:
            _log.warning("Model versions of results are not checked: %s", exc)
            return set()
        return {entry.version for entry in entries} | {entry.facts.package[:DIGEST_DIGITS] for entry in entries}


class Incoming:
    """Fetches the records that events point at."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self._storage = storage
        self._settings = settings
        self._bucket = settings.results_bucket
        self._patients = settings.patients_bucket
        self._models = settings.models_bucket
        self._model = default_model(settings)
        self._versions = {self._model: PromotedVersions(History(storage, self._models, self._model))}
        self._readers = ThreadPoolExecutor(READERS, "records")

    def close(self) -> None:
        """End the threads that read."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    def recorded(self, hints: Sequence[ResultRecord]) -> list[ResultRecord]:
        """The stored records of the results in an event, all or none; without those of uploads that were erased.

        Raises ResultMissing and VersionUnknown, after which the event may come again, and EventMalformed for a stored
        record that cannot be.
        """
        places = {(hint.upload.identity, hint.model.version) for hint in hints}
        if len(places) == 1:
            return list(filter(None, [self._load_unless_erased(*places.pop())]))
        return list(filter(None, self._readers.map(lambda place: self._load_unless_erased(*place), sorted(places))))

    def opinions(self, hints: Sequence[OpinionHint]) -> list[Opinion]:
        """The stored second opinions that an event points at; their versions need not have been promoted.

        Raises ResultMissing and EventMalformed.
        """
        return [Opinion(hint.purpose, self._opinion(hint)) for hint in hints]

    def of_upload(self, identity: str) -> list[ResultRecord]:
        """Every stored record of an upload, of whichever version, that can be shown."""
        return list(self._showable(record_store.find(self._storage, self._bucket, identity)))

    def patients(self, records: Sequence[ResultRecord]) -> list[PatientRecord]:
        """Whom the uploads of these results are of. Raises StorageUnavailable, after which the event may come again."""
        return patients_of(records, self._storage, self._patients)

    def _showable(self, records: Iterable[ResultRecord]) -> Iterable[ResultRecord]:
        for record in records:
            try:
                yield self._checked(record)
            except (EventMalformed, VersionUnknown) as exc:
                _log.warning("Upload %s: %s", record.upload.identity, exc)

    def _load_unless_erased(self, identity: str, version: str) -> ResultRecord | None:
        try:
            return self._load(identity, version)
        except ResultMissing:
            # Tombstones need the secret of pseudonyms, which an installation may keep from the worklist.
            if self._settings.research_secret and is_erased(identity, self._storage, self._settings):
                return None
            metrics.count_refused("missing")
            raise

    def _load(self, identity: str, version: str) -> ResultRecord:
        try:
            record = record_store.load(self._storage, self._bucket, results.record_key(identity, version))
        except ObjectGone:
            raise ResultMissing("The results bucket has no record of this result.") from None
        except Unavailable:
            raise
        except LunglineError:
            metrics.count_refused("malformed")
            raise EventMalformed("The object in the results bucket is not a result record.") from None
        if (record.upload.identity, record.model.version) != (identity, version):
            metrics.count_refused("malformed")
            raise EventMalformed("The record in the results bucket is another upload's.")
        return self._checked(record)

    def _opinion(self, hint: OpinionHint) -> ResultRecord:
        where = (self._storage, self._bucket, hint.identity, hint.version, hint.purpose)
        record = second_opinions.load_or_none(*where)
        if record is None:
            metrics.count_refused("missing")
            raise ResultMissing("The results bucket has no such second opinion.")
        if (record.upload.identity, record.model.version) != (hint.identity, hint.version):
            metrics.count_refused("malformed")
            raise EventMalformed("The second opinion in the results bucket is another upload's.")
        check(record)
        return record

    def _checked(self, record: ResultRecord) -> ResultRecord:
        try:
            check(record)
            self._require_promoted(record.model.version)
        except EventMalformed:
            metrics.count_refused("malformed")
            raise
        except VersionUnknown:
            metrics.count_refused("version")
            raise
        return record

    def _require_promoted(self, version: str) -> None:
        """Raise VersionUnknown for a version that was never promoted.

        That of another task than the default names its model. Whether that was ever promoted is asked of its own
        history; without one it is as good as the first model's that has none either.
        """
        model, number = results.place_of(version, self._model)
        if model == self._model:
            self._versions[model].require(number)
        elif len(self._versions) > MOST_MODELS or not self._versions_of(model).has(number):
            self._versions[self._model].require(version)

    def _versions_of(self, model: str) -> PromotedVersions:
        return self._versions.setdefault(model, PromotedVersions(History(self._storage, self._models, model)))
