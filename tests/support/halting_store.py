"""Work that halts before chosen calls of the store, so that a test decides what happens in between."""

import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any

from lungline.storage.objects import ObjectInfo, StoredObject
from lungline.storage.s3 import Storage

WAIT_SECONDS = 60.0

Call = tuple[str, str, str]
"""What is done, in which bucket, with which key or prefix."""


class Killed(Exception):
    """As if the process had died."""


class WatchedStore(Storage):
    """A store like another, which reports each call before it makes it."""

    def __init__(self, other: Storage, before: Callable[[Call], None]) -> None:
        super().__init__(other.endpoint, other.region, other._access_key, other._secret_key)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the same user
        self._before = before

    def get(self, bucket: str, key: str, version_id: str | None = None, max_bytes: int | None = None) -> StoredObject:
        self._before(("get", bucket, key))
        return super().get(bucket, key, version_id, max_bytes)

    def head(self, bucket: str, key: str, version_id: str | None = None) -> ObjectInfo:
        self._before(("head", bucket, key))
        return super().head(bucket, key, version_id)

    def put(self, bucket: str, key: str, data: bytes, content_type: str = "application/octet-stream") -> str:
        self._before(("put", bucket, key))
        return super().put(bucket, key, data, content_type)

    def put_if_absent(self, bucket: str, key: str, data: bytes, content_type: str = "application/octet-stream") -> bool:
        self._before(("put_if_absent", bucket, key))
        return super().put_if_absent(bucket, key, data, content_type)

    def delete(self, bucket: str, key: str, version_id: str | None = None) -> None:
        self._before(("delete", bucket, key))
        super().delete(bucket, key, version_id)

    def list(
        self, bucket: str, prefix: str = "", start_after: str | None = None, page_size: int = 1000
    ) -> Iterator[ObjectInfo]:
        self._before(("list", bucket, prefix))
        yield from super().list(bucket, prefix, start_after, page_size)


class Halting:
    """Work on a thread that halts before some of its calls, which are counted from 0, until it is let go on."""

    def __init__(self, work: Callable[[Storage], Any], store: Storage, halts: Collection[int]) -> None:
        self.calls: list[Call] = []
        self.result: Any = None
        self.error: Exception | None = None
        self._halts = halts
        self._halted, self._on = threading.Semaphore(0), threading.Semaphore(0)
        self._watched = WatchedStore(store, self._before)
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._is_over = self._is_killed = False

    def start(self) -> "Halting":
        """Work until the first halt, or to the end."""
        self._thread.start()
        self._await()
        return self

    def go_on(self) -> None:
        """Work until the next halt, or to the end; does nothing after it."""
        if not self._is_over:
            self._on.release()
            self._await()

    def finish(self) -> "Halting":
        """Work to the end."""
        while not self._is_over:
            self.go_on()
        self._thread.join(WAIT_SECONDS)
        self._watched.close()
        return self

    def die(self) -> None:
        """End before the call at which it has halted, as if its process were killed."""
        self._is_killed = True
        self.finish()

    def _await(self) -> None:
        assert self._halted.acquire(timeout=WAIT_SECONDS), "The work neither halts nor ends."

    def _before(self, call: Call) -> None:
        self.calls.append(call)
        if len(self.calls) - 1 in self._halts:
            self._halted.release()
            assert self._on.acquire(timeout=WAIT_SECONDS), "Nobody has let the work go on."
        if self._is_killed:
            raise Killed

    def _run(self, work: Callable[[Storage], Any]) -> None:
        try:
            self.result = work(self._watched)
        except Exception as exc:  # noqa: BLE001 - a test looks at it
            self.error = exc
        self._is_over = True
        self._halted.release()
