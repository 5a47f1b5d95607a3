"""The history of promotions: who promoted which version, when, why, and with which metrics.

Entries are stored beside the model packages, as `s3://{models_bucket}/{model_name}/history/00000001.json` and so on.
They are never changed: each is written with a conditional put, which is also the lock between concurrent promotions,
and holds the sha256 of the entry before it. A change takes two entries: `began` reserves the next number, then
`promoted` or `failed` states the outcome. The version in service is that of the last `promoted` entry, whatever
other systems say.

An attacker who can rewrite the whole bucket could forge a chain from its first entry. The registry therefore keeps the
hash of the last entry in MLflow too, and `verify` compares it.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from lungline.errors import ObjectGone, PromotionConflict, RegistryError
from lungline.settings import Settings
from lungline.storage.s3 import Storage

GENESIS = "0" * 64

Act = Literal["began", "promoted", "failed"]
Kind = Literal["promotion", "rollback"]


class Facts(BaseModel):
    """What is known about a version when it is promoted."""

    model_config = ConfigDict(frozen=True)

    package: str = Field(description="sha256 of the package's card, which holds the sha256 of every other file.")
    metrics: dict[str, float] = Field(
        default_factory=dict,
        description="Metrics on the test split.",
        validation_alias=AliasChoices("metrics", "figures"),  # the name in entries of 0.1
    )
    data: str = ""
    data_digest: str = ""
    synthetic: bool = False
    code_version: str = ""
    commit: str | None = None
    mlflow_run: str | None = None
    pipeline_run: str | None = None
    prior: float | None = Field(default=None, description="Share of pneumonia that its risks are for.")
    site: str | None = Field(default=None, description="The site that it was fitted to.")
    parent: str | None = Field(default=None, description="The version whose network a version of a site has.")


class PromotionEntry(BaseModel):
    """One entry; `champion` is the version in service once it is written."""

    model_config = ConfigDict(frozen=True)

    number: int = Field(ge=1)
    at: datetime
    act: Act
    kind: Kind
    version: str
    champion: str | None
    by: str
    reason: str
    outcome: str = Field(default="", description="Why it failed.")
    facts: Facts
    previous: str = Field(description="sha256 of the entry before, zeros for the first.")
    hash: str = Field(default="", description="sha256 of this entry without this field.")

    @property
    def anchor(self) -> str:
        """What is stored outside the chain, so that removing its last entries is detected."""
        return f"{self.number}:{self.hash}"


class History:
    """The chain of entries of one model. Raises StorageUnavailable when the store does not answer."""

    def __init__(self, storage: Storage, bucket: str, model_name: str) -> None:
        self._storage = storage
        self._bucket = bucket
        self.prefix = f"{model_name}/history/"

    @classmethod
    def from_settings(cls, settings: Settings) -> "History":
        """The history of the model that the settings name."""
        return cls(Storage.from_settings(settings), settings.models_bucket, settings.model_name)

    def entries(self) -> list[PromotionEntry]:
        """All entries as stored, oldest first; `verify` checks them."""
        return [_parse(self._read(number))[0] for number in self._numbers()]

    def head(self) -> PromotionEntry | None:
        """The last entry."""
        numbers = list(self._numbers())
        return _parse(self._read(numbers[-1]))[0] if numbers else None

    def champion(self) -> str | None:
        """The version in service."""
        head = self.head()
        return head.champion if head else None

    def at(self, moment: datetime) -> PromotionEntry | None:
        """The `promoted` entry whose version was in service at a moment; None before the first."""
        return _served(self.entries(), moment)

    def append(self, after: PromotionEntry | None, **values: Any) -> PromotionEntry:
        """Write the entry that follows `after`.

        Raises PromotionConflict, which names the other, when somebody else has written that entry first.
        """
        # A clock that was set back must not make the chain run backwards.
        now = datetime.now(UTC)
        entry = PromotionEntry(
            number=after.number + 1 if after else 1,
            at=max(now, after.at) if after else now,
            previous=after.hash if after else GENESIS,
            **values,
        )
        entry = entry.model_copy(update={"hash": _hash(entry.model_dump(mode="json"))})
        data = json.dumps(entry.model_dump(mode="json"), indent=2, ensure_ascii=False).encode() + b"\n"
        if not self._storage.put_if_absent(self._bucket, self._key(entry.number), data, "application/json"):
            there = self._read(entry.number)
            if there != data:  # the same bytes are our own, stored by an attempt whose answer was lost
                raise PromotionConflict(f"{sentence_of(_parse(there)[0])}; nothing was changed by this call.")
        return entry

    def verify(self, anchor: str | None = None) -> list[PromotionEntry]:
        """All entries, once their chain is proven unbroken up to the anchor.

        Raises RegistryError, which names the first entry that was changed, removed, moved or added.
        """
        entries: list[PromotionEntry] = []
        for expected, number in enumerate(self._numbers(), start=1):
            if number != expected:
                raise RegistryError(f"The promotion history is damaged: entry {expected} is missing.")
            entry, true = _parse(self._read(number))
            _check(entry, true, entries[-1] if entries else None, number)
            entries.append(entry)
        _check_anchor(entries, anchor)
        return entries

    def _numbers(self) -> Iterator[int]:
        for info in self._storage.list(self._bucket, self.prefix):
            name = info.key.removeprefix(self.prefix)
            if not (name.endswith(".json") and name[:-5].isdigit()):
                raise RegistryError("The promotion history is damaged: a file lies in it that is no entry.")
            yield int(name[:-5])

    def _read(self, number: int) -> bytes:
        try:
            return self._storage.get(self._bucket, self._key(number)).data
        except ObjectGone as exc:
            raise RegistryError(f"The promotion history is damaged: entry {number} is missing.") from exc

    def _key(self, number: int) -> str:
        return f"{self.prefix}{number:08d}.json"


def sentence_of(entry: PromotionEntry) -> str:
    """An entry in words, without a full stop: who, which version, when and why."""
    verb = {"began": "is putting", "promoted": "has put", "failed": "has tried to put"}[entry.act]
    when = f"{entry.at:%Y-%m-%d %H:%M:%S} UTC"
    return f"{entry.by} {verb} version {entry.version} into service ({entry.kind} of {when}: {entry.reason})"


def _served(entries: Sequence[PromotionEntry], moment: datetime) -> PromotionEntry | None:
    served = None
    for entry in entries:
        if entry.act == "promoted" and entry.at <= moment:
            served = entry
    return served


def _hash(document: dict[str, Any]) -> str:
    """sha256 over the document's canonical JSON, without its own hash.

    Computed from the document as stored, not from the model: an entry with fields of a later release still verifies.
    """
    content = {name: value for name, value in document.items() if name != "hash"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _parse(data: bytes) -> tuple[PromotionEntry, str]:
    """An entry and the hash that its content truly has."""
    try:
        document = json.loads(data)
        return PromotionEntry.model_validate(document), _hash(document)
    except (ValueError, AttributeError) as exc:  # pydantic's ValidationError is a ValueError
        raise RegistryError("The promotion history is damaged: an entry cannot be read.") from exc


def _check(entry: PromotionEntry, true: str, before: PromotionEntry | None, number: int) -> None:
    damaged = f"The promotion history is damaged: entry {number}"
    if entry.hash != true:
        raise RegistryError(f"{damaged} was changed after it was written.")
    if entry.number != number:
        raise RegistryError(f"{damaged} was written as entry {entry.number}.")
    if entry.previous != (before.hash if before else GENESIS):
        raise RegistryError(f"{damaged} does not follow from the entry before it.")
    if before and entry.at < before.at:
        raise RegistryError(f"{damaged} is older than the entry before it.")


def _check_anchor(entries: Sequence[PromotionEntry], anchor: str | None) -> None:
    if anchor is None:
        return
    number = int(anchor.partition(":")[0])
    if len(entries) < number:
        raise RegistryError(
            f"The promotion history is damaged: MLflow remembers entry {number}, but it ends at {len(entries)}."
        )
    if entries[number - 1].anchor != anchor:
        raise RegistryError(f"The promotion history is damaged: entry {number} is not the one that MLflow remembers.")
