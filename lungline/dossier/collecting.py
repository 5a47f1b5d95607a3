"""Collects the parts of a dossier from its sources, and names what no source has."""

from datetime import UTC, datetime

from lungline.dossier.event_parts import with_named
from lungline.dossier.gaps import Gaps
from lungline.dossier.model_parts import Models
from lungline.dossier.parts import Dossier
from lungline.dossier.pictures import Picture
from lungline.dossier.privacy import without_patient
from lungline.dossier.sources import Sources
from lungline.dossier.upload_parts import holds_on, object_and_pictures, opinions_of, patient_of, readings_of
from lungline.errors import LunglineError
from lungline.results import record_store
from lungline.retention.tombstones import is_erased

Collected = tuple[Dossier, tuple[Picture, ...]]


def collect(identity: str, sources: Sources, *, by: str, patient: bool = True) -> Collected:
    """The dossier of an upload and its pictures; `patient` is False to leave out whatever may name the patient.

    A part that cannot be read is named in the dossier. Raises LunglineError when no place knows the upload, and
    StorageUnavailable.
    """
    dossier, pictures = _collected(identity, sources, by)
    if dossier.is_empty:
        if is_erased(identity, sources.storage, sources.settings):
            raise LunglineError(f"Upload {identity} was erased; the worklist's audit log says by whom.")
        raise LunglineError(f"There is no result, event or worklist entry of upload {identity}.")
    return (dossier, pictures) if patient else without_patient(dossier)


def _collected(identity: str, sources: Sources, by: str) -> Collected:
    gaps = Gaps()
    results = record_store.find(sources.storage, sources.settings.results_bucket, identity)
    results.sort(key=lambda record: record.times.done, reverse=True)
    if not results:
        gaps.note("results", "the results bucket has no record of this upload")
    lends = sources.worklist
    worklist = gaps.lent("worklist", lends and (lambda: lends(identity)))
    bare = Dossier(
        subject=identity,
        made=datetime.now(UTC),
        by=by,
        names_patient=True,
        results=tuple(results),
        worklist=worklist,
        opinions=opinions_of(identity, sources, gaps),
        readings=readings_of(identity, worklist, sources, gaps),
    )
    latest, models, search = bare.latest, Models(sources, gaps), sources.events
    state = latest.upload.state if latest else None
    stored, pictures = object_and_pictures(latest, sources, gaps) if latest else (None, ())
    patient = patient_of(results, sources, gaps)
    parts = {
        "object": stored,
        "patient": patient,
        "holds": holds_on(identity, patient, sources, gaps),
        "models": models.sheets([*results, *(opinion.record for opinion in bare.opinions)]),
        "history": models.history(latest) if latest else None,
        "events": with_named(gaps.lent("events in Kafka", search and (lambda: search(identity, state))) or (), bare),
        "pictures": tuple(picture.facts for picture in pictures),
    }
    return bare.model_copy(update=parts | {"missing": gaps.missing}), pictures
