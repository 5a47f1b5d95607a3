"""Loads the model package of a folder, and loads it again when it changes."""

import logging
import math
import os
import threading
from functools import cache
from pathlib import Path

from lungline.diagnosis.diagnoser import Diagnoser
from lungline.errors import LunglineError, ModelNotReady, PackageError
from lungline.imaging.image import Limits
from lungline.package.card import CARD, MODEL, read_card
from lungline.package.signature import SIGNATURE
from lungline.task.task import Task
from serving.http import RouteNotFound
from serving.package_guard import PackageGuard

POLL_SECONDS = 0.25
# A package that failed is tried again: it may have been copied into place file by file.
RETRY_SECONDS = 2.0

_log = logging.getLogger(__name__)

Signature = tuple[str, tuple[tuple[int, int], ...]]
_WATCHED = (CARD, MODEL, SIGNATURE)


class ModelLoader:
    """Holds the diagnoser of the package in a folder; a thread swaps in the next package when the folder changes.

    A request takes `current()` once and keeps it, so one model answers it whatever is swapped in meanwhile.
    """

    def __init__(self, folder: Path, limits: Limits, guard: PackageGuard | None = None) -> None:
        self._folder = folder
        self._guard = guard or PackageGuard(folder)
        self._limits = limits
        self._current: Diagnoser | None = None
        self._signed_by: str | None = None
        self._signature: Signature | None = None
        self._refusal: str | None = None
        self.has_tried = False
        """Whether it has looked for a package once, and loaded it if there was one that passes."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="model-loader", daemon=True)

    def current(self) -> Diagnoser:
        """The diagnoser that serves now. Raises ModelNotReady before the first package is loaded."""
        if (current := self._current) is None:
            raise ModelNotReady("No model package is loaded yet.")
        return current

    def serving(self, version: str | None) -> Diagnoser:
        """The diagnoser that serves now; None stands for any version. Raises RouteNotFound for another version."""
        diagnoser = self.current()
        if version not in {None, diagnoser.version}:
            raise RouteNotFound(f"There is no such version of the model; version {diagnoser.version} serves.")
        return diagnoser

    @property
    def ready(self) -> bool:
        """Whether a package is loaded and has predicted the test image."""
        return self._current is not None

    @property
    def task(self) -> Task | None:
        """The task of the model, also of one that is not loaded; None where its card cannot be read."""
        if self._current is not None:
            return self._current.package.card.task
        return task_in(self._folder)

    @property
    def signed_by(self) -> str | None:
        """The key that signed the loaded package; None for one without a signature."""
        return self._signed_by

    @property
    def refuses(self) -> bool:
        """Whether the package that is in the folder now was refused."""
        return self._refusal is not None

    def start(self) -> None:
        """Load the package, and keep watching the folder."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; the loaded package keeps serving."""
        self._stopping.set()

    def refresh(self) -> bool:
        """Load the package if the folder has changed; False when it had to be refused."""
        signature = self._read_signature()
        if signature is None or signature == self._signature:
            return True
        try:
            package, signed_by = self._guard.load(Path(signature[0]))
            fresh = _tested(Diagnoser(package, self._limits))
        except LunglineError as exc:
            self._refuse(str(exc))
            return False
        self._current, self._signed_by, self._refusal = fresh, signed_by, None
        self._signature = self._read_signature() if self._guard.repaired else signature
        _log.info("model loaded", extra={"version": fresh.version, "sha256": fresh.package.sha256})
        if signed_by is None:
            _log.warning("the model is not signed; promoting it again signs it", extra={"version": fresh.version})
        return True

    def _watch(self) -> None:
        while True:
            try:
                loaded = self.refresh()
            except Exception as exc:  # noqa: BLE001 - the watch must survive any content of the folder
                self._refuse(f"The package cannot be loaded ({type(exc).__name__}).")
                loaded = False
            self.has_tried = True
            if self._stopping.wait(POLL_SECONDS if loaded else RETRY_SECONDS):
                return

    def _read_signature(self) -> Signature | None:
        """Identifies a package without reading it; None while there is none."""
        target = os.path.realpath(self._folder)
        stats = tuple(_identity(os.path.join(target, name)) for name in _WATCHED)  # noqa: PTH118 - as below
        return (target, stats) if any(map(any, stats)) or self._guard.expects(Path(target)) else None

    def _refuse(self, refusal: str) -> None:
        """Log a refusal once, not at every retry."""
        if refusal != self._refusal:
            serving = self._current.version if self._current else None
            _log.error("model refused: %s", refusal, extra={"serving": serving})
        self._refusal = refusal


def task_in(folder: Path) -> Task | None:
    """The task of the package in a folder; None where its card cannot be read."""
    try:
        return read_card(folder)[0].task
    except (PackageError, OSError):
        return None


def _identity(path: str) -> tuple[int, int]:
    """Inode and time of a file; zeros while there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - runs twelve times a second
    except OSError:
        return 0, 0
    return status.st_ino, status.st_mtime_ns


def _tested(diagnoser: Diagnoser) -> Diagnoser:
    """The diagnoser, after it has predicted a test image with its heatmap. Raises PackageError when it cannot."""
    diagnosis = diagnoser.diagnose(_test_image())
    if diagnosis.probability is None or not math.isfinite(diagnosis.probability) or not diagnosis.heatmap:
        reason = diagnosis.message or diagnosis.probability
        raise PackageError(f"The model cannot predict the test image: {reason}.")
    return diagnoser


@cache
def _test_image() -> bytes:
    from lungline.datasets.phantom import jpeg

    return jpeg(0, opacities=True)
