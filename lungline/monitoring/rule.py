"""The rule that starts a training run, and the claim that lets only one monitor start it.

    monitoring/retraining/000001.json    the first run that the rule started: when, and why

The next claim has the next number and is written with a conditional put: of two concurrent monitors the store lets one
through. A claim counts even if its run fails, because the next run would fail as well.
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


def drift(findings: MonitoringFindings | None, champion: str | None, windows: int) -> tuple[bool, str]:
    """Whether the champion's data have drifted for so many windows in a row, and a sentence that says so."""
    if findings is None:
        return False, "Monitoring has not run yet."
    model = next((model for model in findings.models if model.version == champion), None)
    if model is None:
        return False, f"The champion has no results since {findings.since:%Y-%m-%d}."
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
    """Claim a run for a cause; None if one was started within the cooldown, or concurrently."""
    now = now or datetime.now(UTC)
    last = last_claim(storage, bucket)
    if last and now - last.at < cooldown:
        return None
    mine = Claim(number=last.number + 1 if last else 1, at=now, why=why)
    key = f"{CLAIMS}{mine.number:06}.json"
    return mine if storage.put_if_absent(bucket, key, mine.model_dump_json().encode(), "application/json") else None
