"""Worklist commands as plain functions of the settings; the worklist may be running or not."""

import getpass
import os
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from lungline.dossier.parts import WorklistPart
from lungline.errors import SettingsError
from lungline.evaluation.disagreement import Comparison, compare
from lungline.home import write_private
from lungline.promotion.shadow_rule import MOST_COMPARED, shadow_of
from lungline.results.purposes import Purpose
from lungline.rule_file import suggestion
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from lungline.task.reading import load_task
from worklist.database import audit, deliveries, entries, opinions
from worklist.database.access import LINK_FILE, Access
from worklist.database.audit import Verification
from worklist.database.losses import put_back
from worklist.database.rebuild import Rebuilt, rebuild
from worklist.database.session import Database
from worklist.destinations import load_destinations
from worklist.exports import csv_fhir, feedback
from worklist.exports.dossier_part import identities_named, part_of
from worklist.exports.feedback import Exported, RetrainCheck
from worklist.exports.fhir_audit import audit_lines
from worklist.exports.images import ImageRenderer
from worklist.tasks import task_of

OnProgress = Callable[[int], None]


def rebuild_worklist(settings: Settings, on_progress: OnProgress | None = None) -> Rebuilt:
    """Rebuild the database from the results and readings in S3; safe to repeat, also while the worklist runs."""
    with _connected(settings) as (database, storage):
        return rebuild(database, storage, settings, on_progress)


def store_results(settings: Settings) -> int:
    """Store the results and readings that the database has and the store has lost; return how many results."""
    with _connected(settings) as (database, storage):
        return put_back(database, storage, settings.results_bucket)


def verify_audit(settings: Settings) -> Verification:
    """Check the chain of the audit log, and what the results bucket holds of it."""
    with _connected(settings) as (database, storage):
        return audit.verify(database, storage, settings.results_bucket)


def compare_opinions(settings: Settings, purpose: Purpose, version: str) -> Comparison:
    """How the second opinions of a version differ from the answers, as far as the worklist has both."""
    with closing(Database.open(settings)) as database, database.reading() as session:
        return compare(opinions.pairs(session, purpose, version))


def compare_from_afar(settings: Settings, purpose: Purpose, version: str) -> Comparison:
    """Like `compare_opinions`, where the worklist runs on a cluster: by the store alone unless a database is named.

    The store has neither times nor readers' verdicts. Raises StorageUnavailable.
    """
    if settings.worklist.database is not None:
        return compare_opinions(settings, purpose, version)
    with closing(Storage.from_settings(settings)) as storage:
        return shadow_of(storage, settings.results_bucket, version, MOST_COMPARED, purpose)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """The deliveries of a worklist: how many by destination and state, and the latest that have trouble."""

    counts: list[dict[str, Any]]
    troubled: list[dict[str, Any]]


def outgoing(settings: Settings) -> Outgoing:
    """What was delivered to other systems, and what was not and why."""
    with closing(Database.open(settings)) as database, database.reading() as session:
        counts = [asdict(each) for each in deliveries.counts(session, also_done=True)]
        fields = ("identity", "destination", "state", "attempts", "created", "due", "error")
        troubled = [{name: getattr(each, name) for name in fields} for each in deliveries.troubled(session)]
    return Outgoing(counts, troubled)


def deliver(settings: Settings, destination: str | None, *, again: bool) -> int:
    """Make the deliveries due that wait for a destination, or for any; with `again` its dead letters too.

    The worklist makes them, at once or when it runs. Returns how many. Raises SettingsError for an unknown destination.
    """
    with closing(Database.open(settings)) as database, database.writing() as session:
        if destination is not None:
            named = {each.name for each in load_destinations(settings.worklist.destinations, task_of(settings))}
            if destination not in named | deliveries.names(session):
                raise SettingsError(
                    f"There is no destination {destination!r}; {suggestion(destination, sorted(named))}."
                )
        return deliveries.hasten(session, destination) + (deliveries.again(session, destination) if again else 0)


def login_url(settings: Settings, address: str = "http://127.0.0.1:8900") -> str:
    """Create a sign-in link that works once, within a day; the previous link stops working.

    The link is also stored in a file that only its owner can read, until it is used.
    """
    with closing(Database.open(settings)) as database:
        # Whoever has the home folder has all X-rays in it, with the names in their headers.
        token = Access(database, settings).new_token(_me(), "admin", patients=True)
    url = f"{(settings.worklist.uri or address).rstrip('/')}/login?token={token}"
    write_private(settings.home / "worklist" / LINK_FILE, url + "\n")
    return url


def export_results(settings: Settings, form: Literal["csv", "fhir"], path: Path) -> int:
    """Write all results to a file, as CSV or as one FHIR DiagnosticReport per line; return how many."""
    with closing(Database.open(settings)) as database:
        _note_export(database, form)
        count = _write(path, (csv_fhir.csv_lines if form == "csv" else csv_fhir.fhir_lines)(database.reading))
    return count - (form == "csv")


def export_audit(settings: Settings, path: Path) -> int:
    """Write the audit log to a file, a FHIR AuditEvent a line; return how many."""
    with closing(Database.open(settings)) as database:
        _note_export(database, "audit log")
        return _write(path, audit_lines(database.reading))


def export_feedback(settings: Settings, folder: Path, on_progress: OnProgress | None = None) -> Exported:
    """Write confirmed and corrected X-rays as a data set, usable with `--data` and `--feedback`."""
    with _connected(settings) as (database, storage):
        images = ImageRenderer(storage, settings)
        pattern = settings.worklist.patient_pattern
        task = load_task(settings.task)
        return feedback.export_feedback(database, images, folder, _me(), pattern, on_progress, task=task)


def retrain_check(settings: Settings) -> RetrainCheck:
    """Whether there are enough new labels for a training run."""
    with closing(Database.open(settings)) as database:
        return feedback.retrain_check(database, settings.worklist.retrain_labels, load_task(settings.task))


def mark_trained(settings: Settings, check: RetrainCheck) -> None:
    """Record that a training run used all labels that a check counted."""
    with closing(Database.open(settings)) as database:
        feedback.mark_trained(database, check.last)


def has_worklist(settings: Settings) -> bool:
    """Whether the worklist's database is known: outside a cluster's pods only the setting says where it is."""
    return settings.deployment == "laptop" or settings.worklist.database is not None


def dossier_part(settings: Settings, identity: str) -> WorklistPart:
    """What the worklist holds of an upload; that somebody wanted it is in the audit log first."""
    with closing(Database.open(settings)) as database:
        with database.writing() as session:
            if entries.find(session, identity):
                audit.record(session, _me(), "admin", "exported", identity=identity, detail="dossier")
        with database.reading() as session:
            return part_of(session, identity)


def uploads_named(settings: Settings, name: str) -> set[str]:
    """The identities of uploads with an accession number or an object key."""
    with closing(Database.open(settings)) as database, database.reading() as session:
        return identities_named(session, name)


def caller() -> str:
    """Who uses this machine, as the audit log names them."""
    return _me()


def _note_export(database: Database, what: str) -> None:
    with database.writing() as session:
        audit.record(session, _me(), "admin", "exported", detail=what)


def _write(path: Path, lines: Iterable[str]) -> int:
    """Write a file, whole or not at all; return how many lines."""
    count = 0
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)  # one that a crash left might be readable for others
    with _private(draft) as file:
        for line in lines:
            file.write(line)
            count += 1
    draft.replace(path)
    return count


def _private(path: Path) -> TextIO:
    """A new file for its owner alone, from its first moment: it names patients."""
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", newline="", encoding="utf-8")


@contextmanager
def _connected(settings: Settings) -> Generator[tuple[Database, Storage]]:
    with closing(Database.open(settings)) as database, closing(Storage.from_settings(settings)) as storage:
        yield database, storage


def _me() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in a container
        return "somebody"
