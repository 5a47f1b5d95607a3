"""Keeps the embedded broker's log short.

The broker stores each batch of records as one object, lists all objects of a partition whenever it reads there, and
deletes none: without this its cost would grow with every upload that ever was. Records go when the trigger has
committed them, those of results and dead letters only from behind the last ones: others read them too.
"""

import json
from itertools import pairwise

from laptop.store import BROKER_BUCKET
from laptop.topics import DEAD_LETTERS_GROUP, PARTITIONS, RESULTS_GROUP, TRIGGER_GROUP
from lungline.errors import ObjectGone
from lungline.settings import Settings
from lungline.storage import Storage

KEPT_BATCHES = 500

_CLUSTER = "clusters/tansu_cluster"


def prune(storage: Storage, settings: Settings) -> int:
    """Delete the batches that nobody needs any more; returns how many. Raises StorageUnavailable."""
    topics = (
        (settings.uploads_topic, TRIGGER_GROUP, 1),
        (settings.results_topic, RESULTS_GROUP, KEPT_BATCHES),
        (settings.dead_letters_topic, DEAD_LETTERS_GROUP, KEPT_BATCHES),
    )
    return sum(_prune(storage, *topic, number) for topic in topics for number in range(PARTITIONS))


def _prune(storage: Storage, topic: str, group: str, kept: int, number: int) -> int:
    batches = [info.key for info in storage.list(BROKER_BUCKET, f"{_partition(topic, number)}/records/")]
    if len(batches) <= kept:
        return 0
    committed = _committed(storage, topic, group, number)
    # A batch is named by its first record, so it is done when the next one begins at or below the commit.
    oldest = pairwise(batches[: len(batches) - kept + 1])
    useless = [batch for batch, following in oldest if _first_offset(following) <= committed]
    for batch in useless:
        storage.delete(BROKER_BUCKET, batch)
    return len(useless)


def _committed(storage: Storage, topic: str, group: str, number: int) -> int:
    offsets = f"{_CLUSTER}/groups/consumers/{group}/offsets/{topic}/partitions/{number:010}.json"
    try:
        return int(json.loads(storage.get(BROKER_BUCKET, offsets).data)["offset"])
    except ObjectGone:
        return 0


def _partition(topic: str, number: int) -> str:
    return f"{_CLUSTER}/topics/{topic}/partitions/{number:010}"


def _first_offset(batch: str) -> int:
    return int(batch.rpartition("/")[2].removesuffix(".batch"))
