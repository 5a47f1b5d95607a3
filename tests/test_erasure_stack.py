"""A patient is erased from a running stack: buckets and home hold nothing more that the proof does not name."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import func, select

from laptop import stack
from laptop.erasing.home_files import BrokerEvents
from laptop.uploads import upload_and_watch
from lungline.events.uploads import Upload
from lungline.home import Home
from lungline.registry.history import GENESIS
from lungline.results.records import ResultRecord
from lungline.retention.subjects import Subject
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.dicom_files import film, write
from tests.support.laptop_stack import running_stack
from tests.support.waiting import eventually
from worklist.commands import verify_audit
from worklist.database.models import PatientRow, ResultRow
from worklist.database.session import Database

pytestmark = pytest.mark.stack

PATIENT, NAME = "PID4471123", "MUSTERMANN^Erika"
KEYS = ("ward 7/Mustermann-1.dcm", "ward 7/Mustermann-2.dcm")
WORDS = (b"MUSTERMANN", b"Mustermann", PATIENT.encode())
OTHER = "ward 7/other.dcm"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, packages: tuple[Path, Path]) -> Iterator[Settings]:
    """A stack with a champion that is unsure of everything, so that research has copies."""
    with running_stack(tmp_path_factory.mktemp("stack"), packages[0]) as running:
        yield running


@pytest.fixture(scope="module")
def results(settings: Settings) -> dict[str, ResultRecord]:
    """Three uploads, two of the patient, once the worklist has everything that is made of them."""
    images = {key: write(film(64, seed=at), PatientID=PATIENT, PatientName=NAME) for at, key in enumerate(KEYS)}
    images[OTHER] = write(film(64, seed=9), PatientID="PID8", PatientName="Doe^Jane")
    arrivals = upload_and_watch(
        [(key, lambda data=data: data) for key, data in images.items()], settings, lambda _: None
    )
    connected = stack.connect(settings)
    with closing(Database.open(connected)) as database, closing(Storage.from_settings(connected)) as storage:

        def is_settled() -> bool:
            with database.reading() as session:
                patients = session.scalar(select(func.count()).select_from(PatientRow))
                waiting = session.scalar(select(func.count()).select_from(ResultRow).where(ResultRow.capture == 1))
            copies = sum(info.key.endswith(".json") for info in storage.list(connected.research_bucket))
            owed = sum(1 for _ in storage.list(connected.results_bucket, "owed/"))
            return (patients, waiting, owed) == (3, 0, 0) and copies == 3

        eventually(is_settled, 60)
    return {arrival.key: arrival.record for arrival in arrivals}


def command(settings: Settings, *arguments: str, given: str = "") -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "cli", *arguments, "--home", str(settings.home), "--json"]
    return subprocess.run(line, input=given, capture_output=True, text=True, timeout=120, check=False)


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
    before = files(settings)
    database = {"worklist/worklist.db", "worklist/worklist.db-wal"}
    assert holding(before, *WORDS) >= {"broker/log.db-wal"} or holding(before, *WORDS) >= {"broker/log.db"}
    assert holding(before, *WORDS) & database
    hold = json.loads(command(settings, "hold", "add", results[KEYS[0]].upload.identity, "--by=A", "--reason=b").stdout)
    refused = command(settings, "erase", "--patient", "-", "--by=A", "--reason=b", given=PATIENT)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == (
        f"Error: Nothing is erased: legal hold {hold['id']} is on 1 of 2 uploads."
    )
    assert command(settings, "hold", "remove", hold["id"]).returncode == 0

    path = tmp_path / "proof.json"
    done = command(settings, "erase", "--patient=-", "--by=A", "--reason=b", f"--proof={path}", given=PATIENT)
    assert done.returncode == 0, done.stderr
    proof = json.loads(done.stdout)
    assert (len(proof["uploads"]), set(proof["after"].values())) == (2, {0})
    assert proof["before"]["X-rays"] == 2
    assert proof["before"]["events in the broker's log"] >= 2
    assert command(settings, "erase", f"--verify={path}").returncode == 0
    path.write_text(path.read_text().replace(proof["id"], GENESIS[:8]))
    assert command(settings, "erase", f"--verify={path}").returncode == 1

    assert holding(stored(settings), *WORDS, *identities) == set()
    after = files(settings)
    assert holding(after, *WORDS) == set()
    # By identity, which names nobody, the audit log and the logs of services may.
    assert {name for name in holding(after, *identities) if not name.startswith("logs/")} <= {
        *database,
        "worklist/notices.log",
    }
    assert "files of the object store in the home" in {rest["where"] for rest in proof["remains"]}
    kept = results[OTHER].upload.identity.encode()
    assert len(holding(stored(settings), kept)) >= 4
    assert verify_audit(stack.connect(settings)).problems == ()


def test_the_stack_goes_on_after_an_erasure(settings: Settings, results: dict[str, ResultRecord]) -> None:
    """Its broker takes and delivers events, and one whose record was taken out disturbs nobody."""
    data = write(film(64, seed=20), PatientID="PID9", PatientName="Roe^Jim")
    (arrival,) = upload_and_watch([("later.dcm", lambda: data)], settings, lambda _: None)
    assert arrival.record.outcome == "judged"
    key = results[KEYS[0]].upload.key
    subject = Subject(identity=results[KEYS[0]].upload.identity, bucket=settings.uploads_bucket, key=key)
    assert not BrokerEvents(Home(settings.home)).look([subject])
    assert Upload(settings.uploads_bucket, "later.dcm", None, arrival.record.upload.etag).identity == (
        arrival.record.upload.identity
    )
