"""Reading records: what a reader said of an upload, as JSON in the results bucket.

    readings/ab/abcdef.../5f0c....json   one thing that a reader said of upload abcdef...

The worklist writes them; monitoring and a rebuild of the worklist's database read them.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import islice
from typing import Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from lungline import bounds
from lungline.errors import ObjectGone, ObjectTooLarge
from lungline.results.records import ResultLabel
from lungline.storage.s3 import Storage
from lungline.task.reading import DEFAULT
from lungline.task.task import MOST_FINDINGS
from lungline.task.terms import Presence

Action = Literal["read", "confirmed", "corrected", "reopened"]
Verdict = ResultLabel
"""The label of a finding, or Not usable."""
NOT_USABLE: Verdict = "Not usable"
PREFIX = "readings/"

READERS = 8
_PAGE = 200


class ReadingRecord(BaseModel):
    """A reading as it lies in S3, so that a lost database loses no label.

    A field that a later version adds is passed over, so that readings never become unreadable. `verdict` is the label
    of the most urgent finding that the reader sees; `findings` says of each positive one whether it is there, by its
    name, where the task has several.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1] = Field(default=1, validation_alias=AliasChoices("schema_version", "form"))
    id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")
    identity: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    record: str = Field(max_length=512)
    version: str = Field(max_length=128)
    task: str = Field(default=DEFAULT, max_length=40)
    label: str | None
    probability: float | None
    action: Action
    verdict: Verdict | None
    findings: dict[str, Presence] = Field(default_factory=dict, max_length=MOST_FINDINGS)
    comment: str
    reader: str
    at: datetime

    @property
    def key(self) -> str:
        """Where the reading lies in the results bucket."""
        return f"{PREFIX}{self.identity[:2]}/{self.identity}/{self.id}.json"


def of_upload(storage: Storage, bucket: str, identity: str) -> list[ReadingRecord]:
    """The readings of one upload, in no order. Raises StorageUnavailable."""
    return [reading for reading in _loaded(storage, bucket, f"{PREFIX}{identity[:2]}/{identity}/") if reading]


def stored(storage: Storage, bucket: str, since: datetime | None = None) -> Iterator[ReadingRecord | None]:
    """The readings stored since a moment, in no order; None for an object under `readings/` that is not one.

    One at an impossible time is none either. Raises StorageUnavailable.
    """
    return _loaded(storage, bucket, PREFIX, since)


def _loaded(
    storage: Storage, bucket: str, prefix: str, since: datetime | None = None
) -> Iterator[ReadingRecord | None]:
    keys = (info.key for info in storage.list(bucket, prefix) if since is None or info.modified >= since)

    def load(key: str) -> list[ReadingRecord | None]:
        try:
            reading = ReadingRecord.model_validate_json(
                storage.get(bucket, key, max_bytes=bounds.MAX_RECORD_BYTES).data
            )
        except ObjectGone:  # removed since it was listed
            return []
        except (ValidationError, ObjectTooLarge):
            return [None]
        at = bounds.recorded(reading.at)
        return [at and reading.model_copy(update={"at": at})]

    with ThreadPoolExecutor(READERS) as pool:
        while page := list(islice(keys, _PAGE)):
            for loaded in pool.map(load, page):
                yield from loaded
