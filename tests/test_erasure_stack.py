"""A patient is erased from a running stack: buckets and home hold nothing more that the proof does not name."""

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from cli.main import app
from laptop import stack
from laptop.uploads import upload_and_watch
from lungline.deidentification.pseudonyms import Pseudonyms
from lungline.deidentification.research import research_name
from lungline.errors import LunglineError
from lungline.results.records import ResultRecord
from lungline.retention.holds import OnHold
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.dicom_files import film, write
from tests.support.waiting import eventually
from worklist.commands import verify_audit
from worklist.database.models import ResultRow
from worklist.database.session import Database

pytestmark = pytest.mark.stack

PATIENT, NAME = "PID4471123", "MUSTERMANN^Erika"
KEYS = ("ward 7/Mustermann-1.dcm", "ward 7/Mustermann-2.dcm")
WORDS = (b"MUSTERMANN", b"Mustermann", PATIENT.encode())
OTHER = "ward 7/erasure-other.dcm"


@pytest.fixture(scope="module")
def settings(stack_settings: Settings) -> Settings:
    """A stack whose champion is unsure of everything, so that research has copies; other tests use it, too."""
    return stack_settings


@pytest.fixture(scope="module")
def results(settings: Settings) -> dict[str, ResultRecord]:
    """Three uploads, two of the patient, once the worklist and research have everything that is made of them."""
    images = {key: write(film(64, seed=at), PatientID=PATIENT, PatientName=NAME) for at, key in enumerate(KEYS)}
    images[OTHER] = write(film(64, seed=9), PatientID="PID8", PatientName="Doe^Jane")
    pairs = [(key, lambda data=data: data) for key, data in images.items()]
    arrived = {each.key: each.record for each in upload_and_watch(pairs, settings, lambda _: None)}
    connected = stack.connect(settings)
    identities = [each.upload.identity for each in arrived.values()]
    names = [research_name(each, Pseudonyms.from_settings(connected)) for each in identities]
    with closing(Database.open(connected)) as database, closing(Storage.from_settings(connected)) as storage:

        def is_settled() -> bool:
            with database.reading() as session:
                rows = session.scalars(select(ResultRow).where(ResultRow.identity.in_(identities))).all()
            copied = all(storage.exists(connected.research_bucket, f"{name}.json") for name in names)
            return copied and [row.capture for row in rows] == [0, 0, 0]

        eventually(is_settled, 60)
    return arrived


def command(settings: Settings, *arguments: str, given: str = "") -> Any:
    """What a command printed as JSON; raises what it raises."""
    done = CliRunner().invoke(app, [*arguments, "--home", str(settings.home), "--json"], given, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def stored(settings: Settings) -> dict[str, bytes]:
    """Names and contents of everything in the buckets."""
    connected = stack.connect(settings)
    ours = (connected.uploads_bucket, connected.results_bucket, connected.patients_bucket, connected.research_bucket)
    with closing(Storage.from_settings(connected)) as storage:
        return {
            f"{bucket}/{info.key}": info.key.encode() + b"\n" + storage.get(bucket, info.key).data
            for bucket in ours
            for info in storage.list(bucket)
        }


def files(settings: Settings) -> dict[str, bytes]:
    """The files of the home, without those of the object store, which the proof names."""
    paths = (path for path in settings.home.rglob("*") if path.is_file() and not path.is_symlink())
    names = {str(path.relative_to(settings.home)): path for path in paths}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith("store/data/")}


def holding(contents: dict[str, bytes], *words: bytes) -> set[str]:
    """The names of those contents that hold any of the words."""
    return {name for name, content in contents.items() if any(word in content for word in words)}


def test_a_patient_leaves_a_running_stack(settings: Settings, results: dict[str, ResultRecord], tmp_path: Path) -> None:
    identities = [results[key].upload.identity.encode() for key in KEYS]
    before = holding(files(settings), *WORDS)
    database, log = ({f"{name}{end}" for end in ("", "-wal")} for name in ("worklist/worklist.db", "broker/log.db"))
    assert before & database
    assert before & log
    hold = command(settings, "hold", "add", results[KEYS[0]].upload.identity, "--by=A", "--reason=b")
    assert command(settings, "hold", "list") == [hold]
    with pytest.raises(OnHold, match=f"legal hold {hold['id']} is on 1 of 2 uploads") as refused:
        command(settings, "erase", "--patient=-", "--by=A", "--reason=b", given=PATIENT)
    assert PATIENT not in str(refused.value)
    command(settings, "hold", "remove", hold["id"])
    planned = command(settings, "erase", "--patient=-", "--dry-run", given=PATIENT)

    path = tmp_path / "proof.json"
    line = [sys.executable, "-m", "cli", "erase", "--patient=-", "--by=A", "--reason=b", f"--proof={path}", "--json"]
    line += ["--home", str(settings.home)]
    done = subprocess.run(line, input=PATIENT, capture_output=True, text=True, timeout=120, check=True)
    proof = json.loads(done.stdout)
    assert (len(proof["uploads"]), set(proof["after"].values())) == (planned["uploads"], {0}) == (2, {0})
    assert proof["before"]["X-rays"] == 2
    assert proof["before"]["events in the broker's log"] >= 2
    assert command(settings, "erase", f"--verify={path}") == proof

    assert holding(stored(settings), *WORDS, *identities) == set()
    after = files(settings)
    assert holding(after, *WORDS) == set()
    # By identity, which names nobody, the audit log and the logs of services may.
    allowed = {*database, "worklist/notices.log"}
    assert {name for name in holding(after, *identities) if not name.startswith("logs/")} <= allowed
    assert "files of the object store in the home" in {rest["where"] for rest in proof["remains"]}
    kept = results[OTHER].upload.identity.encode()
    assert len(holding(stored(settings), kept)) >= 4
    assert verify_audit(stack.connect(settings)).problems == ()


def test_the_stack_goes_on_after_an_erasure(settings: Settings, results: dict[str, ResultRecord]) -> None:
    """Its broker takes and delivers events, rules find nothing due, and nothing has come back."""
    data = write(film(64, seed=20), PatientID="PID9", PatientName="Roe^Jim")
    (arrival,) = upload_and_watch([("erasure/later.dcm", lambda: data)], settings, lambda _: None)
    assert arrival.record.outcome == "judged"
    assert command(settings, "retention", "run")["rules"] == 0
    assert holding(files(settings), *WORDS) == set()
    erased = results[KEYS[0]].upload
    with pytest.raises(LunglineError, match="Nothing is stored"):
        command(settings, "erase", erased.identity, "--dry-run")
