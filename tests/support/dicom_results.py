"""Results of DICOM uploads, as the predictor leaves them in the store, and what became of their deliveries."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import select

from lungline.imaging.dicom_header import read_file
from lungline.imaging.heatmap import EvidenceMap
from lungline.results import patients
from lungline.results.records import ImageFacts, ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.dicom_files import film, write
from tests.support.object_store import running_store
from tests.support.worklist_site import Site, home, record, running_site, wait
from worklist.database.models import Delivery

PATIENT: dict[str, Any] = {
    "PatientName": "Quellenhofer^Wendelin", "PatientID": "P-4711", "AccessionNumber": "ACC99012",
    "StudyDate": "20260301",
}  # fmt: skip
OURS = Settings()
EVIDENCE = EvidenceMap.of(np.full((4, 4), 0.8, np.float32), (0.0, 0.0, 1.0, 1.0))


@contextmanager
def store_of_results(folder: Path) -> Iterator[Storage]:
    """A real object store with the buckets that the worklist reads."""
    buckets = (OURS.results_bucket, OURS.patients_bucket, OURS.uploads_bucket, OURS.models_bucket)
    with running_store(folder, *buckets) as storage:
        yield storage


def judged(store: Storage, number: int, probability: float = 0.9, data: bytes | None = None) -> ResultRecord:
    """The result of a DICOM upload: upload and patient are in the store."""
    data = data or write(film(64, seed=number), **PATIENT)
    key = f"dicom/{number}-{abs(hash(data)):x}.dcm"
    etag = store.put(OURS.uploads_bucket, key, data)
    made = record(number, probability, key=key, etag=etag, evidence=EVIDENCE, arrived=datetime.now(UTC))
    header = read_file(data, patients.NEEDED)
    patient = patients.read(made.upload.identity, header)
    place = patients.save(store, OURS.patients_bucket, patient) if patient else None
    facts = ImageFacts(format="dicom", width=64, height=64)
    return made.model_copy(update={"image": facts, "patient": place})


@contextmanager
def delivering(folder: Path, store: Storage, destinations: str) -> Iterator[Site]:
    """A worklist that delivers to the destinations of this file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "destinations.toml"
    path.write_text(destinations)
    with running_site(home(folder, destinations=path), store) as site:
        yield site


def deliveries_of(site: Site, result: ResultRecord | None = None) -> list[Delivery]:
    """The deliveries of a result, or all, in their order."""
    statement = select(Delivery).order_by(Delivery.number)
    if result:
        statement = statement.where(Delivery.record == result.id)
    with site.database.reading() as session:
        return list(session.scalars(statement))


def states(site: Site, result: ResultRecord | None = None) -> dict[str, str]:
    """The state of each delivery of a result, by destination."""
    return {each.destination: each.state for each in deliveries_of(site, result)}


def await_state(site: Site, state: str, *results: ResultRecord, seconds: float = 30) -> None:
    """Wait until all deliveries of these results are in a state."""
    for result in results:
        wait(lambda result=result: set(states(site, result).values()) == {state}, seconds)
