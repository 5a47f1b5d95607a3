"""TOML files of rules: a name that is unknown or a value that cannot be is refused with its line.

The nearest right word is named as well, and never a value: values hold passwords.
"""

import codecs
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from lungline.errors import SettingsError

Rule = TypeVar("Rule", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class RuleFile:
    """The text of a file of tables `[[table]]`; `title` is what it is called in messages, `effect` what it does."""

    path: Path
    title: str
    table: str
    text: str

    @classmethod
    def read(cls, path: Path, title: str, table: str) -> "RuleFile":
        """Read a file. Raises SettingsError."""
        return cls(path, title, table, _read(path, title))

    def tables(self, fields: Sequence[str], nothing: str) -> list[dict[str, Any]]:
        """Its tables, at least one; `nothing` says what comes of none. Raises SettingsError."""
        return self.tables_beside(fields, nothing, {})[0]

    def tables_beside(
        self, fields: Sequence[str], nothing: str, values: Mapping[str, object]
    ) -> tuple[list[dict[str, Any]], dict[str, object]]:
        """Its tables, and the values beside them, whose defaults are given. Raises SettingsError."""
        try:
            document = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as exc:
            raise SettingsError(f"The {self.title} in {self.path} are not valid TOML: {exc}.") from None
        for name in document:
            if name != self.table and name not in values:
                hint = f"fields belong below [[{self.table}]]" if name in fields else f"did you mean [[{self.table}]]?"
                raise self.refusal(self._line_of_key(name), f"unknown name {name!r}; {hint}")
        tables = document.get(self.table, [])
        line = self._line_of_key(self.table)
        if isinstance(tables, dict):
            raise self.refusal(line, f"write [[{self.table}]], with two brackets, for each {self.table}")
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in cast("list[object]", tables)):
            raise self.refusal(line, f"{self.table} must be a table; write [[{self.table}]] above its fields")
        if not tables:
            sentence = f"the file holds no {self.table}, {nothing}; it needs at least one [[{self.table}]]"
            raise self.refusal(1, sentence)
        beside = {name: document.get(name, default) for name, default in values.items()}
        return cast("list[dict[str, Any]]", tables), beside

    def model(  # one table, and which of its fields a fault of the whole belongs to
        self,
        kind: type[Rule],
        number: int,
        table: dict[str, Any],
        synonyms: Mapping[str, str],
        *,
        whole: str,
        context: object = None,
    ) -> Rule:
        """One table as a rule. Raises SettingsError."""
        fields = tuple(kind.model_fields)
        for field in table:
            if field not in fields:
                hint = suggestion(synonyms.get(field, field), fields)
                raise self.refusal(self.line(number, field), f"unknown field {field!r}; {hint}")
        try:
            return kind.model_validate(table, context=context)
        except ValidationError as exc:
            error = exc.errors(include_input=False, include_url=False)[0]
        message = error["msg"].removeprefix("Value error, ")
        subject = message.split(" ")[0]
        field = str(error["loc"][0]) if error["loc"] else subject if subject in fields else whole
        if error["type"] == "missing":
            raise self.refusal(self.line(number), f"the {self.table} has no {field}")
        raise self.refusal(self.line(number, field), f"{field}: {message}")

    def require_names(self, names: Sequence[str]) -> None:
        """Refuse a name that is used twice."""
        for number, name in enumerate(names):
            if name in names[:number]:
                line = self.line(number, "name")
                raise self.refusal(line, f"another {self.table} has the name {name!r} already")

    def refusal(self, line: int, message: str) -> SettingsError:
        """What is wrong, and where."""
        end = "" if message.endswith("?") else "."
        return SettingsError(f"The {self.title} in {self.path} are wrong in line {line}: {message}{end}")

    def line(self, number: int, field: str | None = None) -> int:
        """The line of a field of the table with this number, from 0; else of its header."""
        lines = self.text.splitlines()
        header = rf"\s*\[\[\s*[\"']?{self.table}[\"']?\s*\]\]"
        headers = [at for at, line in enumerate(lines) if re.match(header, line)]
        if number >= len(headers):  # written as an array of inline tables
            return self._line_of_key(field or self.table)
        first = headers[number]
        last = headers[number + 1] if number + 1 < len(headers) else len(lines)
        for at in range(first + 1, last):
            if field and re.match(rf"\s*[\"']?{re.escape(field)}[\"']?\s*[=.]", lines[at]):
                return at + 1
        return first + 1

    def _line_of_key(self, name: str) -> int:
        """The first line that uses a name as a table or a key."""
        quoted = rf"[\"']?{re.escape(name)}[\"']?"
        for at, line in enumerate(self.text.splitlines()):
            if re.match(rf"\s*\[{{1,2}}\s*{quoted}\s*[\].]|\s*{quoted}\s*[=.]", line) or re.search(
                rf"\b{quoted}\s*=", line
            ):
                return at + 1
        return 1


def _read(path: Path, title: str) -> str:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise SettingsError(f"The {title} in {path} cannot be read: {exc.strerror}.") from exc
    wrong = f"The {title} in {path} are wrong in line"
    if data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise SettingsError(f"{wrong} 1: the file begins with a byte order mark; save it as UTF-8 without one.")
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        line = data[: exc.start].count(b"\n") + 1
        raise SettingsError(f"{wrong} {line}: the text is not UTF-8; save the file as UTF-8.") from None


def nearest(word: object, words: Iterable[str]) -> str | None:
    """The word that is most like another, when one is."""
    by_folded = {name.casefold(): name for name in words}
    matches = get_close_matches(str(word).casefold().strip(), by_folded, 1, 0.5)
    return by_folded[matches[0]] if matches else None


def suggestion(word: object, words: Sequence[str]) -> str:
    """What was meant instead of a wrong word."""
    meant = nearest(word, words)
    return f'did you mean "{meant}"?' if meant else f"expected {', '.join(words[:8])}"
