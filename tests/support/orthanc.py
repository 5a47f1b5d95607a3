"""The PACS of the tests: a real Orthanc; tests are skipped where it is not installed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import orthanc
from benchmarks.peers.orthanc import PROGRAM, Modality, Orthanc

__all__ = ["PROGRAM", "Modality", "Orthanc", "running_orthanc"]


@contextmanager
def running_orthanc(folder: Path, *arguments: Any, **options: Any) -> Iterator[Orthanc]:
    """As `benchmarks.peers.orthanc.running_orthanc`."""
    if PROGRAM is None and not os.environ.get("CI"):
        pytest.skip("Orthanc is not installed (apt-get install orthanc orthanc-dicomweb)")
    with orthanc.running_orthanc(folder, *arguments, **options) as server:
        yield server
