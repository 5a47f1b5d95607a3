"""What the object store has of an upload, and its deletion: the X-ray with its older versions, and all made of it.

uploads     the object; in a bucket with versions also its older ones
results     results/, readings/, deliveries/, shadow/, rejudged/ and owed/ of the upload, its place in latest/
patients    the patient record, the Secondary Captures
research    the de-identified copy, under its pseudonym
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lungline.deidentification.pseudonyms import Pseudonyms
from lungline.deidentification.research import research_name
from lungline.errors import ObjectGone
from lungline.results import latest_list, opinions, patients, readings, records
from lungline.retention.rules import EVERYWHERE, Kind
from lungline.retention.subjects import Subject, to_the_oldest
from lungline.settings import Settings
from lungline.storage.s3 import Storage

CAPTURES, DELIVERIES = "captures/", "deliveries/"


@dataclass(frozen=True, slots=True)
class Trace:
    """An object that is to go: what it is called in counts, and where it lies; `instead` is put in its place first."""

    kind: str
    bucket: str
    key: str = field(repr=False)
    version_id: str | None = None
    instead: str | None = None


@dataclass(frozen=True, slots=True)
class StoredObjects:
    """The objects of uploads in the buckets of these kinds."""

    storage: Storage
    settings: Settings
    kinds: Sequence[Kind] = EVERYWHERE

    def look(self, subjects: Sequence[Subject]) -> Counter[str]:
        """How many objects there are, by what they are called. Raises StorageUnavailable."""
        return Counter(trace.kind for trace in self._traces(subjects))

    def erase(self, subjects: Sequence[Subject]) -> None:
        """Delete them. Raises StorageUnavailable, after which another call goes on."""
        for trace in self._traces(subjects):
            if trace.instead:
                self.storage.put(trace.bucket, trace.instead, b"")
            self.storage.delete(trace.bucket, trace.key, trace.version_id)

    def _traces(self, subjects: Sequence[Subject]) -> Iterator[Trace]:
        # The X-rays first: what has none is not judged again.
        if "uploads" in self.kinds:
            for subject in subjects:
                yield from self._of_upload(subject)
        if "research" in self.kinds:
            yield from self._of_research(subjects)
        if "results" in self.kinds:
            for subject in subjects:
                yield from self._of_results(subject.identity)
            yield from self._listings({subject.identity for subject in subjects})
        if "patients" in self.kinds:
            for subject in subjects:
                yield from self._of_patients(subject.identity)

    def _of_upload(self, subject: Subject) -> Iterator[Trace]:
        """The object, unless another upload has taken its key; its versions, from this upload's on to the oldest."""
        bucket = self.settings.uploads_bucket
        if subject.bucket != bucket or not subject.key:
            return
        if not self.storage.keeps_versions(bucket):
            try:
                info = self.storage.head(bucket, subject.key)
            except ObjectGone:
                return
            if subject.etag in (None, info.etag):
                yield Trace("X-rays", bucket, subject.key)
            return
        yield from (
            Trace("X-rays" if info.etag else "marks of deleted X-rays", bucket, subject.key, info.version_id or "null")
            for info in to_the_oldest(self.storage.versions(bucket, subject.key), subject)
        )

    def _of_results(self, identity: str) -> Iterator[Trace]:
        bucket, place = self.settings.results_bucket, f"{identity[:2]}/{identity}/"
        names = {
            records.PREFIX: "result records",
            readings.PREFIX: "reading records",
            DELIVERIES: "notes of deliveries",
        }
        for prefix, kind in names.items():
            yield from (Trace(kind, bucket, info.key) for info in self.storage.list(bucket, prefix + place))
        for key in opinions.keys_of_upload(self.storage, bucket, identity):
            yield Trace("second opinions", bucket, key)
        for info in self.storage.list(bucket, f"{records.OWED}{identity}-"):
            yield Trace("owed research copies", bucket, info.key)

    def _listings(self, identities: set[str]) -> Iterator[Trace]:
        """Their places among the latest; an object that lists others as well is replaced by one that lists them."""
        bucket = self.settings.results_bucket
        for info in self.storage.list(bucket, latest_list.LATEST):
            if not identities.isdisjoint(latest_list.listed_identities(info.key)):
                yield Trace(
                    "places among the latest", bucket, info.key, instead=latest_list.relisted_key(info.key, identities)
                )

    def _of_patients(self, identity: str) -> Iterator[Trace]:
        bucket = self.settings.patients_bucket
        if self.storage.exists(bucket, patients.key_of(identity)):
            yield Trace("patient records", bucket, patients.key_of(identity))
        for info in self.storage.list(bucket, f"{CAPTURES}{identity[:2]}/{identity}/"):
            yield Trace("DICOM results", bucket, info.key)

    def _of_research(self, subjects: Sequence[Subject]) -> Iterator[Trace]:
        pseudonyms, bucket = Pseudonyms.from_settings(self.settings), self.settings.research_bucket
        if not self.storage.has_bucket(bucket):  # the first unsure image makes it
            return
        for subject in subjects:
            name = research_name(subject.identity, pseudonyms)
            yield from (Trace("research copies", bucket, info.key) for info in self.storage.list(bucket, f"{name}."))
