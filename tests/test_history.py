import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
from pydantic import SecretStr

from lungline.errors import PromotionConflict, RegistryError, StorageUnavailable
from lungline.registry.history import Facts, History, PromotionEntry, _hash
from lungline.registry.verification import verify
from lungline.site_key import generate_key
from lungline.storage.s3 import Storage
from tests.support.object_store import running_store

BUCKET = "models"
FACTS = Facts(package="a" * 64, metrics={"auc": 0.987654321}, data="phantom", data_digest="d" * 64)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with running_store(tmp_path_factory.mktemp("store"), BUCKET) as storage:
        yield storage


@pytest.fixture
def history(storage: Storage) -> History:
    return History(storage, BUCKET, uuid.uuid4().hex)


def serve(history: History, version: str, *, by: str = "Ada", act: str = "promoted") -> PromotionEntry:
    """One entry on top of the chain, whatever is there."""
    values = {"kind": "promotion", "version": version, "by": by, "reason": "better", "facts": FACTS}
    return history.append(history.head(), act=act, champion=version, **values)


def key(history: History, number: int) -> str:
    return f"{history.prefix}{number:08d}.json"


def rewrite(storage: Storage, history: History, number: int, **changes: object) -> None:
    document = json.loads(storage.get(BUCKET, key(history, number)).data)
    storage.put(BUCKET, key(history, number), json.dumps(document | changes).encode())


def test_a_history_that_was_never_written_is_empty_and_sound(history: History) -> None:
    assert history.verify() == []
    assert history.head() is None
    assert history.champion() is None
    assert history.at(datetime.now(UTC)) is None


def test_an_entry_comes_back_as_it_was_written(history: History) -> None:
    written = serve(history, "1")
    assert history.verify() == [written]
    assert written.facts == FACTS
    assert history.champion() == "1"


def test_the_history_tells_which_version_served_at_a_time(history: History) -> None:
    before = datetime.now(UTC)
    first = serve(history, "1")
    serve(history, "2", act="failed")
    second = serve(history, "2")
    assert history.at(before) is None
    assert history.at(first.at) == first
    assert history.at(second.at - timedelta(microseconds=1)) == first
    assert history.at(datetime.now(UTC)) == second


def test_an_entry_dated_tomorrow_changes_no_order(history: History, storage: Storage) -> None:
    """Numbers and hashes are the order, not clocks; what follows has its own time."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    document = serve(history, "1").model_dump(mode="json") | {"at": tomorrow.isoformat()}
    storage.put(BUCKET, key(history, 1), json.dumps(document | {"hash": _hash(document)}).encode())
    second = serve(history, "2")
    assert second.at < tomorrow
    assert [entry.version for entry in history.verify()] == ["1", "2"]
    notices = verify(history.stored(), anchors={}, trusted=()).notices
    assert any("Entry 1 is dated" in notice and "in the future" in notice for notice in notices)


@pytest.mark.parametrize(
    "changes",
    [
        {"by": "Eve"},
        {"version": "9"},
        {"facts": {"package": "b" * 64}},
        {"added": "later"},
        {"previous": "0" * 63 + "1"},
    ],
)
def test_a_changed_entry_is_found_and_named(history: History, storage: Storage, changes: dict[str, object]) -> None:
    for version in "123":
        serve(history, version)
    rewrite(storage, history, 2, **changes)
    with pytest.raises(RegistryError, match="entry 2 was changed"):
        history.verify()


def test_a_fresh_hash_breaks_the_chain_after_it(history: History, storage: Storage) -> None:
    """A changed entry with a fresh hash breaks the chain after it."""
    for version in "123":
        serve(history, version)
    document = json.loads(storage.get(BUCKET, key(history, 2)).data) | {"by": "Eve"}
    rewrite(storage, history, 2, by="Eve", hash=_hash(document))
    with pytest.raises(RegistryError, match="entry 3 does not follow"):
        history.verify()


def test_a_removed_entry_is_found_and_named(history: History, storage: Storage) -> None:
    for version in "123":
        serve(history, version)
    storage.delete(BUCKET, key(history, 2))
    with pytest.raises(RegistryError, match="entry 2 is missing"):
        history.verify()


def test_two_entries_that_changed_places_are_found(history: History, storage: Storage) -> None:
    for version in "123":
        serve(history, version)
    second, third = (storage.get(BUCKET, key(history, number)).data for number in (2, 3))
    storage.put(BUCKET, key(history, 2), third)
    storage.put(BUCKET, key(history, 3), second)
    with pytest.raises(RegistryError, match="entry 2 was written as entry 3"):
        history.verify()


def test_the_anchor_reveals_a_truncated_history(history: History, storage: Storage) -> None:
    """An end that was cut off is found by the anchor."""
    entries = [serve(history, version) for version in "123"]
    assert history.verify(entries[1].anchor) == entries, "the anchor may be behind: a crash may have come between"
    storage.delete(BUCKET, key(history, 3))
    with pytest.raises(RegistryError, match="MLflow remembers entry 3, but it ends at 2"):
        history.verify(entries[2].anchor)


def test_the_anchor_reveals_a_rewritten_end(history: History, storage: Storage) -> None:
    """An end that was written anew is found by the anchor."""
    entries = [serve(history, version) for version in "12"]
    storage.delete(BUCKET, key(history, 2))
    serve(history, "2", by="Eve")
    assert len(history.verify()) == 2
    with pytest.raises(RegistryError, match="entry 2 is not the one that MLflow remembers"):
        history.verify(entries[1].anchor)


@pytest.mark.parametrize("name", ["00000001.json.bak", "1.json", "00000009.json", "\N{SUPERSCRIPT TWO}.json"])
def test_a_foreign_file_is_passed_over_and_reported(history: History, storage: Storage, name: str) -> None:
    first = serve(history, "1")
    storage.put(BUCKET, f"{history.prefix}{name}", b"{}")
    assert history.verify() == [first]
    assert history.champion() == "1"
    assert serve(history, "2").number == 2
    examined = verify(history.stored(), anchors={}, trusted=(), foreign=history.foreign())
    assert f"1 file among the entries of the history are none, and passed over: {name!r}." in examined.notices


def test_entries_are_signed_and_a_forged_one_is_named(history: History, storage: Storage) -> None:
    """A fresh hash is easy to make, a signature is not; unsigned entries stand only before the first signed one."""
    ours, theirs = generate_key(), generate_key()
    serve(history, "1")
    values = {"kind": "promotion", "by": "Ada", "reason": "better", "facts": FACTS, "act": "promoted"}
    signed = history.append(history.head(), key=ours, version="2", champion="2", **values)
    trusted = (ours.public,)
    assert verify(history.stored(), anchors={}, trusted=trusted).lost == ()
    document = signed.model_dump(mode="json") | {"champion": "9", "version": "9"}
    storage.put(BUCKET, key(history, 2), json.dumps(document | {"hash": _hash(document)}).encode())
    with pytest.raises(RegistryError, match="entry 2 is not signed with a key of this site"):
        verify(history.stored(), anchors={}, trusted=trusted)
    storage.put(BUCKET, key(history, 2), json.dumps(signed.model_dump(mode="json")).encode())
    serve(history, "3")
    with pytest.raises(RegistryError, match="entry 3 is not signed, though entry 2 before it is"):
        verify(history.stored(), anchors={}, trusted=trusted)
    storage.delete(BUCKET, key(history, 3))
    history.append(signed, key=theirs, version="3", champion="3", **values)
    with pytest.raises(RegistryError, match="entry 3 is not signed with a key of this site"):
        verify(history.stored(), anchors={}, trusted=trusted)
    (lost,) = verify(history.stored(), anchors={}, trusted=trusted, published=(theirs.public,)).lost
    assert "which this site does not trust" in lost, "a key that lies in the bucket only needs a person's word"


@pytest.mark.parametrize("anchor", ["", "x", "0:0", "1:abc", "-1:" + "a" * 64, "\N{SUPERSCRIPT TWO}:" + "a" * 64])
def test_an_anchor_that_cannot_be_read_is_named(history: History, anchor: str) -> None:
    serve(history, "1")
    with pytest.raises(RegistryError, match="anchor of the promotion history in MLflow cannot be read"):
        history.verify(anchor)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"number": 1}', b"\xff"])
def test_an_entry_that_cannot_be_read_is_damage(history: History, storage: Storage, data: bytes) -> None:
    storage.put(BUCKET, key(history, 1), data)
    with pytest.raises(RegistryError, match="cannot be read"):
        history.verify()


def test_one_of_many_concurrent_writers_wins(history: History) -> None:
    """Of many who write the same entry one wins and the others learn who."""
    first, together = serve(history, "1"), Barrier(8)

    def attempt(number: int) -> PromotionEntry | PromotionConflict:
        together.wait()
        kind, version, by = "promotion", f"{number}", f"promoter {number}"
        try:
            return history.append(
                first, act="began", kind=kind, version=version, champion="1", facts=FACTS, by=by, reason="race"
            )
        except PromotionConflict as exc:
            return exc

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(attempt, range(8)))
    (winner,) = (outcome for outcome in outcomes if isinstance(outcome, PromotionEntry))
    sentences = [str(outcome) for outcome in outcomes if isinstance(outcome, PromotionConflict)]
    assert len(sentences) == 7
    assert all(winner.by in sentence for sentence in sentences)
    assert history.verify() == [first, winner]


def test_a_later_release_may_add_fields_to_an_entry(history: History, storage: Storage) -> None:
    entry = serve(history, "1")
    document = entry.model_dump(mode="json") | {"site": "ward 7"}
    storage.put(BUCKET, key(history, 1), json.dumps(document | {"hash": _hash(document)}).encode())
    assert history.verify()[0].version == "1"


def test_reading_an_unreachable_store_is_reported() -> None:
    with pytest.raises(StorageUnavailable):
        History(
            Storage("http://127.0.0.1:1", access_key=SecretStr("a"), secret_key=SecretStr("b")), BUCKET, "pneumonia"
        ).entries()
