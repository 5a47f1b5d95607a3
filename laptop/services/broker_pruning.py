"""Keeps the broker's log short: deletes the batches that no consumer needs any longer."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from laptop.services.broker_log import BrokerLog

# A commit that is further beyond the last batch than any batch is long was made by somebody else.
LONGEST_BATCH = 10_000

_CLUSTER = "clusters/tansu_cluster"


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a partition: what its group has not committed, and at least so many batches."""

    topic: str
    partition: int
    group: str
    batches: int

    @classmethod
    def parse(cls, text: str) -> "Kept":
        """From `TOPIC:PARTITION:GROUP:BATCHES`."""
        topic, partition, group, batches = text.split(":")
        return cls(topic, int(partition), group, int(batches))

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}:{self.group}:{self.batches}"


def prune(log: BrokerLog, partitions: Iterable[Kept]) -> int:
    """Delete the batches that no consumer needs any longer; returns how many. Raises sqlite3.Error."""
    consumed = [key for kept in partitions for key in _consumed(log, kept)]
    if consumed:
        log.remove(consumed)
    return len(consumed)


def _consumed(log: BrokerLog, kept: Kept) -> list[str]:
    records = f"{_CLUSTER}/topics/{kept.topic}/partitions/{kept.partition:010}/records/"
    batches = [listed.key for listed in log.listed(records)]
    if len(batches) <= kept.batches:
        return []
    committed = _committed(log, kept)
    if committed > _first_offset(batches[-1]) + LONGEST_BATCH:
        return []  # the trigger gives it up, and reads what is here
    # A batch is named by its first record, so it is consumed when the next one begins at or below the commit.
    oldest = pairwise(batches[: len(batches) - kept.batches + 1])
    return [batch for batch, following in oldest if _first_offset(following) <= committed]


def _committed(log: BrokerLog, kept: Kept) -> int:
    offsets = f"{_CLUSTER}/groups/consumers/{kept.group}/offsets/{kept.topic}"
    stored = log.get(f"{offsets}/partitions/{kept.partition:010}.json")
    try:
        return int(json.loads(stored.data)["offset"]) if stored else 0
    except (ValueError, KeyError, TypeError):
        return 0


def _first_offset(batch: str) -> int:
    return int(batch.rpartition("/")[2].removesuffix(".batch"))
