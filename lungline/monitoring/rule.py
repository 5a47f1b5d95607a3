"""The rule that starts a training run, and the claim that lets only one of all who look start it.

    monitoring/retraining/000001.json    who started the first run by the rule, when, and why

The next claim has the next number and is written where there is none: of two monitors that find a cause at the same
time the store lets one through. A claim counts whatever becomes of its run: a run that fails would fail again.
"""

from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict, ValidationError

from lungline.errors import LunglineError
from lungline.monitoring.findings import MonitoringFindings
from lungline.storage.s3 import Storage

CLAIMS = "monitoring/retraining/"


class Claim(BaseModel):
    """One run that the rule started."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    at: datetime
    why: str


def drift(found: MonitoringFindings | None, champion: str | None, windows: int) -> tuple[bool, str]:
    """Whether the field of the champion has drifted for so many windows in a row, and a sentence that says so."""
    if found is None:
        return False, "Monitoring has not looked at the field yet."
    model = next((one for one in found.models if one.version == champion), None)
    if model is None:
        return False, f"The champion has no results since {found.since:%Y-%m-%d}."
    row = model.alarms_in_a_row
    if row < windows or row == 0:
        return False, f"{row} of the champion's latest windows differ from its reference; {windows} start a run."
    tests = ", ".join(model.windows[-1].comparison.alarms)
    which, verb = (f"latest {row} windows", "differ") if row > 1 else ("latest window", "differs")
    return True, f"The {which} of version {champion} {verb} from its reference ({tests})."


def last_claim(storage: Storage, bucket: str) -> Claim | None:
    """The latest run that the rule started."""
    keys = [info.key for info in storage.list(bucket, CLAIMS)]
    if not keys:
        return None
    try:
        return Claim.model_validate_json(storage.get(bucket, max(keys)).data)
    except ValidationError as exc:
        raise LunglineError(f"The latest claim under {CLAIMS} in bucket {bucket} cannot be read.") from exc


def claim(storage: Storage, bucket: str, why: str, cooldown: timedelta, now: datetime | None = None) -> Claim | None:
    """The right to start a run now, for a cause; None when one was started within the cooldown, or just now."""
    now = now or datetime.now(UTC)
    last = last_claim(storage, bucket)
    if last and now - last.at < cooldown:
        return None
    mine = Claim(number=last.number + 1 if last else 1, at=now, why=why)
    key = f"{CLAIMS}{mine.number:06}.json"
    return mine if storage.put_if_absent(bucket, key, mine.model_dump_json().encode(), "application/json") else None
