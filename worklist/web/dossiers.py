"""Dossiers of uploads and write-ups of promotions, for administrators; each look is in the audit log first."""

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse, JSONResponse

from lungline.dossier.change_control import Promotions
from lungline.dossier.change_folder import change_of
from lungline.dossier.lender import Lender
from lungline.dossier.making import Signed, make_dossier
from lungline.dossier.page import POLICY
from lungline.dossier.parts import WorklistPart
from lungline.dossier.sources import Sources
from lungline.results.records import place_of
from lungline.task.overrides import default_model
from worklist.database import audit, entries, patients
from worklist.database.access import Person
from worklist.exports.dossier_part import part_of
from worklist.web.context import Admin, Context, NotFound, Worklist
from worklist.web.looks import SAW_PATIENT

router = APIRouter()

# The page brings its style and pictures along; the policy of other pages would forbid both.
_HEADERS = {"content-security-policy": f"{POLICY}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}


@router.get("/x/{identity}/dossier", response_class=HTMLResponse)
def page(identity: str, context: Context, person: Admin) -> Response:
    """Everything that happened to an upload, as a signed page that stands alone."""
    made = _made(identity, context, person)
    name = {"content-disposition": f'inline; filename="dossier-{identity}.html"'}
    return HTMLResponse(made.page, headers=_HEADERS | name)


@router.get("/x/{identity}/dossier.json")
def document(identity: str, context: Context, person: Admin) -> Response:
    """The same as signed JSON."""
    return JSONResponse(_made(identity, context, person).document)


@router.get("/models/{version}/change", response_class=HTMLResponse)
def change(version: str, context: Context, person: Admin) -> Response:
    """What the last promotion of a version changed, how it was verified, and what it may affect."""
    model, number = place_of(version, default_model(context.settings))
    settings = context.settings.model_copy(update={"model_name": model})
    lender = Lender.of(settings.worklist.dossier_sources)
    promotions = Promotions(Sources(settings, context.storage, runs=lender and lender.run), by=person.who)
    entry = next((each for each in reversed(promotions.promoted) if each.version == number), None)
    if entry is None:
        raise NotFound("The promotion history does not name this version.")
    with context.database.writing() as session:
        audit.record(session, person.who, person.role, "exported", detail=f"promotion {entry.number}")
    return HTMLResponse(change_of(entry, promotions, settings).page, headers=_HEADERS)


def _made(identity: str, context: Worklist, person: Person) -> Signed:
    with context.database.writing() as session:
        if entries.find(session, identity) is None:
            raise NotFound("Upload not found on the worklist.")
        audit.record(session, person.who, person.role, "exported", identity=identity, detail="dossier")
        if person.sees_patients and patients.of_upload(session, identity):
            audit.record(session, person.who, person.role, SAW_PATIENT, identity=identity)

    def part(identity: str) -> WorklistPart:
        with context.database.reading() as session:
            return part_of(session, identity)

    lender = Lender.of(context.settings.worklist.dossier_sources)
    sources = Sources(
        context.settings,
        context.storage,
        events=lender and lender.events,
        runs=lender and lender.run,
        worklist=part,
        limits=context.images.limits,
    )
    return make_dossier(identity, sources, by=person.who, patient=person.sees_patients)
