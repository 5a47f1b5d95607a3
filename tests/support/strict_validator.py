"""The strict validator of manifests, with the schemas of Kubernetes and of everything that brings kinds of its own.

Both are too large for the repository: they lie in the folder that SHARED_FOLDER names, and checks that need them are
skipped where it is not there.
"""

import subprocess
import sys
from collections.abc import Iterable

import pytest
import yaml

from tests.support.manifests_of import SHARED, Object

VALIDATOR, SCHEMAS = SHARED / "k8s/validate.py", SHARED / "k8s/crds"


def assert_valid(manifests: Iterable[Object]) -> None:
    """Every manifest fits the schema of its kind, and has no field that the schema lacks."""
    assert_text_valid(yaml.safe_dump_all(manifests))


def assert_text_valid(text: str) -> None:
    """The same for manifests as they are rendered; the failure shows only what is wrong."""
    if not VALIDATOR.exists():
        pytest.skip(f"the validator and the schemas are not at {VALIDATOR}: set SHARED_FOLDER to the folder of both")
    command = [sys.executable, str(VALIDATOR), "--crds", str(SCHEMAS), "--k8s", "1.34"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=120)
    wrong = [line for line in done.stdout.splitlines() if not line.startswith("ok ")]
    assert done.returncode == 0, "\n".join(wrong) + done.stderr
