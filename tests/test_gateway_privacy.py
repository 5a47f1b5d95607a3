"""Whom an X-ray is of stays in the X-ray, the patients bucket and the worklist's table of patients.

A whole stack gets X-rays of one patient over DICOM: a good one, a lateral view, one whose pixels are damaged, some that
the gateway refuses; and two with damaged headers. People search for the patient. An interface engine refuses results
until they are delivered again. Then everything else is searched.
"""

import contextlib
import json
import os
import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from confluent_kafka import Message
from pydicom.uid import UID
from typer.testing import CliRunner

from cli.main import app
from cli.stack import sign_in_link
from laptop import stack
from laptop.home.ports import load_ports, targets
from lungline.errors import LunglineError
from lungline.home import Home
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.dicom_files import CT, JPEG_2000, film, write
from tests.support.dicom_network import send
from tests.support.hl7_receiver import Receiver, running_receiver
from tests.support.kafka_tail import tail, uploads_of
from tests.support.laptop_stack import running_stack, s3_client
from tests.support.own_host import LoopbackTransport
from tests.support.waiting import eventually

pytestmark = [pytest.mark.stack, pytest.mark.timeout(500)]  # a stack of its own, and some requests

# Nothing else in a stack has these words; a date of birth is written in two ways.
NAME, NUMBER, ACCESSION, BORN, STUDY = "Zschokkenhofer", "PAT4711QZ", "ACC99012QZ", "19030712", "1.2.826.0.1.4711.99012"
WORDS = (NAME, "Wendelgard", NUMBER, ACCESSION, BORN, "1903-07-12", STUDY)
IDENTITY = {
    "PatientName": f"{NAME}^Wendelgard",
    "PatientID": NUMBER,
    "AccessionNumber": ACCESSION,
    "PatientBirthDate": BORN,
    "StudyInstanceUID": UID(STUDY),
}
RESULTS = 5


def traces(content: bytes | str) -> list[str]:
    """The patient's words in a text, in the encodings that programs write."""
    data = content.encode() if isinstance(content, str) else content
    forms = {
        word: (word.upper().encode(), word.upper().encode("utf-16-le"), word.encode().hex().upper().encode())
        for word in WORDS
    }
    return [word for word, encoded in forms.items() if any(form in data.upper() for form in encoded)]


def unpacked(data: bytes) -> bytes:
    """A content with what is packed in it: everywhere that zlib, gzip or deflated DICOM may begin."""
    parts = [data]
    for at in range(len(data) - 1):
        if (data[at] & 0x0F == 8 and (data[at] << 8 | data[at + 1]) % 31 == 0) or data[at : at + 2] == b"\x1f\x8b":
            with contextlib.suppress(zlib.error):
                parts.append(zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data[at:], 2**24))
    return b"\n".join(parts)


@dataclass(frozen=True)
class Site:
    """A stack that has dealt with every X-ray of the patient, and what a reader was shown."""

    settings: Settings
    home: Home
    page: str
    records: list[Message]
    """Those of all topics; the broker keeps them only until they are processed."""
    engine: Receiver
    """Where results are delivered to; it refuses all."""

    @property
    def storage(self) -> Storage:
        return Storage.from_settings(self.settings)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, packages: tuple[Path, Path]) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("privacy")
    ours = {"destinations": folder / "destinations.toml"}
    with running_receiver(*["AE"] * 99, messages=99) as engine, contextlib.ExitStack() as opened:
        ours["destinations"].write_text(
            f'[[destination]]\nname = "engine"\nkind = "hl7"\nhost = "127.0.0.1"\nport = {engine.port}\n'
        )
        settings = opened.enter_context(running_stack(folder, packages[0], worklist=ours))
        stack.wait(settings, "worklist")
        stack.wait(settings, "gateway")
        connected, home = stack.connect(settings), Home(settings.home)
        ports = load_ports(home)
        assert ports
        storage, names = Storage.from_settings(connected), topics(connected)
        with contextlib.ExitStack() as tails:
            uploads, *others = [tails.enter_context(tail(connected, name)) for name in names]
            submit(settings, ports.gateway)
            uploads.until(lambda held: len(uploads_of(held)) >= RESULTS, 120)
            for each in others:
                each.until(bool, 120)
            eventually(lambda: len(list(storage.list(connected.results_bucket, "results/"))) >= RESULTS, 120)
            records = [record for each in (uploads, *others) for record in each.settled(0.5)]
        yield Site(connected, home, look(settings, connected), records, engine)


def topics(settings: Settings) -> tuple[str, ...]:
    """Of uploads, of results, of dead letters."""
    return settings.uploads_topic, settings.results_topic, settings.dead_letters_topic


def submit(settings: Settings, port: int) -> None:
    """X-rays of the patient: four become uploads, the others are refused in every way that there is."""
    good = write(film(96, seed=1), **IDENTITY)
    lateral = write(film(96, seed=2), ViewPosition="LL", **IDENTITY)
    compressed = write(film(96, seed=3), JPEG_2000, **IDENTITY)
    damaged = compressed[:-900] + bytes(800) + compressed[-100:]
    assert send(port, good, good, lateral, damaged) == [0] * 4
    foreign = write(film(96, seed=5), storage=CT, Modality="CT", **IDENTITY)
    with contextlib.suppress(AssertionError, ValueError):
        send(port, foreign)
    with contextlib.suppress(AssertionError):
        send(port, good, calling=NAME[:16])  # a sender that calls itself like the patient
    with contextlib.suppress(AssertionError):
        send(port, good, called=NUMBER)
    without_pixels = write(film(96, seed=6), **IDENTITY)
    (start,) = [without_pixels.index(b"\xe0\x7f\x10\x00")]
    client = s3_client(stack.env(settings, scanner=True))
    # A header that ends within the patient's name: no gateway would take it, but a scanner can upload it.
    cut = good[: good.index(NAME.encode()) + 9]
    for key, data in (("ward/cut.dcm", cut), ("ward/nothing.dcm", without_pixels[:start])):
        client.put_object(Bucket=settings.uploads_bucket, Key=key, Body=data)


def look(settings: Settings, connected: Settings) -> str:
    """What somebody who may see patients is shown, and searches for."""
    worklist = str(stack.status(settings).service("worklist").address)
    options = {"transport": LoopbackTransport(), "follow_redirects": True, "timeout": 30}
    with httpx.Client(**options, headers={"accept": "text/html"}) as client:  # pyright: ignore[reportArgumentType]
        assert client.get(sign_in_link(settings)).status_code == 200
        eventually(lambda: client.get(f"{worklist}/?view=all&q={NUMBER}").text.count("<tr id=") >= 2, 30)
        lists = [client.get(f"{worklist}/?view=all&q={word}").text for word in WORDS]
        rows = [part.split('"')[0] for part in client.get(f"{worklist}/?view=all").text.split('id="e-')[1:]]
        pages = [client.get(f"{worklist}/x/{identity}").text for identity in rows]
        client.get(f"{worklist}/x/{NAME}")
        client.get(f"{worklist}/{NAME}", params={NUMBER: ACCESSION})
    pages += view(settings)
    assert connected.patients_bucket
    return "".join((*lists, *pages))


def view(settings: Settings) -> list[str]:
    """What a DICOM viewer searches for and gets, with what `lungline env` says."""
    env, answers = stack.env(settings), list[str]()
    with httpx.Client(headers={"authorization": f"Bearer {env['DICOMWEB_VIEWER_TOKEN']}"}, timeout=60) as client:
        queries = (
            f"PatientName={NAME}*",
            f"PatientID={NUMBER}",
            f"AccessionNumber={ACCESSION}",
            f"StudyInstanceUID={STUDY}",
        )
        places = (*(f"?{query}" for query in queries), f"/{STUDY}/series", f"/{STUDY}/metadata", f"/{STUDY}/{NAME}")
        for place in (*places, f"?{NAME}={NUMBER}", f"?StudyDate={NAME}"):
            answers.append(client.get(f"{env['DICOMWEB_VIEWER_URL']}/studies{place}").text)
        assert len(client.get(f"{env['DICOMWEB_VIEWER_URL']}/studies/{STUDY}").content) > 1000
    assert all(NAME in answer for answer in answers[:6])
    return answers


def test_search_would_notice_the_patient(site: Site) -> None:
    """The words are where they may be: in the X-ray, in the patients bucket, and on the page of who may see them."""
    uploads = [site.storage.get(site.settings.uploads_bucket, info.key) for info in site.storage.list("xray-uploads")]
    assert any(len(traces(stored.data)) >= 5 for stored in uploads)
    kept = keys(site, site.settings.patients_bucket)
    assert any(traces(site.storage.get(site.settings.patients_bucket, key).data) for key in kept)
    assert traces(unpacked(b"{}" + zlib.compress(NAME.encode()))) == [NAME]
    assert {NAME, NUMBER, ACCESSION} <= set(traces(site.page))


def test_command_delivers_dead_letters_again(site: Site) -> None:
    """The running worklist makes them; neither command names the patient."""
    runner, outputs = CliRunner(), list[str]()

    def lungline(*command: str) -> Any:
        outputs.append(runner.invoke(app, [*command, "--json", "--home", str(site.home.path)]).output)
        return json.loads(outputs[-1])

    def states() -> dict[str, int]:
        return {each["state"]: each["number"] for each in lungline("worklist", "deliveries")["counts"]}

    eventually(lambda: set(states()) <= {"failed", "not sent"} and states().get("failed", 0) >= 1, 60)
    refused, dead = len(site.engine.messages), states()["failed"]
    site.engine.answers.clear()
    assert lungline("worklist", "deliver", "engine", "--again")["due"] == dead
    eventually(lambda: states().get("sent") == dead, 60)
    assert len(site.engine.messages) == refused + dead
    assert len(set(site.engine.control_ids)) == dead
    assert [words for output in outputs if (words := traces(output))] == []


def test_files_of_the_home_name_no_patient(site: Site) -> None:
    """Every file but the store's own and the worklist's database: logs, states, ledgers, spools."""
    skipped = {site.home.file("store", "data"), site.home.file("worklist")}
    files = [path for path in site.home.path.rglob("*") if path.is_file() and not skipped & {*path.parents}]
    assert {"gateway.log", "predictor.log", "worklist.log", "trigger.log"} <= {path.name for path in files}
    named = {str(path.relative_to(site.home.path)): traces(path.name) + traces(path.read_bytes()) for path in files}
    assert {name: words for name, words in named.items() if words} == {}


def test_topics_name_no_patient(site: Site) -> None:
    assert len(site.records) > RESULTS
    for record in site.records:
        parts = [record.key(), record.value(), *(value for _, value in record.headers() or [])]
        assert [traces(part) for part in parts if part and traces(part)] == [], record.topic()


def test_metrics_name_no_patient(site: Site) -> None:
    ports = load_ports(site.home)
    assert ports
    for service, address in targets(ports).items():
        page = httpx.get(f"http://{address}/metrics", timeout=30)
        assert page.status_code == 200, service
        assert traces(page.text) == [], service


def test_objects_name_no_patient(site: Site) -> None:
    """No name of an object, and no content of one outside uploads and patients, also not packed."""
    ours, counted = site.settings, 0
    own = {ours.uploads_bucket, ours.patients_bucket}
    places = (ours.results_bucket, ours.patients_bucket)
    eventually(lambda: any(key.endswith(".dcm") for bucket in places for key in keys(site, bucket)), 60)
    for bucket in {*own, *places, ours.research_bucket, ours.models_bucket, ours.mlflow_bucket}:
        for key in keys(site, bucket):
            counted += 1
            assert traces(key) == [], bucket
            if bucket not in own:
                assert traces(unpacked(site.storage.get(bucket, key).data)) == [], key
    assert counted > 3 * RESULTS
    (capture, *_) = [key for key in keys(site, ours.patients_bucket) if key.startswith("captures/")]
    assert len(traces(site.storage.get(ours.patients_bucket, capture).data)) >= 3


def keys(site: Site, bucket: str) -> list[str]:
    """The keys of a bucket; none where nothing has needed the bucket yet."""
    try:
        return [info.key for info in site.storage.list(bucket)]
    except LunglineError as exc:
        if "has no bucket" not in str(exc):
            raise
        return []


def test_databases_name_no_patient(site: Site) -> None:
    """Every table of every database, except the table of patients."""
    tables = 0
    for path in site.home.path.rglob("*.db"):
        if "data" in path.parts:
            continue
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            names = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for name in set(names) - {"patients"}:
                tables += 1
                rows = repr(database.execute(f"SELECT * FROM {name}").fetchall())
                assert traces(rows) == [], f"{path.name}: {name}"
    assert tables > 8


def test_processes_and_commands_name_no_patient(site: Site) -> None:
    lines: list[str] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid():
                lines += [*process.cmdline(), *process.environ().values()] if process.uids().real == os.getuid() else []
    assert len(lines) > 20
    runner, home = CliRunner(), ["--home", str(site.home.path)]
    for command in (["status", "--json"], ["results", "--json"], ["replay", "--json"]):
        lines.append(runner.invoke(app, [*command, *home]).output)
    assert [words for line in lines if (words := traces(line))] == []
