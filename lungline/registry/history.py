"""The history of promotions: who promoted which version, when, why, and with which metrics.

Entries are stored beside the model packages, as `s3://{models_bucket}/{model_name}/history/00000001.json` and so on.
They are never changed: each is written with a conditional put, which is also the lock between concurrent promotions,
and holds the sha256 of the entry before it. A change takes two entries: `began` reserves the next number, then
`promoted` or `failed` states the outcome. The version in service is that of the last `promoted` entry, whatever
other systems say.

An attacker who can rewrite the whole bucket could forge a chain from its first entry. Entries are therefore signed with
the key of the site, and the hash of the last one is kept in two other places: in MLflow, and where the champion serves.
`lungline.registry.verification` compares all of these, before each change too.

The order is that of the numbers and hashes. Clocks decide nothing: an entry may be dated tomorrow.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from lungline.errors import ObjectGone, PromotionConflict, RegistryError
from lungline.package.card import GateFacts
from lungline.settings import Settings
from lungline.site_key import PublicKey, SiteKey
from lungline.storage.s3 import Storage

GENESIS = "0" * 64

Act = Literal["began", "promoted", "failed", "accepted"]
Kind = Literal["promotion", "rollback", "acceptance"]

_NAME = re.compile(r"([0-9]{8})\.json")


class Facts(BaseModel):
    """What is known about a version when it is promoted."""

    model_config = ConfigDict(frozen=True)

    package: str = Field(description="Digest over the package: sha256 of its card, which holds those of all files.")
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
    prior: float | None = Field(default=None, description="Share of positives that its risks are for.")
    site: str | None = Field(default=None, description="The site that it was fitted to.")
    parent: str | None = Field(default=None, description="The version whose network a version of a site has.")
    signed_by: str | None = Field(default=None, description="Key of the package's signature; None before 0.2.")
    gate: GateFacts | None = Field(default=None, description="The gate's verdict, and limits that were lowered for it.")
    without_gate: str | None = Field(default=None, description="Why a version that went round the gate may serve.")


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
    key: str = Field(default="", description="sha256 of the public key (PEM) of the signature.")
    signature: str = Field(default="", description="Signature of this entry without hash and signature, base64.")
    hash: str = Field(default="", description="sha256 of this entry without this field.")

    @property
    def anchor(self) -> str:
        """What is stored outside the chain, so that removing its last entries is detected."""
        return f"{self.number}:{self.hash}"


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry as it is stored, with what its content truly hashes to."""

    entry: PromotionEntry
    true_hash: str
    signed: bytes = field(repr=False)
    """What its signature covers."""
    written: datetime
    """When the store took it, by the store's clock."""

    def signed_with(self, keys: Sequence[PublicKey]) -> PublicKey | None:
        """The key among some that signed it."""
        named = (key for key in keys if key.id == self.entry.key)
        return next((key for key in named if key.verifies(self.signed, self.entry.signature)), None)


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
        return [stored.entry for stored in self.stored()]

    def stored(self) -> list[StoredEntry]:
        """All entries as stored, with what they hash to and what is signed."""
        numbers, _ = self._listing()
        return [self._read(number) for number in numbers]

    def head(self) -> PromotionEntry | None:
        """The last entry."""
        numbers, _ = self._listing()
        return self._read(numbers[-1]).entry if numbers else None

    def foreign(self) -> list[str]:
        """Names of files that lie among the entries and are none; they are passed over."""
        return self._listing()[1]

    def written(self, entry: PromotionEntry) -> datetime:
        """When the store took an entry, by the store's clock."""
        return self._read(entry.number).written

    def champion(self) -> str | None:
        """The version in service."""
        head = self.head()
        return head.champion if head else None

    def at(self, moment: datetime) -> PromotionEntry | None:
        """The `promoted` entry whose version was in service at a moment; None before the first."""
        return served_at(self.entries(), moment)

    def append(self, after: PromotionEntry | None, *, key: SiteKey | None = None, **values: Any) -> PromotionEntry:
        """Write the entry that follows `after`, signed with a key.

        Raises PromotionConflict, which names the other, when somebody else has written that entry first.
        """
        entry = PromotionEntry(
            number=after.number + 1 if after else 1,
            at=datetime.now(UTC),
            previous=after.hash if after else GENESIS,
            key=key.public.id if key else "",
            **values,
        )
        if key:
            signature = key.sign(_canonical(entry.model_dump(mode="json"), "hash", "signature"))
            entry = entry.model_copy(update={"signature": signature})
        entry = entry.model_copy(update={"hash": _hash(entry.model_dump(mode="json"))})
        data = json.dumps(entry.model_dump(mode="json"), indent=2, ensure_ascii=False).encode() + b"\n"
        if not self._storage.put_if_absent(self._bucket, self._key(entry.number), data, "application/json"):
            there = self._read(entry.number).entry
            if there.hash != entry.hash:  # the same is our own, stored by an attempt whose answer was lost
                raise PromotionConflict(f"{sentence_of(there)}; nothing was changed by this call.")
        return entry

    def verify(self, anchor: str | None = None) -> list[PromotionEntry]:
        """All entries, once their chain is proven unbroken up to the anchor.

        Raises RegistryError, which names the first entry that was changed, removed, moved or added.
        """
        stored = self.stored()
        check_chain(stored)
        entries = [each.entry for each in stored]
        check_anchor(entries, anchor, "MLflow")
        return entries

    def _listing(self) -> tuple[list[int], list[str]]:
        """Numbers of the entries, without a gap, and names of the files that are none.

        Raises RegistryError when an entry is missing: there is a gap, and a true entry behind it.
        """
        numbers: list[int] = []
        foreign: list[str] = []
        for info in self._storage.list(self._bucket, self.prefix):
            name = info.key.removeprefix(self.prefix)
            match = _NAME.fullmatch(name)
            if match and int(match[1]) == len(numbers) + 1:
                numbers.append(int(match[1]))
            elif match and self._is_entry(int(match[1])):
                raise RegistryError(f"The promotion history is damaged: entry {len(numbers) + 1} is missing.")
            elif name:
                foreign.append(name)
        return numbers, foreign

    def _is_entry(self, number: int) -> bool:
        try:
            stored = self._read(number)
        except RegistryError:
            return False
        return stored.entry.number == number and stored.entry.hash == stored.true_hash

    def _read(self, number: int) -> StoredEntry:
        damaged = f"The promotion history is damaged: entry {number}"
        try:
            stored = self._storage.get(self._bucket, self._key(number))
        except ObjectGone as exc:
            raise RegistryError(f"{damaged} is missing.") from exc
        try:
            document = json.loads(stored.data)
            entry = PromotionEntry.model_validate(document)
            return StoredEntry(entry, _hash(document), _canonical(document, "hash", "signature"), stored.modified)
        except (ValueError, AttributeError, RecursionError) as exc:  # pydantic's ValidationError is a ValueError
            raise RegistryError(f"{damaged} cannot be read.") from exc

    def _key(self, number: int) -> str:
        return f"{self.prefix}{number:08d}.json"


_VERBS = {"began": "is putting", "promoted": "has put", "failed": "has tried to put"}


def sentence_of(entry: PromotionEntry) -> str:
    """An entry in words, without a full stop: who, which version, when and why."""
    what = f"({entry.kind} of {entry.at:%Y-%m-%d %H:%M:%S} UTC: {entry.reason})"
    if entry.act == "accepted":
        return f"{entry.by} has accepted the history as it is {what}"
    return f"{entry.by} {_VERBS[entry.act]} version {entry.version} into service {what}"


def served_at(entries: Sequence[PromotionEntry], moment: datetime) -> PromotionEntry | None:
    """The `promoted` entry whose version was in service at a moment; None before the first."""
    served = None
    for entry in entries:
        if entry.act == "promoted" and entry.at <= moment:
            served = entry
    return served


def _hash(document: dict[str, Any]) -> str:
    """sha256 over the document's canonical JSON, without its own hash.

    Computed from the document as stored, not from the model: an entry with fields of a later release still verifies.
    """
    return hashlib.sha256(_canonical(document, "hash")).hexdigest()


def _canonical(document: dict[str, Any], *without: str) -> bytes:
    content = {name: value for name, value in document.items() if name not in without}
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def check_chain(stored: Sequence[StoredEntry]) -> None:
    """Raise RegistryError, which names the first entry that was changed, moved or added."""
    before: PromotionEntry | None = None
    for number, each in enumerate(stored, start=1):
        damaged = f"The promotion history is damaged: entry {number}"
        if each.entry.hash != each.true_hash:
            raise RegistryError(f"{damaged} was changed after it was written.")
        if each.entry.number != number:
            raise RegistryError(f"{damaged} was written as entry {each.entry.number}.")
        if each.entry.previous != (before.hash if before else GENESIS):
            raise RegistryError(f"{damaged} does not follow from the entry before it.")
        before = each.entry


def check_anchor(entries: Sequence[PromotionEntry], anchor: str | None, place: str) -> None:
    """Raise RegistryError when the history is not the one whose entry was anchored; `place` says where."""
    if anchor is None:
        return
    number = int(anchor.partition(":")[0]) if re.fullmatch(r"[0-9]{1,8}:[0-9a-f]{64}", anchor) else 0
    if number < 1:
        raise RegistryError(f"The anchor of the promotion history in {place} cannot be read.")
    if len(entries) < number:
        raise RegistryError(
            f"The promotion history is damaged: {place} remembers entry {number}, but it ends at {len(entries)}."
        )
    if entries[number - 1].anchor != anchor:
        raise RegistryError(f"The promotion history is damaged: entry {number} is not the one that {place} remembers.")
