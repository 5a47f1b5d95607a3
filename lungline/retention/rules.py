"""Retention rules: what is erased by itself, and when.

    dry_run = true                     # say what is due, and erase nothing

    [[rule]]
    name = "normal X-rays"
    bucket = ["uploads", "results", "patients", "research"]
    label = ["Normal"]                 # all labels by default
    task = ["pneumonia"]               # all tasks by default
    days = 3650                        # since the upload

Each rule stands for itself: what any of them makes due is erased, unless a legal hold is on it. Without a file nothing
is ever erased.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lungline.errors import SettingsError
from lungline.results.records import ResultRecord
from lungline.rule_file import RuleFile

Kind = Literal["uploads", "results", "patients", "research"]
"""The buckets of X-rays; results have the rows of the worklist with them."""
EVERYWHERE: tuple[Kind, ...] = get_args(Kind)
LEAST_RESULT_DAYS = 184
"""Six months: result and reading records are the logs that the use of such a system must keep."""

_SYNONYMS = {"buckets": "bucket", "labels": "label", "tasks": "task", "age": "days", "age_days": "days"}


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Kinds = Annotated[tuple[Kind, ...], BeforeValidator(_listed), Field(min_length=1)]
Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class RetentionRule(BaseModel):
    """One rule; `days` is the age since the upload from which on it erases."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$")
    bucket: Kinds
    label: Names = ()
    task: Names = ()
    days: int = Field(ge=1, le=36_500)

    @model_validator(mode="after")
    def _check_whole(self) -> "RetentionRule":
        if "results" in self.bucket and "uploads" not in self.bucket:
            raise ValueError("bucket has results without uploads: an X-ray without a result would be judged again")
        if "results" in self.bucket and self.days < LEAST_RESULT_DAYS:
            raise ValueError(f"days must be at least {LEAST_RESULT_DAYS} where results are erased, as their log is")
        return self

    def is_due(self, record: ResultRecord, now: datetime) -> bool:
        """Whether an upload with this result is old enough."""
        return (
            (not self.label or record.label in self.label)
            and (not self.task or record.task in self.task)
            and age_of(record, now) >= timedelta(days=self.days)
        )


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """The rules of a file, none without one."""

    rules: tuple[RetentionRule, ...] = ()
    dry_run: bool = False

    @property
    def least_days(self) -> int:
        """The age of the youngest upload that any rule may erase."""
        return min((rule.days for rule in self.rules), default=36_500)

    def kinds_due(self, records: Sequence[ResultRecord], now: datetime) -> tuple[Kind, ...]:
        """From which buckets an upload with these results is to be erased; each of several must be due."""
        due = {kind for rule in self.rules if all(rule.is_due(each, now) for each in records) for kind in rule.bucket}
        return tuple(kind for kind in EVERYWHERE if kind in due)


def age_of(record: ResultRecord, now: datetime) -> timedelta:
    """The time since an upload."""
    return now - (record.times.uploaded or record.times.received)


def load_rules(path: Path | None) -> RetentionRules:
    """The rules of a file. Raises SettingsError, which names the line."""
    if path is None:
        return RetentionRules()
    file = RuleFile.read(path, "retention rules", "rule")
    tables, dry_run = file.tables_beside(tuple(RetentionRule.model_fields), "so it erases nothing", {"dry_run": False})
    if not isinstance(dry_run["dry_run"], bool):
        raise SettingsError(f"The retention rules in {path} are wrong: dry_run must be true or false.")
    rules = tuple(file.model(RetentionRule, at, each, _SYNONYMS, whole="days") for at, each in enumerate(tables))
    file.require_names([rule.name for rule in rules])
    return RetentionRules(rules, dry_run["dry_run"])
