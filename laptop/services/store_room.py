"""Whether the store must start again, because its disk was full.

Its filer's database takes nothing more once a write to its journal has failed for want of room (goleveldb keeps the
error until it is opened again). Reads go on, so nobody would notice that every upload is refused for ever.
"""

import asyncio
import shutil
from pathlib import Path

from laptop.home.disk import RUNNING_BYTES

POLL_SECONDS = 0.5


class Room:
    """The room on the disk of a folder, as far as writes to it have failed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._was_full = False

    def write_failed(self) -> None:
        """Take note of a write that the store has refused."""
        self._was_full = self._was_full or not self._has_some()

    async def returned(self) -> None:
        """Wait until there is room again after a write has failed without any."""
        while not (self._was_full and self._has_some()):
            await asyncio.sleep(POLL_SECONDS)

    def _has_some(self) -> bool:
        return shutil.disk_usage(self._folder).free >= RUNNING_BYTES
