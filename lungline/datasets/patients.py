"""Who an object's key is about, as far as it tells: by a site's own pattern, else by the public data set's names."""

import re

from lungline.datasets.examples import patient_of
from lungline.errors import SettingsError


def patient_in(key: str, pattern: re.Pattern[str] | None) -> str | None:
    """The patient that a key names; None when it names none."""
    found = pattern.search(key) if pattern else None
    return found.group(1) if found else patient_of(key)


def patient_pattern(expression: str | None) -> re.Pattern[str] | None:
    """The setting worklist.patient_pattern. Raises SettingsError when it is no expression with a group."""
    if not expression:
        return None
    try:
        pattern = re.compile(expression)
    except re.error as exc:
        raise SettingsError(f"The setting worklist.patient_pattern is no regular expression: {exc}.") from exc
    if not pattern.groups:
        raise SettingsError("The setting worklist.patient_pattern has no group that names the patient.")
    return pattern
