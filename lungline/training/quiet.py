"""Keep native libraries from writing to the terminal."""

import contextlib
import os
import sys
import threading
from collections.abc import Generator

# Two threads that swap the descriptors at once could leave the process without a stderr.
_SWAPPING = threading.Lock()


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Drop what C++ libraries write in the meantime: it goes straight to the file descriptors, past sys.stderr."""
    sys.stdout.flush()
    sys.stderr.flush()
    with _SWAPPING, open(os.devnull, "wb") as sink:  # noqa: PTH123 - a descriptor, not a path, is what is wanted
        saved = [(fd, os.dup(fd)) for fd in (1, 2)]
        try:
            for fd, _ in saved:
                os.dup2(sink.fileno(), fd)
            yield
        finally:
            for fd, copy in saved:
                os.dup2(copy, fd)
                os.close(copy)
