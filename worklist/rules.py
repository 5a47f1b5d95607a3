"""Notice rules: which results are sent to whom.

    [[rule]]
    name = "urgent"
    task = ["pneumonia"]              # any of these; empty: all
    label = ["Pneumonia"]             # any of these; empty: all
    urgency = ["urgent"]              # of a finding that is there: urgent, soon or routine; empty: any
    risk = 0.8                        # at least
    prefix = "emergency/"             # of the object's key
    hours = "18:00-07:00"             # local time of the result; may span midnight
    to = [["mailto://..."], ["pover://..."]]   # Apprise addresses; the second group follows when nobody acknowledges
    escalate_minutes = 15

The target `file` adds a line to notices.log in the worklist's folder. The file of rules holds secrets: keep it 0600.

A rule that can never apply is refused, with its line and the nearest right word: nobody would notice its silence.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, time
from functools import cache
from pathlib import Path
from typing import Annotated, Any, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from lungline.results.records import ResultRecord
from lungline.rule_file import RuleFile, nearest, suggestion
from lungline.task.finding import Urgency
from lungline.task.reading import DEFAULT as DEFAULT_TASK
from lungline.task.reading import packaged
from lungline.task.terms import TaskTerms, default_terms, packaged_terms
from worklist.tasks import labels_that_may_come, urgencies_of

LOCAL_FILE = "file"
MAX_ESCALATION_MINUTES = 7 * 24 * 60
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
_TASK = re.compile(r"[a-z][a-z0-9-]{0,38}[a-z0-9]")
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def _labels_of(values: Mapping[str, Any], own: TaskTerms | None) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The labels that a rule may name, and those to name to a person; None where nobody here knows its tasks.

    Only what does not depend on the results that have come: a rule that is right stays so with an empty database.
    """
    own = own or default_terms()
    at_hand = {task.name: task for task in (*_packaged(), own)}
    names = values.get("task") or ()
    if any(name not in at_hand for name in names):
        return None
    chosen = [at_hand[name] for name in names]
    return labels_that_may_come(chosen or list(at_hand.values())), labels_that_may_come(chosen or [own])


@cache
def _packaged() -> tuple[TaskTerms, ...]:
    return tuple(terms for terms in map(packaged_terms, packaged()) if terms)


class ResultRule(BaseModel):
    """Which results a rule is about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    task: tuple[str, ...] = ()
    label: tuple[str, ...] = ()
    urgency: tuple[Urgency, ...] = ()
    risk: Annotated[float, Field(ge=0, le=1)] = 0.0
    prefix: str = ""

    @field_validator("name", mode="before")
    @classmethod
    def _check_name(cls, value: object) -> object:
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise ValueError('expected a text of up to 64 letters, digits, blanks, ".", "_" and "-"')
        return value

    @field_validator("task", mode="before")
    @classmethod
    def _check_task(cls, value: object) -> object:
        example = default_terms().name
        if not isinstance(value, list | tuple):
            raise ValueError(f'expected a list, such as ["{example}"]')  # noqa: TRY004 - pydantic expects it
        for name in cast("Sequence[object]", value):
            if not isinstance(name, str) or not _TASK.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a task; expected lower-case letters, digits and hyphens")
        return cast("object", value)

    @field_validator("label", mode="before")
    @classmethod
    def _check_label(cls, value: object, info: ValidationInfo) -> object:
        own = cast("TaskTerms | None", info.context)
        allowed, near = _labels_of(info.data, own) or (None, labels_that_may_come([own or default_terms()]))
        if not isinstance(value, list | tuple):
            raise ValueError(f'expected a list, such as ["{nearest(value, near) or near[1]}"]')  # noqa: TRY004 - pydantic expects it
        for label in cast("Sequence[object]", value):
            is_label = isinstance(label, str) and (allowed is None or label in allowed)
            if not is_label:
                raise ValueError(f"{label!r} is not a label; {suggestion(label, near)}")
        return cast("object", value)

    @field_validator("urgency", mode="before")
    @classmethod
    def _check_urgency(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            raise ValueError('expected a list, such as ["urgent"]')  # noqa: TRY004 - pydantic expects it
        for urgency in cast("Sequence[object]", value):
            if urgency not in get_args(Urgency):
                raise ValueError(f"{urgency!r} is no urgency; {suggestion(urgency, get_args(Urgency))}")
        return cast("object", value)

    @field_validator("risk", mode="before")
    @classmethod
    def _check_risk(cls, value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("expected a number from 0 to 1, such as 0.8")  # noqa: TRY004 - pydantic expects it
        if not 0 <= value <= 1:
            hint = f"; write {value / 100:g} for {value:g} percent" if 1 < value <= 100 else ""
            raise ValueError(f"expected a number from 0 to 1, not {value:g}{hint}")
        return value

    @field_validator("prefix", mode="before")
    @classmethod
    def _check_prefix(cls, value: object) -> object:
        if not isinstance(value, str):
            raise ValueError('expected a text, such as "emergency/"')  # noqa: TRY004 - pydantic expects it
        if "://" in value or value.startswith("/"):
            raise ValueError("a key names neither the bucket nor begins with a slash; write for example emergency/")
        if "\\" in value or set(value) & set("*?"):
            raise ValueError("a prefix is compared as it is, without wildcards and with forward slashes")
        if value != value.strip():
            raise ValueError("the prefix begins or ends with a blank")
        return value

    def is_about(self, record: ResultRecord) -> bool:
        """Whether a result is among them; of a result with several findings each of its labels counts."""
        return (
            record.label is not None
            and (not self.task or record.task in self.task)
            and (not self.label or not {record.label, *record.present}.isdisjoint(self.label))
            and (not self.urgency or not urgencies_of(record).isdisjoint(self.urgency))
            and (record.probability or 0.0) >= self.risk
            and record.upload.key.startswith(self.prefix)
        )


class NoticeRule(ResultRule):
    """One rule; `to` is a list of groups, notified one after the other until somebody acknowledges."""

    hours: tuple[time, time] | None = None
    to: tuple[tuple[str, ...], ...] = Field(repr=False)
    escalate_minutes: float = 15.0

    @field_validator("hours", mode="before")
    @classmethod
    def _check_hours(cls, value: object) -> object:
        if isinstance(value, tuple):
            return cast("object", value)
        match = _HOURS.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise ValueError('expected "HH:MM-HH:MM" from 00:00 to 23:59, such as "18:00-07:00"')
        numbers = [int(group) for group in match.groups()]
        begin, end = time(numbers[0], numbers[1]), time(numbers[2], numbers[3])
        if begin == end:
            raise ValueError("begin and end are the same, so the rule would never apply; leave hours out for all day")
        return begin, end

    @field_validator("to", mode="before")
    @classmethod
    def _check_to(cls, value: object) -> object:
        groups = cast("Sequence[object]", value) if isinstance(value, list | tuple) else ()
        for group in groups:
            targets = cast("Sequence[object]", group) if isinstance(group, list | tuple) else ()
            if not targets or not all(isinstance(target, str) for target in targets):
                raise ValueError('expected a list of groups, each a list of addresses, such as [["mailto://..."]]')
            for target in cast("Sequence[str]", targets):
                _check_target(target)
        if not groups:
            raise ValueError('expected a list of groups, each a list of addresses, such as [["mailto://..."]]')
        return groups

    @field_validator("escalate_minutes", mode="before")
    @classmethod
    def _check_minutes(cls, value: object) -> object:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < cast("float", value) <= MAX_ESCALATION_MINUTES:
            raise ValueError(f"expected a number of minutes above 0, at most {MAX_ESCALATION_MINUTES}")
        return value

    @model_validator(mode="after")
    def _check_whole(self) -> "NoticeRule":
        if "escalate_minutes" in self.model_fields_set and len(self.to) == 1:
            raise ValueError("escalate_minutes has no effect without a second group in `to`")
        if self.risk > 0 and self.label and set(self.label) <= {"Refused"}:
            raise ValueError("a refused image has no risk, so the rule would never apply; leave risk out")
        return self

    def fits(self, record: ResultRecord, now: datetime) -> bool:
        """Whether the rule applies to a result at a moment of local time."""
        return self.is_about(record) and self._is_open(now.time())

    def _is_open(self, now: time) -> bool:
        if self.hours is None:
            return True
        begin, end = self.hours
        return begin <= now < end if begin <= end else now >= begin or now < end


FIELDS = tuple(NoticeRule.model_fields)
# What people write instead, where the letters give no hint.
_SYNONYMS = {
    **dict.fromkeys(("threshold", "probability", "score"), "risk"),
    **dict.fromkeys(("target", "targets", "url"), "to"),
    **dict.fromkeys(("folder", "key"), "prefix"),
    **dict.fromkeys(("time", "from"), "hours"),
}


def load_rules(path: Path | None, own: TaskTerms | None = None) -> tuple[NoticeRule, ...]:
    """The rules of a file, whose labels are those of tasks that come with the package or of the worklist's own.

    Raises SettingsError with a line, but never an address: addresses hold passwords.
    """
    if path is None:
        return DEFAULT
    file = RuleFile.read(path, "notice rules", "rule")
    tables = file.tables(FIELDS, "so nobody would be notified")
    rules = tuple(_rule(file, number, table, own) for number, table in enumerate(tables))
    file.require_names([rule.name for rule in rules])
    return rules


def _rule(file: RuleFile, number: int, table: dict[str, Any], own: TaskTerms | None) -> NoticeRule:
    return file.model(NoticeRule, number, table, _SYNONYMS, whole="risk", context=own)


def _check_target(target: str) -> None:
    import apprise

    if target == LOCAL_FILE or apprise.Apprise().add(target):
        return
    scheme, separator, _ = target.partition("://")
    if separator and re.fullmatch(r"[A-Za-z0-9+.-]{1,30}", scheme):
        schemes = [name for plugin in apprise.Apprise().details()["schemas"] for name in _schemes(plugin)]
        if scheme.lower() in schemes:
            raise ValueError(f"an address of {scheme}:// is incomplete; see Apprise's documentation of that service")
        raise ValueError(f"{scheme}:// is not a service of Apprise; {suggestion(scheme, schemes)}")
    hint = ' did you mean "file"?' if nearest(target, [LOCAL_FILE]) else ""
    raise ValueError(
        f"a target is neither an Apprise address, such as mailto://..., nor the word file;{hint}".rstrip(";")
    )


def _schemes(plugin: dict[str, Any]) -> Iterable[str]:
    return [*(plugin.get("protocols") or ()), *(plugin.get("secure_protocols") or ())]


class UrgentElsewhere(NoticeRule):
    """Urgent findings of every other task than the default one."""

    def is_about(self, record: ResultRecord) -> bool:
        """Whether a result is among them."""
        return record.task != DEFAULT_TASK and super().is_about(record)


DEFAULT = (
    NoticeRule(name=DEFAULT_TASK, task=(DEFAULT_TASK,), urgency=("urgent",), to=((LOCAL_FILE,),)),
    UrgentElsewhere(name="urgent", urgency=("urgent",), to=((LOCAL_FILE,),)),
)
