"""Result records: the outcome of an upload, as JSON in the results bucket.

    results/ab/abcdef.../3.json        the record of upload abcdef... by model version 3
    latest/8236194741-abcdef...-3      an empty object, stored before the record: the record is the commit point;
                                       those of one second share objects: `...-abcdef.123456-3` lists two

There is one record per upload and model version. Its name follows from both, so saving and finding take as long with
many records as with few. The second name begins with the seconds from the time of the upload to the year 2286: listed
from the beginning, these objects are those of the latest uploads. Earlier versions kept the drawn heatmap there, as a
`.png`; now the record has its map. Records contain the object's key; the bucket is protected, logs are not.
"""

import logging
import re
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from lungline import bounds
from lungline.errors import LunglineError, ObjectGone, Unavailable
from lungline.imaging.heatmap import EvidenceMap
from lungline.imaging.outline import MOST_NUMBERS, MOST_OUTLINES
from lungline.imaging.statistics import ImageStatistics
from lungline.package.card import Card
from lungline.storage.s3 import Storage
from lungline.task.reading import DEFAULT
from lungline.task.task import MOST_FINDINGS
from lungline.task.terms import TaskTerms, default_terms, packaged_terms

PREFIX = "results/"
LATEST = "latest/"
# Marks of records whose image is still owed to the research bucket (lungline.deidentification.research).
OWED = "owed/"

_LAST_SECOND = 9_999_999_999
# File systems, and so some stores, allow 255 after the last slash.
MOST_NAME_BYTES = len(LATEST) + 255
_LATEST_NAME = re.compile(r"(?P<second>\d{10})-(?P<identities>[^-]+)-(?P<version>.+)")

_log = logging.getLogger("lungline.results")

Thousandths = Annotated[int, Field(ge=0, le=1000)]
Outcome = Literal["judged", "refused", "superseded", "gone"]
NOT_MEANT, NO_TASK, OWN_RESULT = "not-meant", "no-task", "own-result"
SET_ASIDE = frozenset((NOT_MEANT, NO_TASK, OWN_RESULT))
"""Reasons of images that are kept and set aside: nothing is wrong with them, so nobody needs to replay their events."""
UNSURE, REFUSED = "Unsure", "Refused"
ResultLabel = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9 -]{0,31}$")]
"""The label of a finding, as its task names it; Unsure or Refused."""

# A record is replaced only by one that knows more: an upload that was gone, or that an older decoder refused, may
# come back (sent again, replayed after a fix) and must then be judged. What has been judged stays.
_RANK: dict[Outcome | str, int] = {"gone": 0, "superseded": 0, "refused": 1, "judged": 2}

# What schema 1 called the fields of schema 2.
_RENAMED = {"form": "schema_version", "picture": "image", "observed": "image_statistics"}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelFacts(_Part):
    """The model that answered."""

    name: str
    version: str
    run_id: str | None
    sha256: str
    synthetic: bool


class OperatingPoint(_Part):
    """Below `low` absent, from `high` on present, between them Unsure; `operating` is the one without Unsure."""

    low: float
    high: float
    operating: float


class FindingFacts(_Part):
    """The model's answer about one of several findings."""

    name: str = Field(max_length=32)
    label: ResultLabel
    probability: float = Field(ge=0, le=1)
    presence: Literal["present", "absent", "unsure"]


class UploadFacts(_Part):
    """The upload, as its event describes it."""

    identity: str
    bucket: str
    key: str
    version_id: str | None
    etag: str | None
    sequencer: str | None


class ReadFacts(_Part):
    """The object that was actually read."""

    etag: str
    version_id: str | None
    size: int
    modified: datetime


class ImageFacts(_Part):
    """The image file; width and height in pixels, upright."""

    format: str
    width: int
    height: int


class LungFacts(_Part):
    """Where the lungs lie in the image, and the share of the heatmap inside them.

    An outline is a closed polygon: x, y, x, y, ... in thousandths of the upright image's width and height. In the
    record and not beside the heatmap: it is a few hundred bytes, and is there whenever the record is.
    """

    outlines: tuple[Annotated[tuple[Thousandths, ...], Field(max_length=MOST_NUMBERS)], ...] = Field(
        default=(), max_length=MOST_OUTLINES
    )
    heat_inside: float | None = Field(default=None, ge=0, le=1)


class Times(_Part):
    """When the object was stored, when its event arrived here, and when the record was written."""

    uploaded: Annotated[datetime | None, AfterValidator(bounds.recorded)]
    """None also for a time that cannot be."""
    received: datetime
    done: datetime


class ResultRecord(_Part):
    """The outcome of one upload with one model version.

    `outcome` says how it ended: `judged` has a label and a probability; `refused` the label Refused with a reason code
    and a sentence; `superseded` (the object was overwritten before it was read; `superseded_by` is the identity of what
    is there now) and `gone` (it was deleted) have no label at all. `timings` are milliseconds by stage.
    `evidence` is the map of the heatmap, which is drawn when somebody looks; records of earlier versions have the key
    of a drawn one as `heatmap` instead. `image_statistics` are what drift monitoring compares; only judged images have
    them. `lungs` is None for models
    without a lung segmenter. `patient` is the key in the patients bucket that says whom a DICOM upload is of, and
    nothing of it is in here. `doubts` are the kinds of reasons for which a result is Unsure whatever its probability;
    `warnings` say them in words. `task` is the name of the model's task, `probability` the risk of anything but its
    negative finding; `findings` are the answers about each positive finding, where the task has several; `terms` are
    what people read, press and send about them, of any task but the default one. `event` is where the event of the
    upload lay in Kafka, as topic/partition/offset: topics forget it.
    """

    schema_version: Literal[3] = 3
    id: str
    task: str = Field(default=DEFAULT, max_length=40)
    outcome: Outcome
    label: ResultLabel | None = None
    probability: float | None = None
    thresholds: OperatingPoint
    reason: str | None = None
    message: str | None = None
    superseded_by: str | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    model: ModelFacts
    upload: UploadFacts
    read: ReadFacts | None = None
    image: ImageFacts | None = None
    heatmap: str | None = None
    evidence: EvidenceMap | None = None
    patient: str | None = None
    lungs: LungFacts | None = None
    doubts: tuple[str, ...] = ()
    findings: tuple[FindingFacts, ...] = Field(default=(), max_length=MOST_FINDINGS)
    terms: TaskTerms | None = None
    event: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]{1,249}/[0-9]{1,10}/[0-9]{1,20}$")
    times: Times
    timings: dict[str, float] = {}
    image_statistics: ImageStatistics | None = None

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, document: Any) -> Any:
        """Read records of schema 1, which had other names for some fields, and of 2, which named no task."""
        fields = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
        if fields.get("form") != 1 and fields.get("schema_version") != 2:
            return cast("Any", document)
        if "form" in fields:
            fields = {_RENAMED.get(name, name): value for name, value in fields.items()}
        return fields | {"schema_version": 3}

    @property
    def key(self) -> str:
        """The record's key in the results bucket."""
        return record_key(self.upload.identity, self.model.version)

    @property
    def has_heatmap(self) -> bool:
        """Whether a heatmap is stored, or can be drawn."""
        return self.heatmap is not None or self.evidence is not None

    @model_validator(mode="after")
    def _check_terms(self) -> "ResultRecord":
        """A record says itself what its findings are: the package may be gone when somebody reads it."""
        if self.terms is None:
            if self.task != DEFAULT and packaged_terms(self.task) is None:
                raise ValueError("expected the terms of a task that does not come with the package")
            return self
        if self.terms.name != self.task:
            raise ValueError("expected the terms of the record's own task")
        if self.label not in (None, UNSURE, REFUSED, *self.terms.labels):
            raise ValueError("expected a label of the record's task")
        if not {each.name for each in self.findings} <= {finding.name for finding in self.terms.positives}:
            raise ValueError("expected findings of the record's task")
        return self

    @property
    def task_terms(self) -> TaskTerms:
        """What people read, press and send about the findings."""
        return self.terms or packaged_terms(self.task) or default_terms()

    @property
    def present(self) -> tuple[str, ...]:
        """The labels of the positive findings that are there, that of the record first."""
        terms = self.task_terms
        finding = terms.labelled(self.label)
        if finding is None or finding.negative:
            return ()
        others = [each.label for each in self.findings if each.presence == "present" and each.label != self.label]
        return (finding.label, *others) if terms.is_many else (finding.label,)

    @property
    def is_set_aside(self) -> bool:
        """Whether nothing is wrong with the image, and it is only not for the model to judge."""
        return self.reason in SET_ASIDE


def knows_more(outcome: Outcome | str, stored: Outcome | str) -> bool:
    """Whether a record with `outcome` replaces the one with `stored` of the same upload and version."""
    return _RANK[outcome] > _RANK[stored]


def version_of(card: Card, sha256: str) -> str:
    """The version of a package: the registered one, or the beginning of the package's digest."""
    return card.version or sha256[:12]


def record_version(model: str, task: str, version: str) -> str:
    """The version that records name: `3`, or `pneumonia-kind.3` of another task than the default.

    Versions are counted for each model, so several that serve side by side need their names to be told apart.
    """
    return version if task == DEFAULT else f"{model}.{version}"


def place_of(version: str, model: str) -> tuple[str, str]:
    """Model and version in the registry of a version that records name; `model` is that of the default task."""
    name, _, number = version.rpartition(".")
    return (name, number) if name else (model, version)


def record_key(identity: str, version: str) -> str:
    """The key of an upload's record in the results bucket."""
    return f"{PREFIX}{identity[:2]}/{identity}/{version}.json"


def heatmap_key(identity: str, version: str, uploaded: datetime) -> str:
    """The key where earlier versions kept an upload's heatmap; later uploads sort first."""
    return f"{latest_key(identity, version, uploaded)}.png"


def latest_key(identity: str, version: str, uploaded: datetime) -> str:
    """The key of the empty object that lists a record among the latest; later uploads sort first."""
    second = min(max(int(uploaded.timestamp()), 0), _LAST_SECOND)
    return f"{LATEST}{_LAST_SECOND - second:010}-{identity}-{version}"


def list_latest(storage: Storage, bucket: str, identity: str, version: str, uploaded: datetime) -> None:
    """List a record among the latest, before it is saved: a record that is not listed would never be seen there."""
    storage.put(bucket, latest_key(identity, version, uploaded), b"")


def list_record(storage: Storage, bucket: str, record: ResultRecord) -> None:
    """List a record among the latest."""
    list_latest(storage, bucket, record.upload.identity, record.model.version, listed_at(record))


def listed_at(record: ResultRecord) -> datetime:
    """The moment under which a record is listed among the latest."""
    return record.read.modified if record.read else record.times.uploaded or record.times.received


def listings_of(storage: Storage, bucket: str, record: ResultRecord) -> Iterator[str]:
    """The keys of the objects that list a record among the latest; lists the uploads of one second."""
    second = latest_key("", "", listed_at(record)).rstrip("-")
    for info in storage.list(bucket, f"{second}-"):
        if record.upload.identity in listed_identities(info.key):
            yield info.key


def save(storage: Storage, bucket: str, record: ResultRecord, *, listed: bool = False) -> ResultRecord:
    """Store a record unless one with the same or a better outcome exists; returns the one that is stored now.

    `listed` says that it has been listed among the latest.
    """
    if not listed:
        list_record(storage, bucket, record)
    return keep(storage, bucket, record.key, record)


def keep(storage: Storage, bucket: str, key: str, record: ResultRecord) -> ResultRecord:
    """Store a record at a key unless one with the same or a better outcome is there; returns the stored one."""
    data = record.model_dump_json().encode()
    if storage.put_if_absent(bucket, key, data, "application/json"):
        return record
    stored = load(storage, bucket, key)
    if not knows_more(record.outcome, stored.outcome):
        return stored
    storage.put(bucket, key, data, "application/json")
    return record


def load(storage: Storage, bucket: str, key: str) -> ResultRecord:
    """The record at a key. Raises ObjectGone, or LunglineError when the object is not a record."""
    try:
        return ResultRecord.model_validate_json(storage.get(bucket, key, max_bytes=bounds.MAX_RECORD_BYTES).data)
    except ValidationError as exc:
        raise LunglineError(f"The object {key} in bucket {bucket} is not a result record.") from exc


def find(storage: Storage, bucket: str, identity: str) -> list[ResultRecord]:
    """The records of one upload, one per model version."""
    return [record for record in _scan(storage, bucket, f"{PREFIX}{identity[:2]}/{identity}/") if record]


def is_known(storage: Storage, bucket: str, identity: str) -> bool:
    """Whether an upload has a record, by whichever model version."""
    return any(True for _ in storage.list(bucket, f"{PREFIX}{identity[:2]}/{identity}/"))


def identities(storage: Storage, bucket: str, shard: str) -> Iterator[str]:
    """Identities of the uploads that have a record and begin with these two digits, in their order; reads no record."""
    return storage.folders(bucket, f"{PREFIX}{shard}/")


def latest(storage: Storage, bucket: str, count: int) -> list[ResultRecord]:
    """The records of the latest uploads, the latest first; costs the same however many there are."""
    records: dict[str, tuple[str, ResultRecord]] = {}
    last = ""
    for info in storage.list(bucket, LATEST, page_size=2 * count):
        if (parts := _parts(info.key)) is None:
            continue
        second, keys, _ = parts
        if len(records) >= count and second != last:
            break  # all of one second, for the store does not say which of them came first
        last = second
        for key in keys:
            # None also where the record was never written.
            if key not in records and (record := load_or_none(storage, bucket, key)):
                records[key] = (second, record)
    by_time = sorted(records.values(), key=lambda pair: pair[1].times.done, reverse=True)
    return [record for _, record in sorted(by_time, key=lambda pair: pair[0])][:count]


def keys_since(storage: Storage, bucket: str, since: datetime) -> Iterator[tuple[str, str]]:
    """Key and model version of the records of uploads stored since a moment, the latest first; reads no record."""
    last = ""
    seen: set[str] = set()
    for info in storage.list(bucket, LATEST):
        if (parts := _parts(info.key)) is None:
            continue
        second, keys, version = parts
        if _LAST_SECOND - int(second) < int(since.timestamp()):
            return
        if second != last:
            last = second
            seen.clear()
        # The heatmap of an earlier version lists the same record again, and so may a second delivery with others.
        yield from ((key, version) for key in keys if key not in seen)
        seen.update(keys)


def _parts(key: str) -> tuple[str, list[str], str] | None:
    """Second, records' keys and model version in a name among the latest; None for an object that is none of ours."""
    name = _LATEST_NAME.fullmatch(key.removeprefix(LATEST).removesuffix(".png"))
    if name is None:
        return None
    keys = [record_key(identity, name["version"]) for identity in name["identities"].split(".")]
    return name["second"], keys, name["version"]


def identities_before(storage: Storage, bucket: str, moment: datetime) -> set[str]:
    """Identities of uploads that are listed as of before a moment, or whose record was stored before it."""
    second = _LAST_SECOND - min(max(int(moment.timestamp()), 0), _LAST_SECOND)
    listed = storage.list(bucket, LATEST, start_after=f"{LATEST}{second:010}")
    early = {identity for info in listed for identity in listed_identities(info.key)}
    stored = (info.key for info in storage.list(bucket, PREFIX) if info.modified < moment)
    return early | {parts[2] for key in stored if len(parts := key.split("/")) == 4}


def listed_identities(key: str) -> list[str]:
    """The identities that an object among the latest lists; none for an object that is none of ours."""
    name = _LATEST_NAME.fullmatch(key.removeprefix(LATEST).removesuffix(".png"))
    return name["identities"].split(".") if name else []


def relisted_key(key: str, without: Collection[str]) -> str | None:
    """The key of an object that lists what another lists, without some identities; None where nothing is left."""
    name = _LATEST_NAME.fullmatch(key.removeprefix(LATEST))
    left = [each for each in listed_identities(key) if each not in without]
    return f"{LATEST}{name['second']}-{'.'.join(left)}-{name['version']}" if name and left else None


def every(storage: Storage, bucket: str) -> Iterator[ResultRecord]:
    """All records, in no particular order; fetched lazily."""
    return (record for record in scan(storage, bucket) if record)


def scan(storage: Storage, bucket: str) -> Iterator[ResultRecord | None]:
    """All records, and None for each other object among them: a foreign file hides no record."""
    return _scan(storage, bucket, PREFIX)


def load_or_none(storage: Storage, bucket: str, key: str) -> ResultRecord | None:
    """The record at a key; None when it is gone or is not a record. Raises StorageUnavailable."""
    try:
        return load(storage, bucket, key)
    except Unavailable:
        raise
    except LunglineError as exc:
        if not isinstance(exc, ObjectGone):
            # Without its name, which may hold anything.
            _log.warning("An object among the results is not a result record; it is passed over.")
        return None


def _scan(storage: Storage, bucket: str, prefix: str) -> Iterator[ResultRecord | None]:
    for info in storage.list(bucket, prefix):
        if info.key.endswith(".json"):
            yield load_or_none(storage, bucket, info.key)
