"""What a predictor wrote of an upload that was erased meanwhile, and its deletion.

A predictor that reads an X-ray right before an erasure deletes it saves its record after the erasure has looked for the
last time. So it asks for the tombstone once it has saved, and takes back what it wrote.
"""

from collections.abc import Iterator, Sequence

from lungline.results import latest_list, opinions, patients, record_store, records, returned
from lungline.retention.rules import Kind
from lungline.settings import Settings
from lungline.storage.s3 import Storage


def take_back(identity: str, kinds: Sequence[Kind], storage: Storage, settings: Settings) -> None:
    """Delete what predictors write of an upload to buckets of these kinds. Raises StorageUnavailable.

    Where this process may not delete, the upload is noted for the next erasure.
    """
    returned.delete_or_note(storage, settings.results_bucket, identity, _written(identity, kinds, storage, settings))


def _written(identity: str, kinds: Sequence[Kind], storage: Storage, settings: Settings) -> Iterator[tuple[str, str]]:
    results = settings.results_bucket
    if "patients" in kinds and settings.purpose == "answer":
        yield settings.patients_bucket, patients.key_of(identity)
    if "results" not in kinds:
        return
    yield from ((results, key) for key in _listings(identity, storage, results))
    for prefix in (f"{records.OWED}{identity}-", f"{records.PREFIX}{identity[:2]}/{identity}/"):
        yield from ((results, info.key) for info in storage.list(results, prefix))
    yield from ((results, key) for key in opinions.keys_of_upload(storage, results, identity))


def _listings(identity: str, storage: Storage, bucket: str) -> Iterator[str]:
    """Where the upload's records are listed; an object that lists others too is replaced first."""
    for record in record_store.find(storage, bucket, identity):
        for key in list(latest_list.listings_of(storage, bucket, record)):
            if instead := latest_list.relisted_key(key, {identity}):
                storage.put(bucket, instead, b"")
            yield key
