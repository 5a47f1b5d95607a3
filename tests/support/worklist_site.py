"""A real worklist for tests: uvicorn on a free port, a real database, real records."""

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
from fastapi import FastAPI
from psycopg import sql

from lungline.events.uploads import Upload
from lungline.results.events import RESULT_TYPE
from lungline.results.latest_list import heatmap_key
from lungline.results.records import ImageFacts, ModelFacts, OperatingPoint, ReadFacts, ResultRecord, Times, UploadFacts
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.record_store import RecordStore
from worklist.database import entries
from worklist.database.access import COOKIE, Access, Role
from worklist.database.session import Database
from worklist.web.app import WorklistServer, build_app

START = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)


def record(number: int = 0, probability: float | None = 0.9, **changes: Any) -> ResultRecord:
    """A result as the predictor writes it.

    `changes` may name key, version, done, outcome, etag, heatmap, evidence, arrived, warnings, notes, lungs, doubts,
    patient, reason.
    """
    arrived: datetime = changes.get("arrived", START + timedelta(minutes=number))
    key, version = changes.get("key", f"ward/xray-{number}.jpeg"), changes.get("version", "1")
    outcome = changes.get("outcome", "judged")
    etag = changes.get("etag") or hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()
    upload = Upload("xray-uploads", key, None, etag)
    is_predicted = outcome == "judged"
    label = None if outcome in ("gone", "superseded") else "Refused"
    if is_predicted:
        chance = probability or 0.0
        label = "Pneumonia" if chance >= 0.7 else "Normal" if chance < 0.3 else "Unsure"
    heatmap = heatmap_key(upload.identity, version, arrived) if changes.get("heatmap") else None  # an earlier version's
    return ResultRecord(
        id=f"{upload.identity}-{version}",
        outcome=outcome,
        label=label,
        probability=probability if is_predicted else None,
        thresholds=OperatingPoint(low=0.3, high=0.7, operating=0.5),
        reason=changes.get("reason", "truncated") if outcome == "refused" else None,
        message=None if is_predicted else "The image file ends too early.",
        warnings=changes.get("warnings", ()),
        notes=changes.get("notes", ()),
        model=ModelFacts(name="pneumonia", version=version, run_id="r" * 32, sha256="a" * 64, synthetic=False),
        upload=UploadFacts(
            identity=upload.identity, bucket=upload.bucket, key=key, version_id=None, etag=etag, sequencer=None
        ),
        read=ReadFacts(etag=etag, version_id=None, size=9, modified=arrived) if is_predicted else None,
        image=ImageFacts(format="jpeg", width=224, height=224) if is_predicted else None,
        heatmap=heatmap,
        evidence=changes.get("evidence"),
        patient=changes.get("patient"),
        lungs=changes.get("lungs"),
        doubts=changes.get("doubts", ()),
        times=Times(uploaded=arrived, received=arrived, done=changes.get("done", arrived + timedelta(seconds=1))),
    )


def headers(kind: str = RESULT_TYPE) -> dict[str, str]:
    """The headers of a CloudEvent in binary mode."""
    return {
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-type": kind,
        "ce-id": "1",
        "ce-source": "/lungline/predictor",
    }


@dataclass(frozen=True)
class Site:
    """A running worklist."""

    url: str
    app: FastAPI
    settings: Settings

    @property
    def database(self) -> Database:
        return self.app.state.worklist.database

    @property
    def access(self) -> Access:
        return self.app.state.worklist.access

    def keep(self, result: ResultRecord) -> None:
        """Store a record, as the predictor does before its event."""
        storage: Storage = self.app.state.worklist.storage
        if isinstance(storage, RecordStore):
            storage.keep(result)
        else:
            storage.put(self.settings.results_bucket, result.key, result.model_dump_json().encode())

    def send(self, result: ResultRecord) -> httpx.Response:
        """Store a record and send its event."""
        self.keep(result)
        return self.send_event(result)

    def send_event(self, result: ResultRecord) -> httpx.Response:
        return httpx.post(self.url, content=result.model_dump_json(), headers=headers(), timeout=20)

    def client(self, role: Role | None = "admin", who: str = "dr.adams", *, patients: bool = False) -> httpx.Client:
        """An HTTP client, signed in unless the role is None."""
        cookies = {COOKIE: self.access.begin(who, role, patients=patients)} if role else {}
        return httpx.Client(base_url=self.url, cookies=cookies, headers={"accept": "text/html"}, timeout=20)

    def csrf(self, client: httpx.Client) -> str:
        person = self.access.person(client.cookies[COOKIE])
        assert person
        return person.csrf

    def submit_reading(self, client: httpx.Client, identity: str, choice: str, comment: str = "") -> httpx.Response:
        form = self.form(client, identity) | {"say": choice, "comment": comment}
        return client.post(f"/x/{identity}/readings", data=form)

    def form(self, client: httpx.Client, identity: str) -> dict[str, str]:
        """The hidden fields of a form about the result that is shown now."""
        with self.database.reading() as session:
            entry = entries.find(session, identity)
        assert entry
        return {"csrf": self.csrf(client), "record": entry.record, "label": entry.label or ""}


@contextmanager
def running_site(
    settings: Settings, storage: Storage | None = None, *, port: int = 0, restore: bool = False, **options: float
) -> Iterator[Site]:
    """A worklist, by default on a free port, until the context ends; `options` are parameters of `build_app`.

    It restores nothing by default, because tests share a store.
    """
    listener = socket.create_server(("127.0.0.1", port))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    # By default the store has records and nothing else.
    app = build_app(
        settings,
        storage or RecordStore(),
        address=url,
        restore=restore,
        **options,
    )
    server = WorklistServer(app)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        wait(lambda: server.started)
        yield Site(url, app, settings)
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def wait(condition: Any, seconds: float = 15.0) -> Any:
    """Wait until a condition is true; return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"the condition was still false after {seconds:.0f} s"
        time.sleep(0.02)
    return value


def home(folder: Path, **values: Any) -> Settings:
    """Settings of a worklist in a folder; `values` are worklist settings.

    With a PostgreSQL in LUNGLINE_TEST_POSTGRES, each folder has its own database there.
    """
    database = values.pop("database", None)
    server = os.environ.get("LUNGLINE_TEST_POSTGRES")
    if server and database is None:
        database = _own_database(server, folder)
    return Settings.model_validate({"home": folder, "worklist": values | ({"database": database} if database else {})})


def _own_database(server: str, folder: Path) -> str:
    name = f"worklist_{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
    with psycopg.connect(server, autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return f"{server.rpartition('/')[0]}/{name}"
