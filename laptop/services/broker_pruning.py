"""Keeps the broker's log short: deletes the batches that no consumer needs any longer."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from laptop.services.broker_log import BrokerLog

# A commit that is further beyond the last batch than any batch is long was made by somebody else.
LONGEST_BATCH = 10_000
# What only the second group has not read: the broker lists all of a partition for each fetch.
MOST_FOR_SECOND = 500

_CLUSTER = "clusters/tansu_cluster"


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a partition: what its groups have not committed, and at least so many batches.

    The second group has a say only while it is at a position within the topic, and for the last batches only.
    """

    topic: str
    partition: int
    group: str
    batches: int
    second: str = ""

    @classmethod
    def parse(cls, text: str) -> "Kept":
        """From `TOPIC:PARTITION:GROUP:BATCHES` or `TOPIC:PARTITION:GROUP:BATCHES:SECOND`."""
        topic, partition, group, batches, *second = text.split(":")
        return cls(topic, int(partition), group, int(batches), *second)

    def __str__(self) -> str:
        second = f":{self.second}" if self.second else ""
        return f"{self.topic}:{self.partition}:{self.group}:{self.batches}{second}"


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
    committed = _committed(log, kept, kept.group) or 0
    end = _first_offset(batches[-1]) + LONGEST_BATCH
    if committed > end:
        return []  # the trigger gives it up, and reads what is here
    second = _committed(log, kept, kept.second) if kept.second else None
    if second is None or second > end:
        second = committed
    # A batch is named by its first record, so it is consumed when the next one begins at or below the commit.
    oldest = pairwise(batches[: len(batches) - kept.batches + 1])
    late = len(batches) - MOST_FOR_SECOND
    return [
        batch
        for number, (batch, following) in enumerate(oldest)
        if _first_offset(following) <= (committed if number < late else min(committed, second))
    ]


def _committed(log: BrokerLog, kept: Kept, group: str) -> int | None:
    """A group's position; None where it never committed one."""
    offsets = f"{_CLUSTER}/groups/consumers/{group}/offsets/{kept.topic}"
    stored = log.get(f"{offsets}/partitions/{kept.partition:010}.json")
    try:
        return int(json.loads(stored.data)["offset"]) if stored else None
    except (ValueError, KeyError, TypeError):
        return 0


def _first_offset(batch: str) -> int:
    return int(batch.rpartition("/")[2].removesuffix(".batch"))
