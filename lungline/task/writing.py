"""Write a task file: every field with a comment that says what it is for."""

import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from lungline.errors import TaskError
from lungline.settings_blocks import TrainSettings
from lungline.task.finding import Finding
from lungline.task.task import Kind, Task

_WIDTH = 118
_HEAD = """\
{title}
Check it with `lungline task check FILE`, and train with `lungline train --task FILE`.
A line that is left out keeps its default."""
# Colours that people with any colour vision tell apart, on the light and on the dark page; then they come again.
_COLOURS = (
    ("#14694a", "#74c9a2"),
    ("#b1271b", "#ff8a7a"),
    ("#1d4f91", "#8ab8ff"),
    ("#7a3e9d", "#d0a4f2"),
    ("#8a5a00", "#ecbe5c"),
)
_SHAPES = ("circle", "triangle", "square", "pentagon", "hexagon", "star", "plus")


def new_task(name: str, kind: Kind = "binary", labels: Sequence[str] = ()) -> Task:
    """A task to begin with: valid, with the findings of these labels, the negative first, or some to be replaced.

    Raises ValidationError for a bad name or label.
    """
    title = name.replace("-", " ").capitalize()
    words = ("Normal", title) if kind == "binary" else ("Normal", "First", "Second")
    return Task.model_validate(
        {
            "name": name,
            "title": title,
            "kind": kind,
            "warning": "For research. Not a medical device: a reader must check every result.",
            "use": {"meant_for": "research", "not_meant_for": "diagnosis"},
            "finding": [_begun(at, label) for at, label in enumerate(labels or words)],
        }
    )


def begin(name: str, kind: Kind = "binary", labels: Sequence[str] = ()) -> str:
    """The text of a new task file. Raises TaskError for a name, a label or a number of findings that none may have."""
    try:
        return render(new_task(name, kind, labels))
    except ValidationError as exc:
        fault = exc.errors()[0]
        reason = fault["msg"].removeprefix("Value error, ")
        if fault["loc"][:1] == ("name",):
            raise TaskError(f"{name!r} is no name of a task: {reason}.") from None
        label = labels[int(fault["loc"][1])] if len(fault["loc"]) > 1 else None
        raise TaskError(
            f"No task begins with {f'the label {label!r}' if label else 'these labels'}: {reason}."
        ) from None


def _begun(at: int, label: str) -> dict[str, Any]:
    return {
        "name": re.sub(r"[ -]", "_", label).upper(),
        "label": label,
        "negative": at == 0,
        "colour": _COLOURS[at % len(_COLOURS)],
        "shape": _SHAPES[at % len(_SHAPES)],
        "urgency": "urgent" if at == 1 else "routine",
        "key": str(at + 1),
        "folders": [label.lower()],
        "columns": [label],
    }


def render(task: Task) -> str:
    """A task as the text of its file. Reading the text gives the task again."""
    lines = [*(f"# {line}" for line in _HEAD.format(title=f"{task.title}.").splitlines()), ""]
    lines += _fields(task, ("name", "title", "kind", "warning", "uncertain", "prefixes"))
    for name in ("images", "use", "targets", "gate"):
        part: BaseModel = getattr(task, name)
        lines += ["", *_comment(Task.model_fields[name].description), f"[{name}]"]
        lines += _fields(part, tuple(type(part).model_fields))
    lines += ["", *_comment(Task.model_fields["finding"].description)]
    for at, finding in enumerate(task.findings):
        lines += ["[[finding]]", *_finding(finding, commented=not at), ""]
    return "\n".join(lines).rstrip() + "\n"


def _finding(finding: Finding, *, commented: bool) -> Iterator[str]:
    names = [name for name in Finding.model_fields if name not in ("code", "kinds", "targets", "floors")]
    yield from _fields(finding, tuple(names), commented=commented)
    for name in ("code", "kinds", "targets", "floors"):
        value = getattr(finding, name)
        values = value.model_dump(exclude_none=True) if isinstance(value, BaseModel) else value
        if commented:
            yield from _comment(Finding.model_fields[name].description)
        yield f"{name} = {_value(values)}" if values else f"# {name} = {_EXAMPLES[name]}"


_EXAMPLES = {
    "code": '{ scheme = "SCT", value = "60046008", meaning = "Pleural effusion" }',
    "kinds": '{ small = ["small"], large = ["large"] }',
    "targets": "{ sensitivity = 0.95, specificity = 0.9, unsure_rate = 0.2, prevalence = 0.05 }",
    "number": "0",
    "prevalence": "0.05",
    "floors": "{ auc = 0.85, sensitivity = 0.7, specificity = 0.7 }",
}


def _fields(part: BaseModel, names: tuple[str, ...], *, commented: bool = True) -> Iterator[str]:
    for name in names:
        if commented:
            yield from _comment(type(part).model_fields[name].description)
        value = getattr(part, name)
        if value is None:
            yield f"# {name} = {_EXAMPLES.get(name) or TrainSettings.model_fields[name].default}"
        else:
            yield f"{name} = {_value(value)}"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _comment(text: str | None) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text or "", _WIDTH - 2)]


def _value(value: Any) -> str:
    """A value in TOML; texts and lists have JSON's form there too."""
    if isinstance(value, dict):
        pairs = (f"{_key(key)} = {_value(item)}" for key, item in cast("dict[str, Any]", value).items())
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(_value(item) for item in cast('list[Any]', value))}]"
    return json.dumps(value, ensure_ascii=False)
