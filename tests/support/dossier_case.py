"""An upload with a past, in a real store: object, results, a reading, two promotions, two cards."""

import hashlib
import html
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import SecretStr

from lungline.datasets.phantom import jpeg
from lungline.dossier.sources import Sources
from lungline.imaging.heatmap import EvidenceMap
from lungline.imaging.preparation import Preparation
from lungline.package.card import CARD, Card, CodeFacts, DataFacts, GateFacts, Prior, Thresholds
from lungline.registry.history import Facts, History
from lungline.registry.runs import RunFacts
from lungline.results import opinions
from lungline.results.latest_list import list_record
from lungline.results.patients import PatientRecord, save
from lungline.results.readings import ReadingRecord
from lungline.results.records import LungFacts, ModelFacts, ResultRecord
from lungline.retention.holds import Holds
from lungline.settings import Settings
from lungline.site_key import site_key
from lungline.storage.s3 import Storage
from tests.support.object_store import ACCESS_KEY, SECRET_KEY
from tests.support.worklist_site import START, record

NAME, COMMENT = "Doe^Jane", "as the film of May, Jane"
LUNGS = LungFacts(outlines=((250, 250, 450, 250, 450, 700, 250, 700), (550, 250, 750, 250, 750, 700)), heat_inside=0.93)


RUN = RunFacts(id="r" * 32, name="films.zip seed 0", status="FINISHED", started=START, ended=START, params={"a": "b"})


def text_of(page: str) -> str:
    """What a person reads on a page, with single spaces."""
    body = page.partition("<main>")[2].partition("</main>")[0]
    return html.unescape(" ".join(re.sub(r"<[^>]+>", " ", body).split()))


@dataclass(frozen=True)
class Case:
    """The upload, and where its facts are."""

    settings: Settings
    storage: Storage
    identity: str
    key: str

    def sources(self, **lent: Any) -> Sources:
        return Sources(self.settings, self.storage, **lent)


def card_of(version: str, **changes: Any) -> Card:
    """A card; its metrics and thresholds follow from the version."""
    better = 0.02 * int(version)
    values = {
        "version": version,
        "created": START,
        "preparation": Preparation(size=32),
        "thresholds": Thresholds(low=0.3, high=0.7 - better, operating=0.5, chosen="By hand."),
        "prior": Prior(calibrated=0.5, share=0.2, chosen="Counted."),
        "data": DataFacts(name="films.zip", digest=version * 64, synthetic=False, counts={"train": 100 * int(version)}),
        "code": CodeFacts(version="0.2.0+abc"),
        "metrics": {"auc": 0.95 + better / 2, "sensitivity": 0.9 + better, "specificity": 0.8, "unsure_rate": 0.1},
        "gate": GateFacts(passed=True, sentence="All 11 rules passed.", lowered=("auc 0.9 instead of 0.95",)),
        "mlflow_run_id": "r" * 32,
    }
    return Card(**(values | changes))


def build(folder: Path, storage: Storage, *, comment: str = COMMENT, key: str = "DOE_JANE.jpeg") -> Case:
    """Write the case into a store; both versions judged the upload, the second is in service.

    Each call has a history, results and an object of its own.
    """
    own = uuid.uuid4().hex
    settings = Settings(
        home=folder, model_name=f"pneumonia-{own}", results_bucket=f"results-{own}", s3_endpoint=storage.endpoint,
        s3_access_key=SecretStr(ACCESS_KEY), s3_secret_key=SecretStr(SECRET_KEY),
    )  # fmt: skip
    storage.ensure_buckets(settings.models_bucket, settings.results_bucket)
    for version in "12":
        _promote(settings, storage, version)
    key = f"ward/{own}/{key}"
    etag = storage.put(settings.uploads_bucket, key, jpeg(3, opacities=True))
    results = [_result(settings, storage, version, key, etag) for version in "12"]
    identity = results[0].upload.identity
    _read(settings, storage, results[1], comment)
    opinion = results[1].model_copy(update={"label": "Unsure", "probability": 0.5})
    for purpose in opinions.PURPOSES:
        opinions.save(storage, settings.results_bucket, opinion, purpose)
    patient = PatientRecord(identity=identity, name=NAME, patient_id="P-17", accession="A-9")
    save(storage, settings.patients_bucket, patient)
    Holds(storage, settings).add(identity=identity, by="Dr. Law", reason="case 3")
    return Case(settings, storage, identity, key)


def _promote(settings: Settings, storage: Storage, version: str) -> None:
    history = History(storage, settings.models_bucket, settings.model_name)
    data = card_of(version).model_dump_json().encode()
    storage.put(settings.models_bucket, f"{settings.model_name}/{version}/{CARD}", data)
    card = card_of(version)
    facts = Facts(
        package=hashlib.sha256(data).hexdigest(), metrics=card.metrics, data=card.data.name,
        data_digest=card.data.digest, gate=card.gate, mlflow_run=card.mlflow_run_id, signed_by="b" * 64,
    )  # fmt: skip
    values = {"kind": "promotion", "version": version, "by": "Ada", "reason": f"better than {int(version) - 1}"}
    head = history.head()
    champion = head.champion if head else None
    began = history.append(head, key=site_key(settings), act="began", champion=champion, facts=facts, **values)
    history.append(began, key=site_key(settings), act="promoted", champion=version, facts=facts, **values)


def _result(settings: Settings, storage: Storage, version: str, key: str, etag: str) -> ResultRecord:
    cam = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    digest = hashlib.sha256(card_of(version).model_dump_json().encode()).hexdigest()
    now = datetime.now(UTC)
    made = record(
        1, 0.91, key=key, etag=etag, version=version, arrived=now, done=now + timedelta(milliseconds=20 * int(version)),
        evidence=EvidenceMap.of(cam, (0.0, 0.0, 1.0, 1.0)), lungs=LUNGS, patient="patients/x.json",
        warnings=("The DICOM names a lateral view.",),
    )  # fmt: skip
    model = ModelFacts(name="pneumonia", version=version, run_id="r" * 32, sha256=digest, synthetic=False)
    made = made.model_copy(update={"model": model, "event": f"xray-uploads/0/{39 + int(version)}"})
    list_record(storage, settings.results_bucket, made)
    storage.put(settings.results_bucket, made.key, made.model_dump_json().encode())
    return made


def _read(settings: Settings, storage: Storage, result: ResultRecord, comment: str) -> None:
    reading = ReadingRecord(
        id="5f0c", identity=result.upload.identity, record=result.id, version=result.model.version, label=result.label,
        probability=result.probability, action="confirmed", verdict="Pneumonia", comment=comment, reader="dr.adams",
        at=datetime.now(UTC),
    )  # fmt: skip
    storage.put(settings.results_bucket, reading.key, reading.model_dump_json().encode())
