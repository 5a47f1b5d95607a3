"""The gate's rule about the shadow: so many second opinions on live uploads, and at most so many with another label."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from lungline.errors import PromotionRefused
from lungline.evaluation.disagreement import Comparison, Pair, compare
from lungline.package.package import Package
from lungline.results import opinions, record_store
from lungline.results.opinions import Place
from lungline.results.records import record_version, version_of
from lungline.settings import Settings
from lungline.storage.s3 import Storage

READERS = 8
MOST_COMPARED = 1_000
"""The latest second opinions that a promotion reads, and more only where the rule asks for more."""


def require_shadow(storage: Storage, settings: Settings, package: Package, version: str) -> None:
    """Raise PromotionRefused where the rule is on and the second opinions of a version do not fulfil it.

    Raises StorageUnavailable.
    """
    wanted, most = settings.gate.shadow_results, settings.gate.shadow_disagreement
    if not wanted:
        return
    card = package.card
    recorded = record_version(card.name, card.task.name, version_of(card, package.sha256))
    comparison = shadow_of(storage, settings.results_bucket, recorded, max(wanted, MOST_COMPARED))
    if comparison.results < wanted:
        raise PromotionRefused(
            f"Version {version} has too few second opinions from the shadow: expected at least {wanted} "
            f"(gate.shadow_results), found {comparison.results}."
        )
    if (share := comparison.share or 0.0) > most:
        raise PromotionRefused(
            f"The second opinions of version {version} differ too often from the answers: expected at most {most:.1%} "
            f"with another label (gate.shadow_disagreement), found {share:.1%} of {comparison.results}."
        )


def shadow_of(
    storage: Storage, bucket: str, version: str, most: int, purpose: opinions.Purpose = "shadow"
) -> Comparison:
    """The comparison of a version's latest second opinions, by default on live uploads, with the answers.

    Reads as many as `most`, from the store alone. Raises StorageUnavailable.
    """
    places = sorted(opinions.places(storage, bucket, purpose, version), key=lambda place: place.modified, reverse=True)
    return compare(_pairs(storage, bucket, places[:most]))


def _pairs(storage: Storage, bucket: str, places: list[Place]) -> Iterator[Pair]:
    def read(place: Place) -> Pair | None:
        opinion = record_store.load_or_none(storage, bucket, place.key)
        answers = [
            record
            for record in record_store.find(storage, bucket, place.identity)
            if record.label and opinion and record.task == opinion.task and record.model.version != place.version
        ]
        if opinion is None or opinion.label is None or not answers:
            return None
        answer = max(answers, key=lambda record: record.times.done)
        labels = (answer.label or "", answer.probability, opinion.label, opinion.probability)
        return Pair(place.identity, *labels)

    with ThreadPoolExecutor(READERS) as pool:
        yield from (pair for pair in pool.map(read, places) if pair)
