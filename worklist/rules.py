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

A rule that can never apply is refused, with its line and the nearest right word: nobody would notice its silence.
"""

import codecs
import re
import tomllib
from collections.abc import Iterable, Sequence
from datetime import datetime, time
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lungline.errors import SettingsError
from lungline.results.records import ResultLabel, ResultRecord

LOCAL_FILE = "file"
LABELS: tuple[str, ...] = get_args(ResultLabel)
MAX_ESCALATION_MINUTES = 7 * 24 * 60
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class NoticeRule(BaseModel):
    """One rule; `to` is a list of groups, notified one after the other until somebody acknowledges."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    label: tuple[str, ...] = ()
    risk: Annotated[float, Field(ge=0, le=1)] = 0.0
    prefix: str = ""
    hours: tuple[time, time] | None = None
    to: tuple[tuple[str, ...], ...] = Field(repr=False)
    escalate_minutes: float = 15.0

    @field_validator("name", mode="before")
    @classmethod
    def _check_name(cls, value: object) -> object:
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise ValueError('expected a text of up to 64 letters, digits, blanks, ".", "_" and "-"')
        return value

    @field_validator("label", mode="before")
    @classmethod
    def _check_label(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            raise ValueError(f'expected a list, such as ["{_nearest(value, LABELS) or "Pneumonia"}"]')  # noqa: TRY004 - pydantic expects it
        for label in cast("Sequence[object]", value):
            if label not in LABELS:
                raise ValueError(f"{label!r} is not a label; {_suggestion(label, LABELS)}")
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


FIELDS = tuple(NoticeRule.model_fields)
# What people write instead, where the letters give no hint.
_SYNONYMS = {
    **dict.fromkeys(("threshold", "probability", "score"), "risk"),
    **dict.fromkeys(("target", "targets", "url"), "to"),
    **dict.fromkeys(("folder", "key"), "prefix"),
    **dict.fromkeys(("time", "from"), "hours"),
}


def load_rules(path: Path | None) -> tuple[NoticeRule, ...]:
    """The rules of a file. Raises SettingsError with a line, but never an address: addresses hold passwords."""
    if path is None:
        return DEFAULT
    text = _read(path)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"The notice rules in {path} are not valid TOML: {exc}.") from None
    tables = _tables(path, text, document)
    rules = tuple(_rule(path, text, number, table) for number, table in enumerate(tables))
    for number, rule in enumerate(rules):
        if rule.name in [earlier.name for earlier in rules[:number]]:
            raise _refusal(path, _line(text, number, "name"), f"another rule has the name {rule.name!r} already")
    return rules


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise SettingsError(f"The notice rules in {path} cannot be read: {exc.strerror}.") from exc
    if data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise _refusal(path, 1, "the file begins with a byte order mark; save it as UTF-8 without one")
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        line = data[: exc.start].count(b"\n") + 1
        raise _refusal(path, line, "the text is not UTF-8; save the file as UTF-8") from None


def _tables(path: Path, text: str, document: dict[str, Any]) -> list[dict[str, Any]]:
    for name in document:
        if name != "rule":
            hint = "fields belong below [[rule]]" if name in FIELDS else "did you mean [[rule]]?"
            raise _refusal(path, _line_of_key(text, name), f"unknown name {name!r}; {hint}")
    tables = document.get("rule", [])
    if isinstance(tables, dict):
        raise _refusal(path, _line_of_key(text, "rule"), "write [[rule]], with two brackets, for each rule")
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in cast("list[object]", tables)):
        raise _refusal(path, _line_of_key(text, "rule"), "rule must be a table; write [[rule]] above its fields")
    if not tables:
        raise _refusal(path, 1, "the file holds no rule, so nobody would be notified; it needs at least one [[rule]]")
    return cast("list[dict[str, Any]]", tables)


def _rule(path: Path, text: str, number: int, table: dict[str, Any]) -> NoticeRule:
    for field in table:
        if field not in FIELDS:
            line = _line(text, number, field)
            raise _refusal(path, line, f"unknown field {field!r}; {_suggestion(_SYNONYMS.get(field, field), FIELDS)}")
    try:
        return NoticeRule.model_validate(table)
    except ValidationError as exc:
        error = exc.errors(include_input=False, include_url=False)[0]
        field = str(error["loc"][0]) if error["loc"] else "escalate_minutes" if "escalate" in error["msg"] else "risk"
        if error["type"] == "missing":
            raise _refusal(path, _line(text, number), f"the rule has no {field}") from None
        message = error["msg"].removeprefix("Value error, ")
        raise _refusal(path, _line(text, number, field), f"{field}: {message}") from None


def _check_target(target: str) -> None:
    import apprise

    if target == LOCAL_FILE or apprise.Apprise().add(target):
        return
    scheme, separator, _ = target.partition("://")
    if separator and re.fullmatch(r"[A-Za-z0-9+.-]{1,30}", scheme):
        schemes = [name for plugin in apprise.Apprise().details()["schemas"] for name in _schemes(plugin)]
        if scheme.lower() in schemes:
            raise ValueError(f"an address of {scheme}:// is incomplete; see Apprise's documentation of that service")
        raise ValueError(f"{scheme}:// is not a service of Apprise; {_suggestion(scheme, schemes)}")
    hint = ' did you mean "file"?' if _nearest(target, [LOCAL_FILE]) else ""
    raise ValueError(
        f"a target is neither an Apprise address, such as mailto://..., nor the word file;{hint}".rstrip(";")
    )


def _schemes(plugin: dict[str, Any]) -> Iterable[str]:
    return [*(plugin.get("protocols") or ()), *(plugin.get("secure_protocols") or ())]


def _nearest(word: object, words: Iterable[str]) -> str | None:
    by_folded = {name.casefold(): name for name in words}
    matches = get_close_matches(str(word).casefold().strip(), by_folded, 1, 0.5)
    return by_folded[matches[0]] if matches else None


def _suggestion(word: object, words: Sequence[str]) -> str:
    nearest = _nearest(word, words)
    return f'did you mean "{nearest}"?' if nearest else f"expected {', '.join(words[:8])}"


def _refusal(path: Path, line: int, message: str) -> SettingsError:
    end = "" if message.endswith("?") else "."
    return SettingsError(f"The notice rules in {path} are wrong in line {line}: {message}{end}")


def _line(text: str, number: int, field: str | None = None) -> int:
    """The line of a field of the rule with this number, from 0; else of its header."""
    lines = text.splitlines()
    headers = [at for at, line in enumerate(lines) if re.match(r"\s*\[\[\s*[\"']?rule[\"']?\s*\]\]", line)]
    if number >= len(headers):  # written as an array of inline tables
        return _line_of_key(text, field or "rule")
    first = headers[number]
    last = headers[number + 1] if number + 1 < len(headers) else len(lines)
    for at in range(first + 1, last):
        if field and re.match(rf"\s*[\"']?{re.escape(field)}[\"']?\s*[=.]", lines[at]):
            return at + 1
    return first + 1


def _line_of_key(text: str, name: str) -> int:
    """The first line that uses a name as a table or a key."""
    quoted = rf"[\"']?{re.escape(name)}[\"']?"
    for at, line in enumerate(text.splitlines()):
        if re.match(rf"\s*\[{{1,2}}\s*{quoted}\s*[\].]|\s*{quoted}\s*[=.]", line) or re.search(
            rf"\b{quoted}\s*=", line
        ):
            return at + 1
    return 1


DEFAULT = (NoticeRule(name="pneumonia", label=("Pneumonia",), to=((LOCAL_FILE,),)),)
