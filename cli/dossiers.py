"""Signed pages for those who look back: everything about one upload."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import console
from cli.options import Home, Json, configured, connected, path_of, show, writing

if TYPE_CHECKING:
    from lungline.dossier.parts import WorklistPart
    from lungline.dossier.sources import Sources
    from lungline.settings import Settings

app = typer.Typer()


@app.command()
def dossier(  # noqa: PLR0917  # Typer makes options of them, whatever their kind
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="UPLOAD", help="Its identity, an accession number or its object's key; - reads it from input."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", parser=path_of, help="The page [default: dossier-UPLOAD.html]."),
    ] = None,
    without_patient: Annotated[
        bool, typer.Option("--without-patient", help="Leave out whatever may name the patient.")
    ] = False,
    verify: Annotated[
        Path | None,
        typer.Option(metavar="FILE", parser=path_of, help="Say whether a page or its JSON is as it was signed."),
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", parser=path_of, help="The key to check it with [default: the site's]."),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write all about one upload into a signed page.

    Events, object, results, model, training, promotion, notices, readings, looks, deliveries. --json prints the same.
    """
    if (name is None) == (verify is None):
        raise typer.BadParameter("expected an upload, or --verify and a file")
    if verify is not None:
        _verify(configured(home), verify, public_key, as_json)
        return
    from lungline.dossier.making import make_dossier
    from lungline.dossier.naming import identity_of
    from worklist.commands import caller, has_worklist, uploads_named

    settings = connected(home)
    sources = _sources(settings)
    wanted = sys.stdin.readline().rstrip("\n") if name == "-" else name or ""
    lookup = (lambda text: uploads_named(settings, text)) if has_worklist(settings) else None
    identity = identity_of(wanted, settings, sources.storage, lookup)
    made = make_dossier(identity, sources, by=caller(), patient=not without_patient)
    path = output or (None if as_json else Path(f"dossier-{identity}.html"))
    if path:
        from lungline.home import write_private

        with writing(path):
            write_private(path, made.page)
    show(made.document, as_json, lambda: _tell(made.document, path))


def write_pages(settings: "Settings", folder: Path, *, as_json: bool) -> None:
    """Write the page of each promotion of the settings' model into a folder."""
    from lungline.dossier.change_control import Promotions
    from lungline.dossier.change_folder import write_changes
    from lungline.wording import count
    from worklist.commands import caller

    promotions = Promotions(_sources(settings), by=caller())
    with writing(folder):
        *pages, index = write_changes(folder, promotions, settings)
    text = f"Wrote {count(len(pages), 'page')} of promotions, and {index}."
    show({"pages": [str(path) for path in pages], "index": str(index)}, as_json, lambda: console.say(text))


def _sources(settings: "Settings") -> "Sources":
    """Everything that the command line can reach."""
    from eventing.event_search import events_of
    from lungline.dossier.lender import Lender
    from lungline.dossier.sources import Sources
    from lungline.errors import LunglineError
    from lungline.imaging.image import Limits
    from lungline.registry.runs import run_facts
    from lungline.storage.s3 import Storage
    from worklist.commands import dossier_part, has_worklist

    def worklist(identity: str) -> "WorklistPart":
        if not has_worklist(settings):
            raise LunglineError("set LUNGLINE_WORKLIST__DATABASE to read its database from here")
        return dossier_part(settings, identity)

    lender = Lender.of(settings.worklist.dossier_sources)
    return Sources(
        settings,
        Storage.from_settings(settings),
        events=lender.events if lender else lambda identity, state: events_of(identity, state, settings),
        runs=lender.run if lender else lambda run_id: run_facts(settings, run_id),
        worklist=worklist,
        limits=Limits.from_settings(settings),
    )


def _tell(document: dict[str, Any], path: Path | None) -> None:
    from lungline.dossier.parts import Missing

    signed = "signed" if document["key"] else "not signed"
    console.say(f"Wrote the dossier of upload {document['subject']} to {path}: {signed}.")
    for each in document["missing"]:
        console.say(Missing.model_validate(each).sentence, "dim")


def _verify(settings: "Settings", path: Path, public_key: Path | None, as_json: bool) -> None:
    from lungline.dossier.signing import MOST_BYTES, verify
    from lungline.errors import LunglineError
    from lungline.site_key import read_public_keys, trusted_keys

    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as exc:
        raise LunglineError(f"{path} cannot be read: {exc.strerror}.") from exc
    if len(data) > MOST_BYTES:
        raise LunglineError(f"{path} is larger than any dossier: expected at most {MOST_BYTES} bytes.")
    signed = verify(data, read_public_keys(public_key) if public_key else trusted_keys(settings))
    facts = {"kind": signed.content.get("kind"), "subject": signed.content.get("subject"), "key": signed.key.id}
    show(facts, as_json, lambda: console.say(signed.sentence))
