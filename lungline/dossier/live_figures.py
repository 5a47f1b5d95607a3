"""What versions did in service: their results by label, and how often readers agreed with them."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import islice

from lungline.dossier.change_parts import LiveFigures
from lungline.results import readings
from lungline.results.latest_list import keys_since
from lungline.results.record_store import load_or_none
from lungline.results.records import ResultRecord
from lungline.storage.s3 import Storage

MOST_LISTED = 100_000
"""Results that are counted, the latest first: listing a thousand takes the store some 20 ms."""
MOST_READ = 200
"""Results of a version that are read for their labels."""
READERS = 16

_EVER = datetime(2000, 1, 1, tzinfo=UTC)
_VERDICTS = ("confirmed", "corrected")


def live_figures(storage: Storage, bucket: str, versions: Collection[str]) -> dict[str, LiveFigures]:
    """The figures of versions, as records name them. Raises StorageUnavailable."""
    counts: Counter[str] = Counter()
    keys: dict[str, list[str]] = defaultdict(list)
    for key, version in islice(keys_since(storage, bucket, _EVER), MOST_LISTED):
        counts[version] += 1
        if version in versions and len(keys[version]) < MOST_READ:
            keys[version].append(key)
    spoken = _verdicts(storage, bucket)
    with ThreadPoolExecutor(READERS) as pool:
        load = partial(load_or_none, storage, bucket)
        loaded = {version: list(pool.map(load, keys[version])) for version in versions}
    return {version: _figures(counts[version], loaded[version], spoken.get(version, {})) for version in versions}


def _figures(
    number: int, loaded: list[ResultRecord | None], spoken: Mapping[str, readings.ReadingRecord]
) -> LiveFigures:
    labels = Counter(record.label or record.outcome for record in loaded if record)
    agreed = sum(reading.verdict == reading.label for reading in spoken.values())
    return LiveFigures(
        results=number, looked_at=labels.total(), labels=dict(labels.most_common()), read=len(spoken), agreed=agreed
    )


def _verdicts(storage: Storage, bucket: str) -> dict[str, dict[str, readings.ReadingRecord]]:
    """The last verdict of each upload, by version."""
    last: dict[str, dict[str, readings.ReadingRecord]] = defaultdict(dict)
    for reading in islice(readings.stored(storage, bucket), MOST_LISTED):
        if reading and reading.action in _VERDICTS:
            before = last[reading.version].get(reading.identity)
            if before is None or before.at < reading.at:
                last[reading.version][reading.identity] = reading
    return last
