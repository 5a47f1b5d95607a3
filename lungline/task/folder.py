"""A folder of task files: the tasks that other predictors of a cluster serve.

On a cluster it is a config map, whose files change while the predictor runs.
"""

import logging
from pathlib import Path

from lungline.errors import TaskError
from lungline.task.reading import SUFFIX, load_task
from lungline.task.task import Task

_log = logging.getLogger(__name__)

Signature = tuple[tuple[str, int, int, int], ...]


class TaskFolder:
    """The tasks in a folder, read again when a file changes; a wrong file is logged, and the last good one holds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._signature: Signature | None = None
        self._tasks: dict[Path, Task] = {}

    def tasks(self) -> tuple[Task, ...]:
        """The tasks now, by the names of their files; none where there is no such folder."""
        files = sorted(self._path.glob(f"*{SUFFIX}"))
        try:
            signature = tuple(map(_identity, files))
        except OSError:  # a file is being replaced
            return tuple(self._tasks.values())
        if signature != self._signature:
            read = {file: task for file in files if (task := self._read(file))}
            self._tasks, self._signature = read, signature
        return tuple(self._tasks.values())

    def _read(self, file: Path) -> Task | None:
        try:
            return load_task(str(file))
        except TaskError as exc:
            _log.error("%s", exc)
            return self._tasks.get(file)


def _identity(file: Path) -> tuple[str, int, int, int]:
    """What changes with a file's content, without reading it."""
    status = file.stat()
    return file.name, status.st_ino, status.st_mtime_ns, status.st_size
