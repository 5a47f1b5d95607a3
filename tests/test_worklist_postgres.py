"""The worklist's tests pass on PostgreSQL too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.postgres import running_postgres

FILES = ("events", "notices", "exports")
DELIVERIES = (
    "test_refused_message_is_a_dead_letter_until_sent_again",
    "test_verdict_that_was_taken_back_is_not_sent",
    "test_later_verdicts_follow_as_final_and_corrected",
    "test_verdict_that_comes_during_a_transfer_is_sent_after_it",
)
# Store tests run on both databases already; these need SQLite's file or no database.
NOT = "locked_database or removed_database or filter_survives or invalid_result or rules or fhir or patient_comes"


def test_events_notices_and_exports_are_the_same_on_postgresql(tmp_path: Path) -> None:
    with running_postgres(tmp_path) as address:
        if address is None:
            assert not os.environ.get("CI"), "CI must have Debian's postgresql: apt-get install postgresql"
            pytest.skip("PostgreSQL is not installed")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", f"not ({NOT})"]
        command += [f"tests/test_worklist_{name}.py" for name in FILES]
        command += [f"tests/test_delivery_messages.py::{name}" for name in DELIVERIES]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        environment["LUNGLINE_TEST_POSTGRES"] = address
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stdout[-3000:]
        assert " skipped" not in done.stdout.splitlines()[-1]
