"""A power cut may leave the name of an object that nobody was told of, and not its content."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from laptop.services.store import running_store
from lungline.errors import StorageUnavailable
from lungline.results import record_store
from lungline.settings import Settings
from lungline.storage import client, kept_connections, signing
from lungline.storage.s3 import Storage
from tests.support.worklist_site import record

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cut")


@pytest.fixture
def storage(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """The store keeps its client waiting for what it cannot read."""
    for module in (client, kept_connections):
        monkeypatch.setattr(module, "READ_SECONDS", 0.5)
    for module in (client, signing):
        monkeypatch.setattr(module, "ATTEMPTS", 1)
    with running_store(home, Settings(home=home)) as settings:
        storage = Storage.from_settings(settings)
        yield storage
        storage.close()


def cut(home: Path, bucket: str) -> None:
    """Take away the end of what was written last, as a power cut does."""
    (volume,) = (home / "store/data").glob(f"{bucket}_*.dat")
    os.truncate(volume, volume.stat().st_size - 1000)


def test_what_is_sent_again_after_a_power_cut_is_whole(home: Path, storage: Storage) -> None:
    """A modality repeats what was not acknowledged, and would have been told that it is there."""
    bucket, key, data = "xray-uploads", "dicom/1.dcm", bytes(range(256)) * 20
    assert storage.put_once(bucket, key, data)
    assert not storage.put_once(bucket, key, data)
    cut(home, bucket)
    with pytest.raises(StorageUnavailable):
        storage.get(bucket, key)
    assert storage.put_once(bucket, key, data)
    assert storage.get(bucket, key).data == data

    result = record(1, 0.9, warnings=("x" * 3000,))
    assert record_store.save(storage, "lungline-results", result) == result
    cut(home, "lungline-results")
    with pytest.raises(StorageUnavailable):  # what cannot be read just now may be the better one
        record_store.save(storage, "lungline-results", record(1, outcome="gone"))
    assert record_store.save(storage, "lungline-results", result) == result
    assert record_store.load(storage, "lungline-results", result.key) == result
