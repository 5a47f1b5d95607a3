"""How long X-rays are kept: erasure with a proof, legal holds, retention rules."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import console
from cli.options import By, Home, Json, Reason, configured, path_of, show, writing

if TYPE_CHECKING:
    from laptop.erasing.site import Whose
    from lungline.retention.proof import Proof

app = typer.Typer()
hold = typer.Typer(help="Legal holds: what must not be erased.", no_args_is_help=True)
retention = typer.Typer(help="What is erased by itself, by age.", no_args_is_help=True)
app.add_typer(hold, name="hold")
app.add_typer(retention, name="retention")

Identity = Annotated[
    str | None, typer.Argument(metavar="IDENTITY", help="Of one upload: 32 hexadecimal digits, as results have it.")
]
Patient = Annotated[
    str | None,
    typer.Option(
        metavar="ID", help="All uploads of a patient, by the Patient ID; - reads it from standard input, out of sight."
    ),
]
Issuer = Annotated[str | None, typer.Option(metavar="TEXT", help="Issuer of the Patient ID [default: any].")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be erased, and erase nothing.")]


def _whose(identity: str | None, patient: str | None, issuer: str | None) -> "Whose":
    from laptop.erasing.site import Whose

    return Whose(identity, sys.stdin.readline().strip() if patient == "-" else patient, issuer)


@app.command()
def erase(  # noqa: PLR0917 - Typer passes them by name
    identity: Identity = None,
    patient: Patient = None,
    issuer: Issuer = None,
    by: By = "",
    reason: Reason = "",
    dry_run: DryRun = False,
    proof: Annotated[
        Path | None, typer.Option(metavar="FILE", parser=path_of, help="Where to write the proof as well.")
    ] = None,
    verify: Annotated[
        Path | None, typer.Option(metavar="FILE", parser=path_of, help="Instead, check the proof in a file.")
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", parser=path_of, help="The key to check it with [default: the site's]."),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Erase an upload, or a patient, everywhere.

    X-rays with older versions, results, readings, research copies, the worklist's rows. Leaves a signed proof that
    names no patient; write no name into the reason either. A legal hold forbids it.
    """
    from laptop.erasing import site
    from lungline.retention.proof import Proof

    settings = configured(home)
    if verify is not None:
        checked = site.verify_proof(settings, verify, public_key)
        show(checked.model_dump(mode="json"), as_json, lambda: _show_proof(checked, "The proof is genuine."))
        return
    if not dry_run and not (by and reason):
        raise typer.BadParameter("expected --by NAME and --reason TEXT: the proof says who wanted it, and why")
    whose = _whose(identity, patient, issuer)
    done = site.erase(settings, whose, by=by or "dry run", reason=reason, dry_run=dry_run)
    if not isinstance(done, Proof):
        value = {"uploads": len(done.subjects), "would_be_erased": done.before}
        show(value, as_json, lambda: _show_plan(len(done.subjects), done.before))
        return
    if proof is not None:
        with writing(proof):
            proof.write_text(done.text(), encoding="utf-8")
    show(done.model_dump(mode="json"), as_json, lambda: _show_proof(done, "Erased."))


@hold.command("add")
def hold_add(  # noqa: PLR0917 - Typer passes them by name
    by: By,
    reason: Reason,
    identity: Identity = None,
    patient: Patient = None,
    issuer: Issuer = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Forbid that an upload, or a patient, is erased."""
    from laptop.erasing import site

    made = site.hold(configured(home), _whose(identity, patient, issuer), by=by, reason=reason)
    show(
        made.model_dump(mode="json"), as_json, lambda: console.say(f"Hold {made.id} is on it; `hold remove` lifts it.")
    )


@hold.command("list")
def hold_list(home: Home = None, as_json: Json = False) -> None:
    """Show all legal holds."""
    from laptop.erasing import site

    holds = site.held(configured(home))
    rows = [
        (each.id, each.identity or f"patient {each.patient_id}", each.by, f"{each.at:%Y-%m-%d}", each.reason)
        for each in holds
    ]
    value = [each.model_dump(mode="json") for each in holds]
    show(value, as_json, lambda: console.table(("hold", "on", "by", "since", "reason"), rows))


@hold.command("remove")
def hold_remove(
    name: Annotated[str, typer.Argument(metavar="HOLD", help="As `hold list` names it.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Lift a legal hold."""
    from laptop.erasing import site

    lifted = site.release(configured(home), name)
    show(lifted.model_dump(mode="json"), as_json, lambda: console.say(f"Hold {lifted.id} is lifted."))


@retention.command("check")
def retention_check(home: Home = None, as_json: Json = False) -> None:
    """Show the retention rules, once they are proven to be right.

    LUNGLINE_RETENTION_RULES names their file.
    """
    from lungline.retention.rules import load_rules

    rules = load_rules(configured(home).retention_rules)
    value = {"dry_run": rules.dry_run, "rules": [rule.model_dump(mode="json") for rule in rules.rules]}

    def show_text() -> None:
        if not rules.rules:
            console.say("There are no retention rules: nothing is erased. LUNGLINE_RETENTION_RULES names their file.")
            return
        rows = [
            (
                rule.name,
                ", ".join(rule.bucket),
                ", ".join(rule.label) or "all",
                ", ".join(rule.task) or "all",
                rule.days,
            )
            for rule in rules.rules
        ]
        console.table(("rule", "buckets", "labels", "tasks", "days"), rows)

    show(value, as_json, show_text)


@retention.command("run")
def retention_run(dry_run: DryRun = False, home: Home = None, as_json: Json = False) -> None:
    """Erase what the rules make due.

    First it ends what an interrupted erasure has left. Without rules it erases nothing.
    """
    from dataclasses import asdict

    from laptop.erasing import site

    done = site.retain(configured(home), dry_run=dry_run)
    show(asdict(done), as_json, lambda: console.say(str(done)))


def _show_plan(uploads: int, before: Mapping[str, int]) -> None:
    """Print what an erasure would erase."""
    console.say(f"Would be erased of {uploads} {'upload' if uploads == 1 else 'uploads'}:")
    console.table(("number", "what"), [(number, name) for name, number in sorted(before.items())])


def _show_proof(proof: "Proof", heading: str) -> None:
    """Print the proof of an erasure."""
    number = len(proof.uploads)
    console.say(
        f"{heading} {number} {'upload' if number == 1 else 'uploads'}, proof {proof.id}, by {proof.by}: {proof.reason}"
    )
    rows = [(count, proof.after.get(name, "?"), name) for name, count in sorted(proof.before.items())]
    console.table(("before", "after", "what"), rows)
    for rest in proof.remains:
        until = f" until {rest.until:%Y-%m-%d}" if rest.until else ""
        console.say(f"Not reached: {rest.where}{until}. {rest.why}", "dim")
