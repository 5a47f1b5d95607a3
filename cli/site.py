"""How a model does at a site, and a version of it for the site."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import console, model_output
from cli.options import Home, Json, Task, configured, of_task, package_of, path_of, show, writing

if TYPE_CHECKING:
    from lungline.site_validation.candidate import SavedVersion
    from lungline.site_validation.validation import SiteValidation

app = typer.Typer()


@app.command()
def validate_site(  # noqa: PLR0917  # Typer makes options of them, whatever their kind
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA", help="A hundred or more images: a folder, a zip or s3://, in class folders or not."
        ),
    ],
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="champion, challenger, a version, or the folder of a package.")
    ] = "champion",
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", parser=path_of, help="Labels: a CSV with the columns file and label."),
    ] = None,
    prevalence: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Share of positives at the site [default: from the images].", min=0.0001, max=0.9999
        ),
    ] = None,
    site: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the site [default: the name of the data].")
    ] = None,
    most: Annotated[int, typer.Option(metavar="N", help="Take at most N images, at random.", min=100)] = 2000,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", parser=path_of, help="Also write the report to this HTML file.")
    ] = None,
    save: Annotated[
        bool,
        typer.Option("--save", help="Register the champion with the proposal as a version, if the gate passes it."),
    ] = False,
    task: Task = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Validate a model on a site's own images.

    Reports AUC, calibration, drift and the share of positives. With --save, a new version of the champion has the
    proposal; `lungline promote` puts it into service.
    """
    from lungline.monitoring.reference import reference_in
    from lungline.site_validation import candidate
    from lungline.site_validation.images import open_site
    from lungline.site_validation.report import page
    from lungline.site_validation.validation import validate

    folder = Path(model).is_dir()
    if folder and save:
        raise typer.BadParameter("--save needs the champion of the registry, not a folder")
    settings = configured(home) if folder else of_task(task, home)
    with package_of(model, settings) as package:
        card = package.card
        images = open_site(data, settings=settings, labels=labels, trained_on=card.data.name, most=most, task=card.task)
        for notice in images.notices:
            console.notice(notice)
        reference = reference_in(package.folder, package.card)
        validated = validate(
            package,
            images,
            settings,
            site=site,
            reference=reference,
            prevalence=prevalence,
            on_progress=lambda done, _: console.counter(done),
        )
        html = page(validated, reference)
        if report:
            with writing(report):
                report.write_text(html, encoding="utf-8")
        saved = candidate.save(validated, package, settings, html) if save else None
    value = validated.validation.model_dump(mode="json") | {"saved": saved.model_dump(mode="json") if saved else None}
    show(value, as_json, lambda: _show(validated.validation, saved))
    if saved and saved.version is None:
        raise typer.Exit(1)


def _show(validation: "SiteValidation", saved: "SavedVersion | None") -> None:
    from lungline.site_validation import report

    console.say(f"Version {validation.model} at site {validation.site}", "bold")
    console.say(report.summary(validation))
    if validation.evaluation is not None:
        console.table(*report.metric_rows(validation))
    if validation.drift is not None:
        console.table(*report.drift_rows(validation.drift))
    console.table(*report.share_rows(validation.shares))
    if proposal := validation.proposal:
        console.table(*report.threshold_rows(proposal))
        console.say(proposal.prior.chosen)
        console.say(proposal.thresholds.chosen)
        for text in ("now", "proposed"):
            labels = validation.labels if text == "now" else proposal.labels
            console.say(f"{text:>10}  {', '.join(f'{number} {label}' for label, number in labels.items())}")
    for warning in validation.warnings:
        console.notice(warning)
    if saved:
        model_output.rules(saved.verdict)
        console.say(saved.next, "bold")
    console.say(console.DISCLAIMER, "dim")
