"""Legal holds: an upload or a patient whose images must not be erased, by no rule and by no command.

holds/<id>.json     in the patients bucket, because a hold on a patient names the patient
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from lungline.errors import LunglineError, ObjectGone
from lungline.retention.subjects import Subject
from lungline.settings import Settings
from lungline.storage.s3 import Storage

PREFIX = "holds/"
_MOST_BYTES = 16_384


class OnHold(LunglineError):
    """A legal hold forbids an erasure."""


class Hold(BaseModel):
    """A legal hold, on an upload or on a patient; `issuer` is who gave the Patient ID, None for any."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: Literal[1] = 1
    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    identity: str | None = None
    patient_id: str | None = Field(default=None, repr=False)
    issuer: str | None = Field(default=None, repr=False)
    by: str
    reason: str
    at: AwareDatetime

    @model_validator(mode="after")
    def _check_whole(self) -> "Hold":
        if bool(self.identity) == bool(self.patient_id):
            raise ValueError("expected an upload or a patient")
        return self

    @property
    def key(self) -> str:
        """Where it lies in the patients bucket."""
        return f"{PREFIX}{self.id}.json"

    def is_on(self, subject: Subject) -> bool:
        """Whether it is on an upload."""
        if self.identity:
            return self.identity == subject.identity
        return self.patient_id == subject.patient_id and self.issuer in (None, subject.issuer)


@dataclass(frozen=True, slots=True)
class Holds:
    """The holds of a site. Raises StorageUnavailable, and LunglineError for one that cannot be read."""

    storage: Storage
    settings: Settings

    def every(self) -> list[Hold]:
        """All holds, the oldest first."""
        infos = self.storage.list(self.settings.patients_bucket, PREFIX)
        return sorted((hold for info in infos if (hold := self._read(info.key))), key=lambda hold: hold.at)

    def add(
        self,
        *,
        identity: str | None = None,
        patient_id: str | None = None,
        issuer: str | None = None,
        by: str,
        reason: str,
    ) -> Hold:
        """Put a hold on an upload or a patient."""
        now = datetime.now(UTC)
        hold = Hold(
            id=secrets.token_hex(6),
            identity=identity,
            patient_id=patient_id,
            issuer=issuer,
            by=by,
            reason=reason,
            at=now,
        )
        data = hold.model_dump_json().encode()
        self.storage.put_once(self.settings.patients_bucket, hold.key, data, "application/json")
        return hold

    def remove(self, name: str) -> Hold:
        """Lift a hold. Raises LunglineError where there is none of this name."""
        hold = next((each for each in self.every() if each.id == name), None)
        if hold is None:
            raise LunglineError(f"There is no hold {name!r}; `lungline hold list` names all.")
        self.storage.delete(self.settings.patients_bucket, hold.key)
        return hold

    def require_none(self, subjects: Sequence[Subject]) -> None:
        """Raise OnHold where a hold is on any of these uploads."""
        holds = self.every()
        held = [subject for subject in subjects if any(hold.is_on(subject) for hold in holds)]
        if held:
            names = sorted({hold.id for hold in holds for subject in held if hold.is_on(subject)})
            raise OnHold(
                f"Nothing is erased: legal hold {', '.join(names)} is on {len(held)} of {len(subjects)} uploads."
            )

    def _read(self, key: str) -> Hold | None:
        try:
            return Hold.model_validate_json(
                self.storage.get(self.settings.patients_bucket, key, max_bytes=_MOST_BYTES).data
            )
        except ObjectGone:  # lifted since it was listed
            return None
        except ValidationError:
            raise LunglineError(
                "A legal hold cannot be read, and it may be on any upload: mend or remove it."
            ) from None
