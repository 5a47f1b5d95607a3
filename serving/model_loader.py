"""The model package that serves now, and the watch over the folder that it comes from."""

import logging
import math
import os
import threading
from functools import cache
from pathlib import Path

from lungline.diagnosis.diagnoser import Diagnoser
from lungline.errors import LunglineError, ModelNotReady, PackageError
from lungline.imaging.image import Limits
from lungline.package.card import CARD
from lungline.package.package import Package

LOOK_SECONDS = 0.25
# A package that failed is tried again: it may have been copied into place file by file.
RETRY_SECONDS = 2.0

_log = logging.getLogger(__name__)

Signature = tuple[str, int, int]


class ModelLoader:
    """Holds the diagnoser of the package in a folder; a thread of its own swaps in what comes after it.

    A request takes `current()` once and keeps it: whatever is swapped meanwhile, one model answers it.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder = folder
        self._limits = limits
        self._current: Diagnoser | None = None
        self._seen: Signature | None = None
        self._complaint: str | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="champion", daemon=True)

    def current(self) -> Diagnoser:
        """The diagnoser that serves now. Raises ModelNotReady before the first."""
        if (current := self._current) is None:
            raise ModelNotReady("No model package is loaded yet.")
        return current

    @property
    def ready(self) -> bool:
        """Whether a package is loaded and has judged the test image."""
        return self._current is not None

    @property
    def refuses(self) -> bool:
        """Whether the package that lies in the folder now is not taken."""
        return self._complaint is not None

    def start(self) -> None:
        """Load what is there, and watch for what comes."""
        self._thread.start()

    def stop(self) -> None:
        """End the watch; what is loaded goes on serving."""
        self._stopping.set()

    def refresh(self) -> bool:
        """Load the package if it is not the one that was last seen; True when all is well."""
        signature = self._signature()
        if signature is None or signature == self._seen:
            return True
        try:
            fresh = _tested(Diagnoser(Package.load(Path(signature[0])), self._limits))
        except LunglineError as exc:
            self._complain(str(exc))
            return False
        self._current, self._seen, self._complaint = fresh, signature, None
        _log.info("model loaded", extra={"version": fresh.version, "sha256": fresh.package.sha256})
        return True

    def _watch(self) -> None:
        while True:
            try:
                well = self.refresh()
            except Exception as exc:  # noqa: BLE001 - the watch must outlive whatever a strange folder does to it
                self._complain(f"The package cannot be loaded ({type(exc).__name__}).")
                well = False
            if self._stopping.wait(LOOK_SECONDS if well else RETRY_SECONDS):
                return

    def _signature(self) -> Signature | None:
        """What tells one package from another without reading it; None while there is none."""
        target = os.path.realpath(self._folder)
        try:
            card = os.stat(os.path.join(target, CARD))  # noqa: PTH116, PTH118 - four times a second, for ever
        except OSError:
            return None
        return target, card.st_ino, card.st_mtime_ns

    def _complain(self, complaint: str) -> None:
        """Say it once, not at every try."""
        if complaint != self._complaint:
            serving = self._current.version if self._current else None
            _log.error("model refused: %s", complaint, extra={"serving": serving})
        self._complaint = complaint


def _tested(diagnoser: Diagnoser) -> Diagnoser:
    """The diagnoser, once it has judged a test image the whole way. Raises PackageError when it cannot."""
    found = diagnoser.diagnose(_test_image())
    if found.probability is None or not math.isfinite(found.probability) or not found.heatmap:
        raise PackageError(f"The model gives no answer to the test image: {found.message or found.probability}.")
    return diagnoser


@cache
def _test_image() -> bytes:
    from lungline.datasets.phantom import jpeg

    return jpeg(0, opacities=True)
