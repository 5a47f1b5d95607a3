"""Listings of the broker's log, as ListObjectsV2 answers."""

from datetime import UTC, datetime
from functools import lru_cache
from xml.sax.saxutils import escape

from laptop.services.broker_log import BrokerLog, Listed
from laptop.services.broker_log_requests import BUCKET, NAMESPACE

MOST_KEYS = 1000


def listing(reader: BrokerLog, query: dict[str, str]) -> bytes:
    """An answer to ListObjectsV2."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    after = query.get("continuation-token") or query.get("start-after", "")
    listed = reader.listed(prefix, after, MOST_KEYS + 1)
    shown, more = listed[:MOST_KEYS], len(listed) > MOST_KEYS
    folders = dict.fromkeys(filter(None, (_folder(each.key, prefix, delimiter) for each in shown)))
    objects = [each for each in shown if not _folder(each.key, prefix, delimiter)]
    token = f"<NextContinuationToken>{escape(shown[-1].key)}</NextContinuationToken>" if more else ""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="{NAMESPACE}"><Name>{BUCKET}</Name>'
        f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(map(_contents, objects))}"
        f"{''.join(f'<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>' for each in folders)}"
        "</ListBucketResult>"
    ).encode()


def _folder(key: str, prefix: str, delimiter: str) -> str:
    """The part of a key up to the first delimiter after a prefix; empty without one."""
    end = key.find(delimiter, len(prefix)) if delimiter else -1
    return key[: end + len(delimiter)] if end >= 0 else ""


@lru_cache(maxsize=4096)  # each fetch lists a whole partition again
def _contents(listed: Listed) -> str:
    # The broker takes the youngest batch for the last, so that a second is too coarse.
    written = f"{moment_of(listed.version).isoformat(timespec='seconds')[:19]}.{listed.version % 10**9:09}Z"
    return (
        f"<Contents><Key>{escape(listed.key)}</Key><LastModified>{written}</LastModified>"
        f'<ETag>"{listed.version:x}"</ETag><Size>{listed.size}</Size></Contents>'
    )


def moment_of(version: int) -> datetime:
    """When a version was written."""
    return datetime.fromtimestamp(version // 10**9, UTC)
