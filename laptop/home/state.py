"""The state of a home, looked at before a start: what can be made again is, and says so; the rest is refused.

| files | when damaged or gone |
|---|---|
| credentials.json | refused: its keys open what the home holds, and pseudonyms are derived from them |
| site-key.pem, research.key | refused: they say who signed, and which pseudonym is whose |
| mlflow/mlflow.db | refused: the registry is nowhere else |
| store/data/ (volumes, the filer's database) | refused: they hold the objects |
| site-key.pub, worklist/secret | made again |
| ports.json, supervisor.json, run/*.json | made again |
| challengers.json | removed: `lungline shadow start` and `lungline rejudge` write it again |
| broker/log.db | made again; the damaged file is kept beside it, and uploads without a result are sent again |
| the rest of broker/, store/config/ | made again: they protect the stack's own connections |
| worklist/worklist.db | made again from the results bucket; the damaged file is kept beside it |
| predictor/ | packages are fetched again; `lungline promote` writes the rest |

Whatever is gone and cannot be made again is said as well; so are wrong permissions, and folders in the place of files.
"""

import logging
from pathlib import Path

from eventing.seaweedfs_tls import Certificates
from laptop.home import documents
from laptop.home.access import check_access
from laptop.home.databases import database_fault
from laptop.home.documents import Read, certificates_fault, fault_of
from laptop.home.models import check_models
from laptop.home.store_files import check_store_files
from lungline.deidentification.pseudonyms import KEY_FILE
from lungline.errors import StackError
from lungline.home import Home, read_json
from lungline.settings import Settings
from lungline.site_key import PRIVATE, PUBLIC
from lungline.storage.contents import Remembered, contents_file
from worklist.database.cookie_secret import kept_secret

_log = logging.getLogger(__name__)


def check_state(home: Home, settings: Settings) -> None:
    """Look at the state of a home that is about to start. Raises StackError, which names file and cure."""
    check_access(home)
    _check_keys(home)
    check_store_files(home)
    _remade(home.file("ports.json"), documents.ports)
    _remade(home.file("supervisor.json"), documents.supervisor)
    _remade(home.file("challengers.json"), documents.any_object, "; no version gives second opinions now")
    _remade(contents_file(home.path), Remembered.model_validate_json)
    _check_positions(home)
    for folder in (home.file("broker"), home.file("store", "config")):
        _check_certificates(folder)
    if not settings.kafka_bootstrap:
        _check_broker_log(home)
    if not settings.mlflow_uri:
        _check_registry(home)
    if not settings.worklist.database:
        _check_worklist(home)
    _check_secret(home)
    check_models(home)


def _check_keys(home: Home) -> None:
    """The secrets of a home, which nothing else holds."""
    _require(home.file("credentials.json"), documents.credentials, "new credentials are generated, with other "
             "pseudonyms in the research bucket")  # fmt: skip
    _require(home.file(PRIVATE), documents.private_key, "a new key is generated, while the old public key goes on "
             "verifying")  # fmt: skip
    _require(home.file(KEY_FILE), documents.pseudonym_key, "the research bucket gets other pseudonyms for the same "
             "patients")  # fmt: skip
    if not home.file("credentials.json").exists() and any(home.file("store").glob("data/*.dat")):
        _log.warning(
            "%s was gone: new credentials are generated. Clients need `lungline env` again, and the research "
            "bucket gets other pseudonyms for the same patients.",
            home.file("credentials.json"),
        )
    _check_site_key(home.file(PRIVATE), home.file(PUBLIC), is_used=home.file("predictor", "history.json").exists())


def _check_site_key(private: Path, public: Path, *, is_used: bool) -> None:
    _remade(public, documents.public_keys, "; what other keys of this site signed, `lungline history --accept` accepts")
    if is_used and not private.exists():
        kept = "the old public key goes on verifying" if public.exists() else "`lungline history --accept` accepts it"
        _log.warning("%s is gone: the next signature is made with a new key; %s.", private, kept)


def _require(path: Path, read: Read, otherwise: str) -> None:
    if path.exists() and (fault := fault_of(path, read)):
        raise StackError(f"{path} is damaged ({fault}): restore it from a backup; or remove it, and {otherwise}.")


def _remade(path: Path, read: Read, consequence: str = "") -> None:
    """Remove a damaged file that is written again."""
    if path.exists() and (reason := fault_of(path, read)):
        _log.warning("%s was damaged (%s): it is made again%s.", path, reason, consequence)
        path.unlink()


def _check_positions(home: Home) -> None:
    """The state files of services; without its position the bridge reads the whole change log, which does no harm."""
    bridge = home.file("run", "bridge.json")
    was_there = bridge.exists()
    _remade(bridge, documents.bridge, "; the store's changes are read from their beginning")
    if not was_there and any(home.file("store").glob("data/*.dat")):
        _log.warning("%s was gone: the store's changes are read from their beginning.", bridge)
    for path in home.file("run").glob("*.json"):
        _remade(path, documents.any_object)


def _check_certificates(folder: Path) -> None:
    certificates = Certificates.of(folder)
    paths = (certificates.authority, certificates.certificate, certificates.key)
    if not any(path.exists() for path in paths):
        return
    if fault := certificates_fault(certificates):
        _log.warning("%s was damaged (%s): the certificates beside it are made again.", *fault)
        for path in paths:
            path.unlink(missing_ok=True)


def _check_broker_log(home: Home) -> None:
    path = home.file("broker", "log.db")
    if path.exists() and (fault := database_fault(path, "objects")):
        _set_aside(path, fault, _SENT_AGAIN)
    elif not path.exists() and "log" in (read_json(home.file("run", "kafka_gate.json")) or {}):
        _log.warning("%s was gone: %s", path, _SENT_AGAIN)


def _check_registry(home: Home) -> None:
    path = home.file("mlflow", "mlflow.db")
    if path.exists() and (fault := database_fault(path, "registered_models")):
        raise StackError(
            f"{path} is damaged ({fault}): restore it from a backup; or move it away, and an empty registry is made: "
            "the champion goes on serving, and versions must be registered again."
        )
    if _is_lost(path, home.file("predictor", "history.json")):
        _log.warning("%s was gone or empty: an empty registry is made. Restore it from a backup if you can.", path)


def _check_worklist(home: Home) -> None:
    path = home.file("worklist", "worklist.db")
    if path.exists() and (fault := database_fault(path, "entries")):
        _set_aside(path, fault, _RESTORED)
    elif _is_lost(path, home.file("worklist", "secret")):
        _log.warning("%s was gone or empty: %s", path, _RESTORED)


_SENT_AGAIN = "uploads without a result are sent again; dead letters, and where readers were in each topic, are lost."
_RESTORED = "results and readings come back from the results bucket; audit log, notices and sessions are lost."


def _is_lost(database: Path, companion: Path) -> bool:
    """Whether a database is missing or empty beside a file that was written later than it."""
    return companion.exists() and not (database.exists() and database.stat().st_size)


def _set_aside(database: Path, fault: str, consequence: str) -> None:
    kept = database.with_suffix(".db.damaged")
    database.replace(kept)
    for suffix in (".db-wal", ".db-shm"):
        database.with_suffix(suffix).unlink(missing_ok=True)
    _log.warning("%s was damaged (%s) and is kept as %s: %s", database, fault, kept.name, consequence)


def _check_secret(home: Home) -> None:
    path = home.file("worklist", "secret")
    if kept_secret(home.path) or not (path.exists() or home.file("worklist", "worklist.db").exists()):
        return
    state = "damaged" if path.exists() else "gone"
    path.unlink(missing_ok=True)
    _log.warning("%s was %s: it is made again, and everybody signs in once more.", path, state)
