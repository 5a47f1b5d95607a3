"""The field: what lies in the results bucket since a moment, read in the order of the uploads.

Only names are held, 20,000 at most; records are fetched some hundred at a time, and given on one by one.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import islice
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from lungline import results
from lungline.datasets.patients import patient_in
from lungline.errors import ObjectGone
from lungline.monitoring.sample import Judged
from lungline.results import ResultRecord
from lungline.storage import Storage

# The latest; a hospital that judges more within the days that monitoring looks back is told of these.
MOST = 20_000
READERS = 8
_PAGE = 200
READINGS = "readings/"


class Reading(BaseModel):
    """What a reader said of an upload, as the worklist keeps it in S3; only what monitoring needs."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    identity: str
    version: str
    label: str | None
    probability: float | None
    verdict: Literal["Normal", "Pneumonia", "Not usable"] | None
    at: datetime


def names(storage: Storage, bucket: str, since: datetime, most: int = MOST) -> list[tuple[str, str]]:
    """Keys and model versions of the records since a moment, the oldest first."""
    return list(islice(results.keys_since(storage, bucket, since), most))[::-1]


def records(storage: Storage, bucket: str, keys: list[str]) -> Iterator[ResultRecord | None]:
    """The records at keys, in their order; None where there is none any more or the upload was never judged."""

    def read(key: str) -> ResultRecord | None:
        try:
            record = results.load(storage, bucket, key)
        except ObjectGone:  # it was never written, or removed since
            return None
        return record if record.outcome in {"judged", "refused"} else None

    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(keys), _PAGE):
            yield from pool.map(read, keys[start : start + _PAGE])


def judged(record: ResultRecord, pattern: re.Pattern[str] | None) -> Judged:
    """A record as tests compare it; who it is about is compared, and goes nowhere."""
    return Judged(
        record.label or "Refused", record.probability, record.observed, patient_in(record.upload.key, pattern)
    )


def readings(storage: Storage, bucket: str, since: datetime) -> dict[str, list[Reading]]:
    """The last verdict on each upload since a moment, by the model version that the reader saw."""
    last: dict[tuple[str, str], Reading] = {}
    found = (info.key for info in storage.list(bucket, READINGS) if info.modified >= since)

    def read(key: str) -> Reading | None:
        try:
            return Reading.model_validate_json(storage.get(bucket, key).data)
        except (ObjectGone, ValidationError):
            return None

    with ThreadPoolExecutor(READERS) as pool:
        while page := list(islice(found, _PAGE)):
            for one in pool.map(read, page):
                if one and one.verdict in {"Normal", "Pneumonia"}:
                    place = (one.identity, one.version)
                    if place not in last or last[place].at <= one.at:
                        last[place] = one
    versions: dict[str, list[Reading]] = {}
    for one in last.values():
        versions.setdefault(one.version, []).append(one)
    return versions
