"""The list of the latest uploads: empty objects in the results bucket whose names sort the latest first.

    latest/8236194741-abcdef...-3      lists the record of upload abcdef... by model version 3, and is stored before it;
                                       those of one second share objects: `...-abcdef.123456-3` lists two

The name begins with the seconds from the time of the upload to the year 2286. Earlier versions kept the drawn heatmap
there, as a `.png`; now the record has its map.
"""

import re
from collections.abc import Collection, Iterator
from datetime import datetime

from lungline.results.records import ResultRecord, record_key
from lungline.storage.s3 import Storage

LATEST = "latest/"
# File systems, and so some stores, allow 255 after the last slash.
MOST_NAME_BYTES = len(LATEST) + 255
_LAST_SECOND = 9_999_999_999
_NAME = re.compile(r"(?P<second>\d{10})-(?P<identities>[^-]+)-(?P<version>.+)")


def heatmap_key(identity: str, version: str, uploaded: datetime) -> str:
    """The key where earlier versions kept an upload's heatmap; later uploads sort first."""
    return f"{latest_key(identity, version, uploaded)}.png"


def latest_key(identity: str, version: str, uploaded: datetime) -> str:
    """The key of the empty object that lists a record among the latest; later uploads sort first."""
    second = min(max(int(uploaded.timestamp()), 0), _LAST_SECOND)
    return f"{LATEST}{_LAST_SECOND - second:010}-{identity}-{version}"


def list_latest(storage: Storage, bucket: str, identity: str, version: str, uploaded: datetime) -> None:
    """List a record among the latest, before it is saved: a record that is not listed would never be seen there."""
    storage.put(bucket, latest_key(identity, version, uploaded), b"")


def list_record(storage: Storage, bucket: str, record: ResultRecord) -> None:
    """List a record among the latest."""
    list_latest(storage, bucket, record.upload.identity, record.model.version, listed_at(record))


def listed_at(record: ResultRecord) -> datetime:
    """The moment under which a record is listed among the latest."""
    return record.read.modified if record.read else record.times.uploaded or record.times.received


def listings_of(storage: Storage, bucket: str, record: ResultRecord) -> Iterator[str]:
    """The keys of the objects that list a record among the latest; lists the uploads of one second."""
    second = latest_key("", "", listed_at(record)).rstrip("-")
    for info in storage.list(bucket, f"{second}-"):
        if record.upload.identity in listed_identities(info.key):
            yield info.key


def keys_since(storage: Storage, bucket: str, since: datetime) -> Iterator[tuple[str, str]]:
    """Key and model version of the records of uploads stored since a moment, the latest first; reads no record."""
    last = ""
    seen: set[str] = set()
    for info in storage.list(bucket, LATEST):
        if (parts := parts_of(info.key)) is None:
            continue
        second, keys, version = parts
        if _LAST_SECOND - int(second) < int(since.timestamp()):
            return
        if second != last:
            last = second
            seen.clear()
        # The heatmap of an earlier version lists the same record again, and so may a second delivery with others.
        yield from ((key, version) for key in keys if key not in seen)
        seen.update(keys)


def listed_before(storage: Storage, bucket: str, moment: datetime) -> Iterator[str]:
    """Identities of uploads that are listed as of before a moment."""
    second = _LAST_SECOND - min(max(int(moment.timestamp()), 0), _LAST_SECOND)
    for info in storage.list(bucket, LATEST, start_after=f"{LATEST}{second:010}"):
        yield from listed_identities(info.key)


def listed_identities(key: str) -> list[str]:
    """The identities that an object among the latest lists; none for an object that is none of ours."""
    name = _NAME.fullmatch(key.removeprefix(LATEST).removesuffix(".png"))
    return name["identities"].split(".") if name else []


def relisted_key(key: str, without: Collection[str]) -> str | None:
    """The key of an object that lists what another lists, without some identities; None where nothing is left."""
    name = _NAME.fullmatch(key.removeprefix(LATEST))
    left = [each for each in listed_identities(key) if each not in without]
    return f"{LATEST}{name['second']}-{'.'.join(left)}-{name['version']}" if name and left else None


def parts_of(key: str) -> tuple[str, list[str], str] | None:
    """Second, records' keys and model version in a name among the latest; None for an object that is none of ours."""
    name = _NAME.fullmatch(key.removeprefix(LATEST).removesuffix(".png"))
    if name is None:
        return None
    keys = [record_key(identity, name["version"]) for identity in name["identities"].split(".")]
    return name["second"], keys, name["version"]
