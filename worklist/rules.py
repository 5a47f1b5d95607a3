"""Notice rules: which results are sent to whom.

    [[rule]]
    name = "urgent"
    label = ["Pneumonia"]             # any of these; empty: all
    risk = 0.8                        # at least
    prefix = "emergency/"             # of the object's key
    hours = "18:00-07:00"             # local time of the result; may span midnight
    to = [["mailto://..."], ["pover://..."]]   # Apprise addresses; the second group follows when nobody acknowledges
    escalate_minutes = 15

The target `file` adds a line to notices.log in the worklist's folder. The file of rules holds secrets: keep it 0600.
"""

import tomllib
from datetime import datetime, time
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from lungline.errors import SettingsError
from lungline.results.records import ResultRecord

LOCAL_FILE = "file"


class NoticeRule(BaseModel):
    """One rule; `to` is a list of groups, notified one after the other until somebody acknowledges."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$")]
    label: tuple[str, ...] = ()
    risk: float = Field(default=0.0, ge=0, le=1)
    prefix: str = ""
    hours: tuple[time, time] | None = None
    to: tuple[tuple[str, ...], ...] = Field(min_length=1, repr=False)
    escalate_minutes: float = Field(default=15, gt=0)

    @field_validator("hours", mode="before")
    @classmethod
    def _hours(cls, value: object) -> object:
        return tuple(value.split("-")) if isinstance(value, str) else value

    def fits(self, record: ResultRecord, now: datetime) -> bool:
        """Whether the rule applies to a result at a moment of local time."""
        return (
            record.label is not None
            and (not self.label or record.label in self.label)
            and (record.probability or 0.0) >= self.risk
            and record.upload.key.startswith(self.prefix)
            and self._is_open(now.time())
        )

    def _is_open(self, now: time) -> bool:
        if self.hours is None:
            return True
        begin, end = self.hours
        return begin <= now < end if begin <= end else now >= begin or now < end


DEFAULT = (NoticeRule(name="pneumonia", label=("Pneumonia",), to=((LOCAL_FILE,),)),)


def load_rules(path: Path | None) -> tuple[NoticeRule, ...]:
    """The rules of a file. Raises SettingsError, which shows no address: they hold passwords."""
    if path is None:
        return DEFAULT
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("rule", [])
        rules = TypeAdapter(tuple[NoticeRule, ...]).validate_python(tables)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"The notice rules in {path} cannot be read: {exc}.") from exc
    except ValidationError as exc:
        first = exc.errors(include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise SettingsError(f"The notice rules in {path} are wrong at {place}: {first['msg']}.") from None
    if len({rule.name for rule in rules}) < len(rules):
        raise SettingsError(f"Two notice rules in {path} have the same name.")
    for rule in rules:
        _check_targets(rule, path)
    return rules


def _check_targets(rule: NoticeRule, path: Path) -> None:
    import apprise

    for group in rule.to:
        for target in group:
            if target != LOCAL_FILE and not apprise.Apprise().add(target):
                raise SettingsError(f"A target of the notice rule {rule.name!r} in {path} is no Apprise address.")
