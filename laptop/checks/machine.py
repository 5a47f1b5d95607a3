"""Whether this machine can train and serve: Python, memory, disk, and the data set that the settings name."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from laptop.home.disk import existing
from lungline.errors import LunglineError
from lungline.health_check import Check
from lungline.settings import Settings
from lungline.wording import count

FREE_DISK_GB, MEMORY_GB = 5, 4


def check_machine(settings: Settings) -> Iterator[Check]:
    """Checks of the machine, whether a stack runs or not."""
    yield _python()
    yield _memory()
    yield _disk(settings.home)
    yield _data(settings)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", (3, 11) <= sys.version_info < (3, 14), version, "Use Python 3.11, 3.12 or 3.13.")


def _memory() -> Check:
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Check("memory", gigabytes >= MEMORY_GB, f"{gigabytes:.0f} GB", f"Training needs {MEMORY_GB} GB.")


def _disk(home: Path) -> Check:
    free = shutil.disk_usage(existing(home)).free / 2**30
    return Check("disk", free >= FREE_DISK_GB, f"{free:.0f} GB free", f"Free some: {FREE_DISK_GB} GB are needed.")


def _data(settings: Settings) -> Check:
    from lungline.datasets.opening import open_dataset

    if settings.data == "auto":
        return Check("data", True, "auto: a cached or new download, else drawn phantoms")
    try:
        dataset = open_dataset(settings.data, settings=settings)
    except LunglineError as exc:
        return Check("data", False, str(exc), "Set LUNGLINE_DATA to X-rays in the layout of data/README.md.")
    notice = f". {dataset.notice}" if dataset.notice else ""
    return Check("data", True, f"{count(len(dataset.examples), 'image')} of {dataset.name}{notice}")
