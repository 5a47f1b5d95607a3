"""The parts of a dossier about the models that judged the upload: cards, training runs, promotions in force."""

import hashlib
from collections.abc import Sequence
from functools import cache

from pydantic import ValidationError

from lungline.dossier.gaps import Gaps
from lungline.dossier.parts import HistoryFacts, ModelSheet
from lungline.dossier.sources import Sources
from lungline.errors import LunglineError, ObjectGone
from lungline.package.card import CARD, Card
from lungline.registry.history import History, StoredEntry, check_chain, served_at
from lungline.registry.runs import RunFacts
from lungline.registry.verification import verify
from lungline.results.records import ResultRecord, place_of
from lungline.settings import Settings
from lungline.site_key import trusted_keys
from lungline.storage.s3 import Storage
from lungline.task.overrides import default_model
from lungline.wording import count


class Models:
    """Reads what is recorded of models, each history once."""

    def __init__(self, sources: Sources, gaps: Gaps) -> None:
        self._sources = sources
        self._gaps = gaps
        self._entries = cache(self._read_entries)

    def sheets(self, records: Sequence[ResultRecord]) -> tuple[ModelSheet, ...]:
        """The models behind results, each once."""
        models: dict[tuple[str, str], ResultRecord] = {}
        for record in records:
            models.setdefault((record.model.version, record.model.sha256), record)
        return tuple(map(self._sheet, models.values()))

    def _sheet(self, record: ResultRecord) -> ModelSheet:
        model, version = place_of(record.model.version, default_model(self._sources.settings))
        what = f"card of model {model} {version}"
        bucket = self._sources.settings.models_bucket
        absent = "the models bucket has no such package"
        data = self._gaps.attempt(what, lambda: card_bytes(self._sources.storage, bucket, model, version), absent)
        card = self._gaps.attempt(what, lambda: parsed_card(data)) if data else None
        return ModelSheet(
            name=model,
            version=version,
            sha256=record.model.sha256,
            stored_sha256=hashlib.sha256(data).hexdigest() if data else None,
            card=card,
            run=self._run(record.model.run_id or (card.mlflow_run_id if card else None)),
            in_force=served_at([each.entry for each in self._entries(model)], record.times.done),
        )

    def history(self, record: ResultRecord) -> HistoryFacts | None:
        """The promotion history of the model behind a result."""
        stored = self._entries(place_of(record.model.version, default_model(self._sources.settings))[0])
        if not stored:
            self._gaps.note("promotion history", "nothing was ever promoted here")
            return None
        sentence = verdict_on(stored, self._sources.settings)
        return HistoryFacts(entries=len(stored), head=stored[-1].entry.hash, sentence=sentence)

    def _run(self, run_id: str | None) -> RunFacts | None:
        if not run_id:
            self._gaps.note("training run", "neither record nor card names it")
            return None
        runs = self._sources.runs
        return self._gaps.lent(
            f"training run {run_id}", runs and (lambda: runs(run_id)), "MLflow has no run with this id"
        )

    def _read_entries(self, model: str) -> list[StoredEntry]:
        history = History(self._sources.storage, self._sources.settings.models_bucket, model)
        return self._gaps.attempt("promotion history", history.stored) or []


def card_bytes(storage: Storage, bucket: str, model: str, version: str) -> bytes | None:
    """A card as it is stored; None where there is none. Raises StorageUnavailable."""
    try:
        return storage.get(bucket, f"{model}/{version}/{CARD}").data
    except ObjectGone:
        return None


def parsed_card(data: bytes) -> Card:
    """A card; raises LunglineError for one of another release."""
    try:
        return Card.model_validate_json(data)
    except ValidationError as exc:
        raise LunglineError("the card is of another release, or damaged") from exc


def verdict_on(stored: Sequence[StoredEntry], settings: Settings) -> str:
    """Whether chain and signatures of a history hold, as a sentence; signatures only where the site's key is known."""
    keys = trusted_keys(settings)
    try:
        check_chain(stored)
        if keys:
            verify(stored, anchors={}, trusted=keys)
    except LunglineError as exc:
        return str(exc)
    signatures = (
        "so do its signatures" if keys else "its signatures were not checked: the site's public key is not here"
    )
    return f"The chain of {count(len(stored), 'entry', 'entries')} holds, and {signatures}."
