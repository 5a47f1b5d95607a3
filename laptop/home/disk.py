"""Whether the disk of a home folder has room for a stack."""

import os
import shutil
from pathlib import Path

MEGABYTE = 2**20
# The store makes nine volumes at its first start; with less room than this it makes small ones.
SMALL_VOLUMES_BELOW = 10 * 1024 * MEGABYTE
SMALL_VOLUME_MB = 64
FIRST_START_BYTES = (9 * SMALL_VOLUME_MB + 24) * MEGABYTE
START_BYTES = 200 * MEGABYTE
RUNNING_BYTES = 20 * MEGABYTE


def start_fault(home: Path) -> str | None:
    """One sentence when a stack cannot start in a home, because its disk is too full; None when it can."""
    data = home / "store" / "data"
    has_volumes = os.path.isdir(data) and any(data.glob("*.dat"))  # noqa: PTH112 - False also for an impossible path
    return disk_fault(home, START_BYTES if has_volumes else FIRST_START_BYTES)


def disk_fault(home: Path, needed: int = RUNNING_BYTES) -> str | None:
    """One sentence when less than `needed` bytes or no files are free for a home, which need not exist yet."""
    try:
        folder = existing(home)
        usage, files = shutil.disk_usage(folder), os.statvfs(folder)
    except OSError:  # the home is refused for that where it is made
        return None
    advice = f"Free some space on the disk of {folder}, or choose another --home."
    if files.f_files and not files.f_favail:
        return f"The disk of the home folder {home} is full: no more files fit on it. {advice}"
    if usage.free >= needed:
        return None
    free, total, wanted = (round(size / MEGABYTE) for size in (usage.free, usage.total, needed))
    return f"The disk of the home folder {home} is full: {free} of {total} MB are free, {wanted} MB needed. {advice}"


def existing(home: Path) -> Path:
    """The home, or the nearest folder above that exists."""
    return next(folder for folder in (home.absolute(), *home.absolute().parents) if os.path.exists(folder))  # noqa: PTH110 - as above
