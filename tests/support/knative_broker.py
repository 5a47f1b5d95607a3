"""Knative's broker made small: which triggers of rendered manifests take an event, by their filters."""

from collections.abc import Iterable, Mapping
from typing import Any

Object = dict[str, Any]


def takers(triggers: Iterable[Object], attributes: Mapping[str, str]) -> list[Object]:
    """The triggers that an event with these attributes passes, in their order."""
    return [trigger for trigger in triggers if _passes(trigger["spec"], attributes)]


def subscriber(trigger: Object) -> tuple[str, str]:
    """The name of a trigger's subscriber, and the path there."""
    to = trigger["spec"]["subscriber"]
    return to["ref"]["name"], to.get("uri", "/")


def _passes(spec: Object, attributes: Mapping[str, str]) -> bool:
    exact = spec.get("filter", {}).get("attributes", {})
    prefixes = [each["prefix"] for each in spec.get("filters", [])]
    return all(attributes.get(name) == value for name, value in exact.items()) and all(
        attributes.get(name, "").startswith(value) for prefix in prefixes for name, value in prefix.items()
    )
