"""What `lungline doctor` looks at: the machine, the stack, the champion. Each fault comes with its cure."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from laptop import health, stack
from laptop.check import Check
from laptop.status import StackStatus
from lungline.errors import DataError, LunglineError
from lungline.settings import Settings

FREE_DISK_GB, MEMORY_GB = 5, 4


def examine(settings: Settings) -> list[Check]:
    """Look at everything, also after a fault."""
    found = stack.status(settings)
    machine = [_python(), _memory(), _disk(settings.home), _data(settings)]
    return [*machine, *_parts(found), *_champion(settings, found), *health.look(found)]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", (3, 11) <= sys.version_info < (3, 14), version, "Use Python 3.11, 3.12 or 3.13.")


def _memory() -> Check:
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Check("memory", gigabytes >= MEMORY_GB, f"{gigabytes:.0f} GB", f"Training wants {MEMORY_GB} GB.")


def _disk(home: Path) -> Check:
    there = next(folder for folder in (home.absolute(), *home.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free / 2**30
    return Check("disk", free >= FREE_DISK_GB, f"{free:.0f} GB free", f"Free some: {FREE_DISK_GB} GB are wanted.")


def _data(settings: Settings) -> Check:
    from lungline.dataset import open_dataset

    if settings.data == "auto":
        return Check("data", True, "auto: a cached or fresh download, else drawn phantoms")
    try:
        dataset = open_dataset(settings.data, settings=settings)
    except DataError as exc:
        return Check("data", False, str(exc), "Set LUNGLINE_DATA to X-rays in the layout that data/README.md shows.")
    return Check("data", True, f"{len(dataset.examples)} images of {dataset.name}")


def _parts(found: StackStatus) -> Iterator[Check]:
    if not found.running:
        yield Check("stack", False, "not running", "lungline up")
        return
    for part in found.parts:
        state = part.state + (f", restarted {part.restarts} times" if part.restarts else "")
        log = found.home / "logs" / f"{part.name}.log"
        yield Check(part.name, part.state in stack.SETTLED, state, part.note or f"Read {log}.")


def _champion(settings: Settings, found: StackStatus) -> Iterator[Check]:
    if not found.running:
        return
    from lungline.deployment import LaptopDeployment
    from lungline.registry import Registry

    try:
        connected = stack.connect(settings)
        champion = Registry(connected).champion()
        serving = LaptopDeployment.from_settings(connected).serving()
    except LunglineError as exc:
        yield Check("champion", False, str(exc), "Mend the parts above first.")
        return
    if champion is None:
        yield Check("champion", False, "none yet", "lungline train")
    else:
        finding = f"version {champion}; the predictor serves {serving or 'nothing'}"
        cure = f"lungline promote {champion} --by NAME --reason TEXT"
        yield Check("champion", champion == serving, finding, cure)
