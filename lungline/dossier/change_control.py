"""Writes up promotions: what changed, how it was verified, and what it may affect, from what was recorded."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache

from lungline.dossier.change_parts import Change, LiveFigures, OpinionFigures, VersionSheet
from lungline.dossier.differences import differences, limits
from lungline.dossier.gaps import Gaps
from lungline.dossier.live_figures import live_figures
from lungline.dossier.model_parts import card_bytes, parsed_card, verdict_on
from lungline.dossier.sources import Sources
from lungline.evaluation.disagreement import Comparison
from lungline.promotion.shadow_rule import MOST_COMPARED, shadow_of
from lungline.registry.history import History, PromotionEntry
from lungline.results.purposes import PURPOSES, Purpose
from lungline.results.records import record_version
from lungline.task.reading import load_task


class Promotions:
    """The promotions of the settings' model.

    Raises RegistryError for a history that cannot be read, StorageUnavailable.
    """

    def __init__(self, sources: Sources, *, by: str) -> None:
        self._sources = sources
        self._by = by
        self._model = sources.settings.model_name
        stored = History.from_settings(sources.settings).stored()
        self.entries = [each.entry for each in stored]
        self.verdict = verdict_on(stored, sources.settings) if stored else ""
        self._live = cache(self._read_live)

    @property
    def promoted(self) -> list[PromotionEntry]:
        """The entries that put a version into service, the earliest first."""
        return [entry for entry in self.entries if entry.act == "promoted"]

    def change(self, entry: PromotionEntry) -> Change:
        """The write-up of one of the promotions."""
        gaps, promoted = Gaps(), self.promoted
        place = promoted.index(entry)
        earlier = promoted[place - 1] if place else None
        after = self._sheet(entry, gaps)
        before = self._sheet(earlier, gaps) if earlier else None
        run_id, runs = entry.facts.mlflow_run, self._sources.runs
        run = gaps.lent("training run", runs and (lambda: runs(run_id)), "MLflow has none") if run_id else None
        task = after.card.task.name if after.card else load_task(self._sources.settings.task).name
        live = gaps.attempt("results in service", lambda: self._live(task)) or {}
        return Change(
            subject=f"promotion {entry.number} of {self._model}",
            made=datetime.now(UTC),
            by=self._by,
            model=self._model,
            after=after,
            before=before,
            began=_began(self.entries, entry),
            failed=_failed(self.entries, entry, earlier),
            until=promoted[place + 1].at if entry is not promoted[-1] else None,
            differences=tuple(differences(before.card if before else None, after.card)) if after.card else (),
            limits=tuple(limits(after.card)) if after.card else (),
            run=run,
            opinions=gaps.attempt("second opinions", lambda: self._opinions(entry.version, task)) or (),
            live=live.get(entry.version),
            live_before=live.get(earlier.version) if earlier else None,
            history=self.verdict,
            missing=gaps.missing,
        )

    def _sheet(self, entry: PromotionEntry, gaps: Gaps) -> VersionSheet:
        storage, bucket = self._sources.storage, self._sources.settings.models_bucket
        what, absent = f"card of version {entry.version}", "the models bucket has no such package"
        data = gaps.attempt(what, lambda: card_bytes(storage, bucket, self._model, entry.version), absent)
        card = gaps.attempt(what, lambda: parsed_card(data)) if data else None
        digest = hashlib.sha256(data).hexdigest() if data else None
        return VersionSheet(entry=entry, card=card, stored_sha256=digest)

    def _opinions(self, version: str, task: str) -> tuple[OpinionFigures, ...]:
        storage, bucket = self._sources.storage, self._sources.settings.results_bucket
        recorded = record_version(self._model, task, version)
        compared: dict[Purpose, Comparison] = {
            each: shadow_of(storage, bucket, recorded, MOST_COMPARED, each) for each in PURPOSES
        }
        return tuple(
            OpinionFigures(
                purpose=purpose,
                results=each.results,
                different=each.different,
                labels=tuple((pair.answer, pair.opinion, pair.uploads) for pair in each.labels),
                shift=each.shift,
                distance=each.distance,
            )
            for purpose, each in compared.items()
            if each.results
        )

    def _read_live(self, task: str) -> dict[str, LiveFigures]:
        named = {record_version(self._model, task, entry.version): entry.version for entry in self.promoted}
        figures = live_figures(self._sources.storage, self._sources.settings.results_bucket, named)
        return {number: figures[version] for version, number in named.items()}


def _began(entries: Sequence[PromotionEntry], entry: PromotionEntry) -> PromotionEntry | None:
    """The entry that reserved a promotion's number."""
    return next((each for each in entries if each.act == "began" and each.number == entry.number - 1), None)


def _failed(
    entries: Sequence[PromotionEntry], entry: PromotionEntry, earlier: PromotionEntry | None
) -> tuple[PromotionEntry, ...]:
    first = earlier.number if earlier else 0
    return tuple(each for each in entries if each.act == "failed" and first < each.number < entry.number)
