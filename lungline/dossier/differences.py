"""What a model's card says that the card of the version before does not."""

import json
from collections.abc import Iterator
from typing import Any, cast

from lungline.dossier.change_parts import Difference, Limit
from lungline.package.card import Card

# What every version has of its own: it is on the page anyway.
_OWN = {
    "schema_version",
    "version",
    "created",
    "metrics",
    "confusion",
    "gate",
    "mlflow_run_id",
    "pipeline_run",
    "files",
}
_TOPICS = {
    "data": "Data",
    "code": "Code and libraries",
    "settings": "Network and training",
    "seed": "Network and training",
    "preparation": "Preparation of the image",
    "thresholds": "Thresholds and calibration",
    "calibration": "Thresholds and calibration",
    "prior": "Thresholds and calibration",
    "findings": "Thresholds and calibration",
    "chest": "Checks of the image",
    "population": "Checks of the image",
    "lungs": "Checks of the image",
    "site": "Site",
}
TASK = "Task"


def differences(before: Card | None, after: Card) -> list[Difference]:
    """The values that differ, topic by topic; without a card before, all of them."""
    old, new = _values(before) if before else {}, _values(after)
    names = [name for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name)]
    rows = [Difference(topic=topic_of(name), name=name, before=old.get(name), after=new.get(name)) for name in names]
    order = list(dict.fromkeys((*_TOPICS.values(), TASK)))
    return sorted(rows, key=lambda row: order.index(row.topic))


def topic_of(name: str) -> str:
    """Where a value of the card belongs."""
    return _TOPICS.get(name.partition(".")[0], TASK)


def limits(card: Card) -> list[Limit]:
    """The limits of the task's gate with the card's figures; lowered ones as they were when it was judged."""
    from lungline.evaluation.gate import CEILINGS  # with all of the evaluation, which a worklist seldom needs

    lowered = dict(_lowered(card))
    rows: list[Limit] = []
    for name, value in card.task.gate.model_dump().items():
        if name in card.metrics or name in lowered:
            limit = lowered.get(name, float(value))
            figure = card.metrics.get(name)
            rows.append(Limit(name=name, limit=limit, most=name in CEILINGS, figure=figure, lowered=name in lowered))
    return rows


def _lowered(card: Card) -> Iterator[tuple[str, float]]:
    """Name and value of limits in sentences such as `auc 0 instead of 0.95`."""
    for sentence in card.gate.lowered if card.gate else ():
        name, _, rest = sentence.partition(" ")
        try:
            yield name, float(rest.partition(" ")[0])
        except ValueError:
            continue


def _values(card: Card) -> dict[str, str]:
    document = json.loads(card.model_dump_json())
    return dict(_flat({name: value for name, value in document.items() if name not in _OWN}))


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, part in cast("dict[str, Any]", value).items():
            yield from _flat(part, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and any(isinstance(part, dict) for part in cast("list[Any]", value)):
        for at, part in enumerate(cast("list[Any]", value)):
            yield from _flat(part, f"{name}.{at}")
    elif isinstance(value, list):
        yield name, ", ".join(map(_text, cast("list[Any]", value)))
    elif value is not None:
        yield name, _text(value)


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
