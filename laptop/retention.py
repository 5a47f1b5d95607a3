"""Keeps the embedded broker's log short.

The broker stores each batch of records as one object, lists all objects of a partition whenever it reads there, and
deletes none: without this its cost would grow with every upload that ever was. Records of the uploads topic go when
the trigger has committed them; of the other topics the last ones stay, for consumers that were away.
"""

import json
from itertools import pairwise

from laptop.store import BROKER_BUCKET
from laptop.topics import PARTITIONS, TRIGGER_GROUP
from lungline.errors import ObjectGone
from lungline.settings import Settings
from lungline.storage import Storage

KEPT_BATCHES = 500

_CLUSTER = "clusters/tansu_cluster"


def prune(storage: Storage, settings: Settings) -> int:
    """Delete the batches that nobody needs any more; returns how many. Raises StorageUnavailable."""
    return sum(
        _prune(storage, settings, topic, number)
        for topic in (settings.uploads_topic, settings.results_topic, settings.dead_letters_topic)
        for number in range(PARTITIONS)
    )


def _prune(storage: Storage, settings: Settings, topic: str, number: int) -> int:
    batches = [info.key for info in storage.list(BROKER_BUCKET, f"{_partition(topic, number)}/records/")]
    if topic == settings.uploads_topic:
        committed = _committed(storage, topic, number)
        # A batch is named by its first record, so it is done when the next one begins at or below the commit.
        useless = [batch for batch, following in pairwise(batches) if _first_offset(following) <= committed]
    else:
        useless = batches[:-KEPT_BATCHES]
    for batch in useless:
        storage.delete(BROKER_BUCKET, batch)
    return len(useless)


def _committed(storage: Storage, topic: str, number: int) -> int:
    offsets = f"{_CLUSTER}/groups/consumers/{TRIGGER_GROUP}/offsets/{topic}/partitions/{number:010}.json"
    try:
        return int(json.loads(storage.get(BROKER_BUCKET, offsets).data)["offset"])
    except ObjectGone:
        return 0


def _partition(topic: str, number: int) -> str:
    return f"{_CLUSTER}/topics/{topic}/partitions/{number:010}"


def _first_offset(batch: str) -> int:
    return int(batch.rpartition("/")[2].removesuffix(".batch"))
