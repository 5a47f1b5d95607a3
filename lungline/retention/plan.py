"""What is to be erased, written down before anything is: after a crash the same erasure goes on from there.

erasures/<id>.json     in the patients bucket, because it holds keys; removed once the proof is stored
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from lungline.errors import LunglineError, ObjectGone
from lungline.retention.rules import EVERYWHERE, Kind
from lungline.retention.subjects import Subject
from lungline.settings import Settings
from lungline.storage.s3 import Storage

PREFIX = "erasures/"


class Plan(BaseModel):
    """An erasure: which uploads, from which buckets, on whose word; `before` is how much there was of what."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1] = 1
    id: str = Field(pattern=r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}$")
    at: AwareDatetime
    by: str
    reason: str
    subjects: tuple[Subject, ...]
    kinds: tuple[Kind, ...] = EVERYWHERE
    patient_id: str | None = Field(default=None, repr=False)
    before: dict[str, int] = {}

    @classmethod
    def of(
        cls,
        subjects: Sequence[Subject],
        before: Mapping[str, int],
        *,
        by: str,
        reason: str,
        kinds: Sequence[Kind] = EVERYWHERE,
        patient_id: str | None = None,
    ) -> "Plan":
        """A new plan."""
        at = datetime.now(UTC)
        return cls(
            id=f"{at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}",
            at=at,
            by=by,
            reason=reason,
            subjects=tuple(subjects),
            kinds=tuple(kinds),
            patient_id=patient_id,
            before=dict(before),
        )

    @property
    def key(self) -> str:
        """Where it lies in the patients bucket."""
        return f"{PREFIX}{self.id}.json"

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the uploads is to stay."""
        return set(self.kinds) == set(EVERYWHERE)

    def save(self, storage: Storage, settings: Settings) -> None:
        """Write it down. Raises StorageUnavailable."""
        storage.put(settings.patients_bucket, self.key, self.model_dump_json().encode(), "application/json")


def unfinished(storage: Storage, settings: Settings) -> Iterator[Plan]:
    """The erasures that have begun and not ended, the oldest first. Raises StorageUnavailable, and LunglineError."""
    bucket = settings.patients_bucket
    for info in storage.list(bucket, PREFIX):
        try:
            yield Plan.model_validate_json(storage.get(bucket, info.key).data)
        except ObjectGone:  # it has ended since it was listed
            continue
        except ValidationError:
            raise LunglineError(f"The plan of an erasure, {info.key} in {bucket}, cannot be read.") from None
