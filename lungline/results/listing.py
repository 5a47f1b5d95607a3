"""List records among the latest while their images are judged; those that wait at the same time share an object.

Each object costs the store 2 ms of CPU and a place in a synced write, whatever it holds. So in a burst one is put for
several records, and a record alone is still listed at once.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from datetime import datetime

from lungline.results.latest_list import MOST_NAME_BYTES, latest_key
from lungline.storage.s3 import Storage

# Judging an image of a burst takes longer than this, so nobody waits for the list.
GATHER_SECONDS = 0.025


@dataclass(frozen=True, slots=True)
class _Entry:
    identity: str
    version: str
    uploaded: datetime
    listed: "Future[None]" = field(default_factory=Future[None])


class SharedListing:
    """Lists records among the latest on threads of `threads`; may be shared by threads."""

    def __init__(self, storage: Storage, bucket: str, threads: Executor) -> None:
        self._storage = storage
        self._bucket = bucket
        self._threads = threads
        self._lock = threading.Lock()
        self._waiting: list[_Entry] = []
        self._next = 0.0

    def add(self, identity: str, version: str, uploaded: datetime) -> "Future[None]":
        """List a record to come; the result is there once it is listed, and raises what a put does."""
        entry = _Entry(identity, version, uploaded)
        with self._lock:
            self._waiting.append(entry)
            if len(self._waiting) > 1:  # the task that was submitted for the first lists this one too
                return entry.listed
        try:
            self._threads.submit(self._list_waiting)
        except RuntimeError as exc:  # the process ends
            _settle(self._taken(), exc)
        return entry.listed

    def _list_waiting(self) -> None:
        time.sleep(max(0.0, self._next - time.monotonic()))
        for key, entries in _shared(self._taken()):
            try:
                self._storage.put(self._bucket, key, b"")
            except Exception as exc:  # noqa: BLE001 - each that waits raises it
                _settle(entries, exc)
            else:
                _settle(entries)

    def _taken(self) -> list[_Entry]:
        with self._lock:
            taken, self._waiting = self._waiting, []
            self._next = time.monotonic() + GATHER_SECONDS
        return taken


def _settle(entries: Iterable[_Entry], exc: Exception | None = None) -> None:
    for entry in entries:
        if exc is None:
            entry.listed.set_result(None)
        else:
            entry.listed.set_exception(exc)


def _shared(entries: list[_Entry]) -> Iterator[tuple[str, list[_Entry]]]:
    """The objects that list the entries: each those of one version and second, as many as its name has room for."""
    open_objects: dict[str, tuple[str, list[_Entry]]] = {}
    for entry in entries:
        alone = latest_key(entry.identity, entry.version, entry.uploaded)
        kind = latest_key("", entry.version, entry.uploaded)
        key, listed = open_objects.get(kind, ("", []))
        names = [each.identity for each in (*listed, entry)]
        key = latest_key(".".join(names), entry.version, entry.uploaded)
        if listed and len(key.encode()) > MOST_NAME_BYTES:
            yield open_objects[kind]
            key, listed = alone, []
        open_objects[kind] = key, [*listed, entry]
    yield from open_objects.values()
