"""CycloneDX's own validator."""

from typing import Any

import pytest


def fault_of(text: str) -> str | None:
    """What is wrong with a bill of materials in JSON, by the schema of CycloneDX 1.6; None when nothing is."""
    reason = "cyclonedx-bom is not installed; `make setup` installs it"
    schema: Any = pytest.importorskip("cyclonedx.schema", reason=reason)
    validation: Any = pytest.importorskip("cyclonedx.validation.json", reason=reason)
    fault: Any = validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(text)
    return None if fault is None else str(fault)
