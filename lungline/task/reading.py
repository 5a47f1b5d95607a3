"""Read a task file. What is wrong in it is said in one sentence: where, what was expected, and what is there."""

import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from lungline.errors import TaskError
from lungline.task.colours import faint_colours
from lungline.task.task import Task

DEFAULT = "pneumonia"
SUFFIX = ".toml"
_MOST_BYTES = 1_000_000
_SHOWN = 60
_PLACE = re.compile(r"([a-z_]+(?:\.[a-z_0-9]+)*): (.*)", re.DOTALL)

Place = tuple[str | int, ...]


def packaged() -> tuple[str, ...]:
    """The names of the tasks that come with the package."""
    files = resources.files("lungline.task").iterdir()
    return tuple(sorted(file.name.removesuffix(SUFFIX) for file in files if file.name.endswith(SUFFIX)))


@cache
def default_task() -> Task:
    """The task of a system that names none."""
    return load_task(DEFAULT)


def load_task(spec: str) -> Task:
    """The task that `spec` names: one that comes with the package, or a file. Raises TaskError."""
    return parse_task(text_of(spec), spec)


def text_of(spec: str) -> str:
    """The text of the task that `spec` names; raises TaskError where there is none."""
    if spec in packaged():
        return resources.files("lungline.task").joinpath(spec + SUFFIX).read_text(encoding="utf-8")
    path = _path(spec)
    if path is None:
        near = get_close_matches(spec, packaged(), 1)
        hint = f"did you mean {near[0]}?" if near else f"expected a file, or one of {', '.join(packaged())}."
        raise TaskError(f"There is no task {_excerpt(spec)}; {hint}")
    return _text_of(path)


def is_name(spec: str) -> bool:
    """Whether a text names a task, and no file."""
    return "/" not in spec and not spec.endswith(SUFFIX)


def parse_task(text: str, name: str) -> Task:
    """The task in a text; `name` is what the text is called in messages. Raises TaskError."""
    document = _document(text, name)
    try:
        task = Task.model_validate(document)
    except ValidationError as exc:
        # One sentence. A misspelt field is also a missing one: the word that is there comes first, then the lines.
        errors = cast("list[dict[str, Any]]", sorted(exc.errors(include_url=False), key=_is_no_field, reverse=True))
        worst = [error for error in errors if _is_no_field(error) == _is_no_field(errors[0])]
        faults = [_fault(document, error) for error in worst]
    else:
        faults = [(place, f"{shown(document, place)} {sentence}") for place, sentence in faint_colours(task)]
        if not faults:
            return task
    line, sentence = min(((line_of(text, place), sentence) for place, sentence in faults), key=lambda fault: fault[0])
    end = "" if sentence.endswith("?") else "."
    raise TaskError(f"The task {name} is wrong in line {line}: {sentence}{end}")


def _document(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise TaskError(f"The task {name} is not valid TOML: {exc}.") from None
    except (RecursionError, ValueError):
        # The parser calls itself for each list within a list, and Python reads no number of thousands of digits.
        raise TaskError(
            f"The task {name} is not valid TOML: expected numbers and lists of a usual size; found a larger one."
        ) from None


def _path(spec: str) -> Path | None:
    """The file that `spec` names, which may not be there; None for what looks like a task's name."""
    try:
        path = Path(spec).expanduser()
        return path if not is_name(spec) or path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long; a home of nobody; a zero in it
        raise TaskError(f"There is no task {_excerpt(spec)}: it is no name of a file.") from None


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no name of a file"
        raise TaskError(f"The task {path} cannot be read: {reason}.") from exc
    if len(data) > _MOST_BYTES:
        raise TaskError(f"The task {path} has more than {_MOST_BYTES:,} bytes; expected a text of a few pages.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data[: exc.start].count(b"\n") + 1
        raise TaskError(f"The task {path} is wrong in line {line}: expected UTF-8; found another encoding.") from None


def _is_no_field(error: Mapping[str, Any]) -> bool:
    return error["type"] == "extra_forbidden"


def _fault(document: dict[str, Any], error: dict[str, Any]) -> tuple[Place, str]:
    """Where a fault is, and a sentence about it."""
    place, message, kind = tuple(error["loc"]), str(error["msg"]).removeprefix("Value error, "), error["type"]
    if kind == "value_error" and (named := _PLACE.fullmatch(message)):  # of the whole task
        parts = (int(part) if part.isdigit() else part for part in named[1].split("."))
        return (place := (*place, *parts)), f"{shown(document, place)} {named[2]}"
    where = shown(document, place)
    if kind == "extra_forbidden":
        fields = _fields_at(place[:-1])
        near = get_close_matches(str(place[-1]), fields, 1)
        meant = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(fields)}"
        return place, f"{where} is no field of a task; {meant}"
    if kind == "missing":
        return place, f"{where} expected a value; found none"
    return place, f"{where} {_expected(message)}; found {_excerpt(error.get('input'))}"


def _expected(message: str) -> str:
    return re.sub(r"^(Input|String|List|Tuple|Dictionary) should ", "expected to ", message).replace(
        "expected to be ", "expected "
    )


def _excerpt(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def shown(document: dict[str, Any], place: Place) -> str:
    """A place as a person names it: `finding EFFUSION, shape`, with the finding's name where it has one."""
    names = [str(part) for part in place]
    if len(place) > 1 and place[0] == "finding" and isinstance(place[1], int):
        tables = cast("list[Any]", document["finding"])  # a number in a place comes from a list
        name = cast("dict[str, Any]", tables[place[1]]).get("name") if isinstance(tables[place[1]], dict) else None
        first = f"finding {name if isinstance(name, str) else place[1] + 1}"
        rest = ".".join(names[2:])
        return f"{first}, {rest}:" if rest else f"{first}:"
    return f"{'.'.join(names)}:" if names else "the task:"


def _fields_at(place: Place) -> list[str]:
    """The fields of the table at a place."""
    model: type[BaseModel] = Task
    for part in place:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        inner = [kind for kind in _classes(field.annotation if field else None) if issubclass(kind, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)


def _classes(annotation: Any) -> list[type]:
    """The classes in an annotation such as `Code | None` or `tuple[Finding, ...]`."""
    if isinstance(annotation, type) and not getattr(annotation, "__args__", ()):
        return [annotation]
    return [inner for part in getattr(annotation, "__args__", ()) for inner in _classes(part)]


def line_of(text: str, place: Place) -> int:
    """The line of a field, else that of the table around it, else 1."""
    lines = text.splitlines()
    first, last = _table(lines, place)
    names = [str(part) for part in place if not isinstance(part, int)]
    for name in reversed(names):
        key = rf"\s*(?:[\w-]+\s*\.\s*)*[\"']?{re.escape(name)}[\"']?\s*[=.]"
        inline = rf"[{{,]\s*[\"']?{re.escape(name)}[\"']?\s*="
        for at in range(first, last):
            if re.match(key, lines[at]) or re.search(inline, lines[at]):
                return at + 1
    return first + 1 if first < len(lines) else 1


def _table(lines: list[str], place: Place) -> tuple[int, int]:
    """The lines of the table that holds a place: from its header to the next header that is not inside of it."""
    headers = [(at, match) for at, line in enumerate(lines) if (match := re.match(r"\s*\[{1,2}\s*([\w.-]+)", line))]
    numbers = [part for part in place if isinstance(part, int)]
    best, count = (0, headers[0][0] if headers else len(lines)), -1
    longest = 0
    for index, (at, match) in enumerate(headers):
        path = match[1].split(".")
        if path == ["finding"]:
            count += 1
        names = [str(part) for part in place if not isinstance(part, int)]
        right = path[0] != "finding" or not numbers or count == numbers[0]
        if right and path == names[: len(path)] and len(path) > longest:
            end = headers[index + 1][0] if index + 1 < len(headers) else len(lines)
            best, longest = (at, end), len(path)
    return best
