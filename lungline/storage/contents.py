"""Whether the object store holds what a home folder gave it, or lost a bucket, or is another store.

Each bucket carries the home's identity as a tag, and the home remembers identity and buckets in `store/contents.json`.
A bucket that is missing, or has another tag or none, is lost, until it is restored or the file is removed: a new, empty
bucket in its place would look as if all were well.
"""

import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from lungline.home import Home, write_json
from lungline.storage.s3 import Storage

TAG = "lungline-store"


class Remembered(BaseModel):
    """What a home remembers of its store."""

    identity: str
    buckets: list[str]
    lost: list[str] = []


@dataclass(frozen=True, slots=True)
class Contents:
    """The buckets of a home's own store."""

    home: Home
    storage: Storage

    def settle(self, buckets: tuple[str, ...], *, used: bool) -> tuple[str, ...]:
        """Make the buckets that are missing; returns those that are lost.

        `used` says whether the home has had uploads or a model, which counts where it remembers no store. Raises
        StorageUnavailable, and LunglineError where the store refuses.
        """
        tags = self._tags(buckets)
        self.storage.ensure_buckets(*buckets)
        before = remembered(self.home.path)
        identity = before.identity if before else next(filter(None, tags.values()), None) or secrets.token_hex(8)
        lost = self._lost(before, tags, identity, used=used)
        for bucket in buckets:
            if bucket not in lost and tags.get(bucket) != identity:
                self.storage.tag_bucket(bucket, TAG, identity)
        now = Remembered(identity=identity, buckets=sorted({*buckets, *(before.buckets if before else ())}), lost=lost)
        if now != before:
            write_json(contents_file(self.home.path), now.model_dump(), durable=True)
        return tuple(lost)

    def _lost(self, before: Remembered | None, tags: dict[str, str | None], identity: str, *, used: bool) -> list[str]:
        if before:
            return [bucket for bucket in before.buckets if bucket in tags and tags[bucket] != identity]
        # It has never met a store; or it is of an earlier release, or its owner has accepted what is lost: then the
        # buckets are there.
        return list(tags) if used and all(tag is None for tag in tags.values()) else []

    def _tags(self, buckets: tuple[str, ...]) -> dict[str, str | None]:
        """The tag of each bucket; empty where there is no tag, None where there is no bucket."""

        def tag(bucket: str) -> str | None:
            return self.storage.bucket_tag(bucket, TAG)

        with ThreadPoolExecutor(len(buckets)) as pool:
            return dict(zip(buckets, pool.map(tag, buckets), strict=True))


def remembered(home: Path) -> Remembered | None:
    """What a home remembers of its store; None where it remembers nothing, or the file is damaged."""
    try:
        return Remembered.model_validate_json(contents_file(home).read_bytes())
    except (OSError, ValidationError):
        return None


def contents_file(home: Path) -> Path:
    """Where a home remembers its store."""
    return home / "store" / "contents.json"


def loss_of(home: Path) -> str:
    """One sentence on the buckets that a home's store has lost; empty when there are none."""
    stored = remembered(home)
    if not stored or not stored.lost:
        return ""
    return f"The store has lost what was in {', '.join(stored.lost)}, or is another one."
