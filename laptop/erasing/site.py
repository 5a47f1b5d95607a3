"""The places where uploads lie at a site, on a laptop or on a cluster, and the commands that erase there."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from laptop import stack
from laptop.erasing.home_files import BrokerEvents, journals
from lungline.errors import LunglineError
from lungline.home import Home
from lungline.retention.due import Retention, run
from lungline.retention.erasure import Eraser, Place
from lungline.retention.holds import Hold, Holds
from lungline.retention.objects import StoredObjects
from lungline.retention.plan import Plan
from lungline.retention.proof import Proof, Remainder, verify
from lungline.retention.rules import EVERYWHERE, Kind, load_rules
from lungline.retention.subjects import Subject, of_identities, of_patient
from lungline.settings import Settings
from lungline.site_key import read_public_keys, trusted_keys
from lungline.storage.s3 import Storage
from worklist.database.erasure import DatabaseRows, note
from worklist.database.session import Database

# As manifests/base/kafka/topics.yaml has them.
EVENT_DAYS, DEAD_LETTER_DAYS = 14, 90
LEDGER_DAYS = 90


@dataclass(frozen=True, slots=True)
class Whose:
    """Which uploads are meant: one by its identity, or a patient's; `issuer` is who gave the Patient ID."""

    identity: str | None = None
    patient_id: str | None = None
    issuer: str | None = None

    def subjects(self, storage: Storage, settings: Settings) -> list[Subject]:
        """The uploads. Raises LunglineError for neither and for both."""
        if bool(self.identity) == bool(self.patient_id):
            raise LunglineError("Name either the identity of one upload, or a patient with --patient.")
        if self.identity:
            return of_identities([self.identity], storage, settings, older=True)
        return of_patient(self.patient_id or "", storage, settings, self.issuer)


@dataclass(frozen=True, slots=True)
class SitePlaces:
    """The places of a site; the home's own files are a laptop's alone."""

    storage: Storage
    settings: Settings
    database: Database

    def of(self, kinds: Sequence[Kind]) -> Sequence[Place]:
        """The X-rays, the worklist's rows, all other objects; of a whole erasure also the home's files."""
        whole = set(kinds) == set(EVERYWHERE) and self._is_laptop
        home = Home(self.settings.home.absolute())
        images: list[Kind] = [kind for kind in kinds if kind == "uploads"]
        others: list[Kind] = [kind for kind in kinds if kind != "uploads"]
        return [
            StoredObjects(self.storage, self.settings, images),
            DatabaseRows(self.database, kinds),
            StoredObjects(self.storage, self.settings, others),
            *((*journals(home), BrokerEvents(home)) if whole else ()),
        ]

    def remains(self, plan: Plan) -> list[Remainder]:
        """What is beyond reach: logs by identity, what has left, and what other programs keep for a time."""
        return list(_remains(self._is_laptop, datetime.now(UTC))) if plan.is_whole else []

    def note(self, plan: Plan) -> None:
        """Add the erasure to the worklist's audit log."""
        note(self.database, plan)

    @property
    def _is_laptop(self) -> bool:
        return self.settings.deployment != "cluster"


def erase(settings: Settings, whose: Whose, *, by: str, reason: str, dry_run: bool = False) -> Plan | Proof:
    """Erase uploads everywhere; with `dry_run` only the plan. Raises OnHold, LunglineError where nothing is stored."""
    with _eraser(settings) as eraser:
        if not dry_run:
            eraser.finish()
        subjects = whose.subjects(eraser.storage, eraser.settings)
        plan = eraser.plan(subjects, by=by, reason=reason, patient_id=whose.patient_id)
        return plan if dry_run else eraser.carry_out(plan)


def retain(settings: Settings, *, dry_run: bool = False) -> Retention:
    """Erase what the rules make due; with `dry_run` only say what is. Raises SettingsError for wrong rules."""
    rules = load_rules(settings.retention_rules)
    with _eraser(settings) as eraser:
        return run(eraser, rules, dry_run=dry_run)


def hold(settings: Settings, whose: Whose, *, by: str, reason: str) -> Hold:
    """Put a legal hold on an upload or a patient."""
    if bool(whose.identity) == bool(whose.patient_id):
        raise LunglineError("Name either the identity of one upload, or a patient with --patient.")
    with _holds(settings) as holds:
        return holds.add(
            identity=whose.identity, patient_id=whose.patient_id, issuer=whose.issuer, by=by, reason=reason
        )


def held(settings: Settings) -> list[Hold]:
    """All legal holds."""
    with _holds(settings) as holds:
        return holds.every()


def release(settings: Settings, name: str) -> Hold:
    """Lift a legal hold. Raises LunglineError where there is none of this name."""
    with _holds(settings) as holds:
        return holds.remove(name)


def verify_proof(settings: Settings, path: Path, public_key: Path | None) -> Proof:
    """Check a proof with a public key in a file, by default with the keys of this site. Raises LunglineError."""
    return verify(path, read_public_keys(public_key) if public_key else trusted_keys(settings))


def _remains(is_laptop: bool, now: datetime) -> Iterator[Remainder]:
    yield Remainder(where="audit log, service logs", why="They name uploads by identity and no patient, and are kept.")
    yield Remainder(
        where="exports, deliveries, trained models, backups",
        why="They have left this system; the audit log says who took or received what, and when.",
    )
    if is_laptop:
        yield Remainder(
            where="files of the object store in the home",
            why="SeaweedFS gives the space of deleted objects free when it compacts its volumes, and keeps its log of "
            "changes, which has object keys.",
        )
        return
    days = {"upload and result events in Kafka": EVENT_DAYS, "dead letters in Kafka": DEAD_LETTER_DAYS}
    for where, number in days.items():
        yield Remainder(
            where=where, until=now + timedelta(days=number), why="Kafka forgets by age: they expire by then."
        )
    yield Remainder(
        where="digests of instances in the DICOM gateway", until=now + timedelta(days=LEDGER_DAYS), why="They expire."
    )
    yield Remainder(where="deleted rows in PostgreSQL", why="Its autovacuum gives their space free.")


@contextmanager
def _eraser(settings: Settings) -> Iterator[Eraser]:
    connected = _connected(settings)
    with closing(Storage.from_settings(connected)) as storage, closing(Database.open(connected)) as database:
        yield Eraser(storage, connected, SitePlaces(storage, connected, database))


@contextmanager
def _holds(settings: Settings) -> Iterator[Holds]:
    connected = _connected(settings)
    with closing(Storage.from_settings(connected)) as storage:
        yield Holds(storage, connected)


def _connected(settings: Settings) -> Settings:
    return settings if settings.deployment == "cluster" else stack.connect(settings)
