"""Verification of the promotion history: its chain, its signatures, and its anchors in two other places.

A history that does not verify is never changed and never anchored anew. What is lost, an anchor or the public key of
older entries, cannot be told from what was taken away: it needs a person's word, which stands in the history.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lungline.errors import PromotionRefused, RegistryError
from lungline.registry.history import PromotionEntry, StoredEntry, check_anchor, check_chain
from lungline.site_key import PublicKey
from lungline.wording import count

AHEAD = timedelta(minutes=5)
"""How far clocks may differ before a date counts as one of the future."""
ACCEPT = "`lungline history --accept --by NAME --reason TEXT` accepts it; the word stands in the history."


@dataclass(frozen=True, slots=True)
class Anchor:
    """What a place remembers of the history; `reachable` is False where it cannot be asked now."""

    value: str | None
    reachable: bool = True


@dataclass(frozen=True, slots=True)
class VerifiedHistory:
    """A history whose chain, signatures and anchors hold."""

    entries: tuple[PromotionEntry, ...]
    notices: tuple[str, ...] = ()
    """What a person should know, and what hinders nothing."""
    lost: tuple[str, ...] = ()
    """What is missing, so that something may have been taken away: no change before a person accepts it."""
    keys: tuple[PublicKey, ...] = ()
    """Keys of entries that this site does not trust yet."""

    def require_whole(self) -> None:
        """Raise PromotionRefused when something is lost."""
        if self.lost:
            raise PromotionRefused(f"{' '.join(self.lost)} Nothing was changed. {ACCEPT}")


def verify(
    stored: Sequence[StoredEntry],
    *,
    anchors: Mapping[str, Anchor],
    trusted: Sequence[PublicKey],
    published: Sequence[PublicKey] = (),
    foreign: Sequence[str] = (),
) -> VerifiedHistory:
    """The entries, once everything holds that can be looked at.

    `anchors` are what the places remember, by their names in a sentence; `trusted` the keys of the site, `published`
    those in the bucket. Raises RegistryError, which names the first entry that was changed, removed, moved or added.
    """
    check_chain(stored)
    entries = tuple(each.entry for each in stored)
    for place, anchor in anchors.items():
        check_anchor(entries, anchor.value, place)
    strange = _check_signatures(stored, trusted, published)
    lost = [*_lost_anchors(entries, anchors), *(_lost_key(key) for key in strange)]
    notices = [*_foreign(foreign), *_future(entries), *_unsigned(entries), *_unreachable(anchors)]
    return VerifiedHistory(entries, tuple(notices), tuple(lost), strange)


def _check_signatures(
    stored: Sequence[StoredEntry], trusted: Sequence[PublicKey], published: Sequence[PublicKey]
) -> tuple[PublicKey, ...]:
    """Raise RegistryError for an entry without a true signature; the keys that are only in the bucket.

    The entries of releases before 0.2 have no signature; after the first signed one all have.
    """
    strange: dict[PublicKey, None] = {}
    since: int | None = None
    for each in stored:
        entry = each.entry
        damaged = f"The promotion history is damaged: entry {entry.number}"
        if not entry.signature:
            if since is not None:
                raise RegistryError(f"{damaged} is not signed, though entry {since} before it is.")
            continue
        since = since or entry.number
        if each.signed_with(trusted):
            continue
        if (key := each.signed_with(published)) is None:
            raise RegistryError(f"{damaged} is not signed with a key of this site.")
        strange[key] = None
    return tuple(strange)


def _lost_anchors(entries: Sequence[PromotionEntry], anchors: Mapping[str, Anchor]) -> list[str]:
    promotions = sum(entry.act == "promoted" for entry in entries)
    accepted = max((entry.number for entry in entries if entry.act == "accepted"), default=0)
    signed = any(entry.signature and entry.act == "promoted" and entry.number > accepted for entry in entries)
    kept = any(anchor.value for anchor in anchors.values())
    lost: list[str] = []
    for place, anchor in anchors.items():
        if anchor.value or not anchor.reachable or not promotions:
            continue
        # The first promotion may have ended before it could tell MLflow: then the other place knows better. Releases
        # before 0.2, which did not sign, anchored in MLflow only; and after a person's word an InferenceService takes
        # the next anchor with the next promotion.
        if (promotions > 1 or not kept) if place == MLFLOW else signed:
            lost.append(f"The anchor of the promotion history in {place} is lost.")
    return lost


def _lost_key(key: PublicKey) -> str:
    return f"Entries of the promotion history are signed with the key {key.id[:12]}…, which this site does not trust."


def _foreign(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [f"{count(len(names), 'file')} among the entries of the history are none, and passed over: {names[0]!r}."]


def _future(entries: Sequence[PromotionEntry]) -> list[str]:
    latest = datetime.now(UTC) + AHEAD
    return [
        f"Entry {entry.number} is dated {entry.at:%Y-%m-%d %H:%M} UTC, in the future: a clock was wrong."
        for entry in entries
        if entry.at > latest
    ]


def _unsigned(entries: Sequence[PromotionEntry]) -> list[str]:
    if entries and not entries[-1].signature:
        return ["The promotion history is not signed yet; the next change signs from there on."]
    return []


def _unreachable(anchors: Mapping[str, Anchor]) -> list[str]:
    return [f"The anchor in {place} could not be compared." for place, each in anchors.items() if not each.reachable]


MLFLOW = "MLflow"
