"""A store that holds result records and nothing else, for tests of the worklist that need no other object."""

from collections.abc import Iterator
from datetime import UTC, datetime

from pydantic import SecretStr

from lungline.errors import ObjectGone
from lungline.results.opinions import PREFIXES
from lungline.results.records import PREFIX, ResultRecord
from lungline.storage.objects import ObjectInfo, StoredObject
from lungline.storage.s3 import Storage

_HELD = (PREFIX, *PREFIXES.values())


class RecordStore(Storage):
    """Has the records that it was given, and no promotion history; for anything else it does not answer."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9", access_key=SecretStr("a"), secret_key=SecretStr("b"))
        self._records: dict[str, bytes] = {}

    def keep(self, record: ResultRecord, key: str | None = None) -> None:
        """Hold a record, as the predictor stores it; at another key where it is a second opinion."""
        self._records[key or record.key] = record.model_dump_json().encode()

    def get(self, bucket: str, key: str, version_id: str | None = None, max_bytes: int | None = None) -> StoredObject:
        """A record."""
        if not key.startswith(_HELD):
            return super().get(bucket, key, version_id, max_bytes)
        if key not in self._records:
            raise ObjectGone("There is no such record.")
        data = self._records[key]
        return StoredObject(data, "0" * 32, len(data), datetime.now(UTC), None)

    def list(
        self, bucket: str, prefix: str = "", start_after: str | None = None, page_size: int = 1000
    ) -> Iterator[ObjectInfo]:
        """Records under a prefix; the history of promotions is empty."""
        if "/history/" in prefix:
            return
        if not prefix.startswith(_HELD):
            yield from super().list(bucket, prefix, start_after, page_size)
            return
        for key in sorted(self._records):
            if key.startswith(prefix):
                yield ObjectInfo(key, "0" * 32, len(self._records[key]), datetime.now(UTC))
