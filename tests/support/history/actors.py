"""The actors of a run: they work as people and machines do, and write what they wanted and what they were answered."""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any

import httpx
from botocore.exceptions import BotoCoreError, ClientError

from cli.stack import sign_in_link
from laptop import challengers, stack
from laptop.rejudging import rejudge_uploads
from lungline.deployment.laptop import LaptopDeployment
from lungline.deployment.release import Release
from lungline.errors import LunglineError, PromotionConflict
from lungline.events.uploads import Upload
from lungline.home import Home
from lungline.package.package import Package
from lungline.registry.history import Facts, History, PromotionEntry
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.history.operations import Journal, Outcome
from tests.support.history.traces import object_of
from tests.support.own_host import LoopbackTransport

_SHOWN = re.compile(r'href="/x/([0-9a-f]{32})')
_HIDDEN = re.compile(r'type="hidden" name="(\w+)" value="([^"]*)"')
_AT_ONCE = 3


class Scanner:
    """Puts X-rays into the uploads bucket; it knows before the answer which upload that is."""

    def __init__(self, client: Any, bucket: str, journal: Journal, number: int = 0) -> None:
        self._client, self._bucket, self._journal, self._number = client, bucket, journal, number

    def put(self, key: str, data: bytes) -> Upload:
        """Upload once. Raises what the client raises when the answer is not a yes."""
        upload = Upload(self._bucket, key, etag=hashlib.md5(data, usedforsecurity=False).hexdigest())
        with self._journal.attempt("scanner put", upload.identity, self._number, object=object_of(upload)) as attempt:
            try:
                answer = self._client.put_object(Bucket=self._bucket, Key=key, Body=data)
            except ClientError as exc:
                attempt.answer(_outcome(exc.response["ResponseMetadata"]["HTTPStatusCode"]))
                raise
            assert answer["ETag"].strip('"') == upload.etag, "the store has something else than what was sent"
            attempt.answer("ok")
            return upload


def _outcome(status: int) -> Outcome:
    """What a status says: an error of the server leaves open what it has done."""
    return "ok" if status < 300 else "fail" if 400 <= status < 500 else "unknown"


class Reader:
    """A doctor at the worklist: acknowledges the notices of some uploads, and reads the others."""

    def __init__(self, client: httpx.Client, address: str, journal: Journal, chance: Random) -> None:
        self._client, self._address, self._journal, self._chance = client, address, journal, chance
        self.seen: set[str] = set()
        """Uploads that were opened, or meant to be."""

    def look(self) -> None:
        """Judge what is new on the list, a few at a time. Raises httpx.TransportError while the worklist is away."""
        page = self._client.get(f"{self._address}/?view=all")
        shown = set(_SHOWN.findall(page.text)) - self.seen if page.status_code == 200 else set()
        for identity in sorted(shown)[:_AT_ONCE]:
            self.seen.add(identity)
            self._judge(identity)

    def _judge(self, identity: str) -> None:
        page = self._client.get(f"{self._address}/x/{identity}")
        form = dict(_HIDDEN.findall(page.text))
        if page.status_code != 200 or "id" not in form:
            return
        if f"/x/{identity}/acknowledge" in page.text and self._chance.random() < 0.5:
            self._post("reader acknowledge", identity, "acknowledge", form)
            return
        verdict = self._chance.choice(("Normal", "Pneumonia"))
        form |= {"say": verdict, "comment": ""}
        self._post("reader say", identity, "readings", form, id=form["id"], verdict=verdict)

    def _post(self, name: str, identity: str, where: str, form: dict[str, str], **value: Any) -> None:
        with self._journal.attempt(name, identity, **value) as attempt:
            try:
                answer = self._client.post(f"{self._address}/x/{identity}/{where}", data=form)
            except httpx.ConnectError:
                attempt.answer("fail")
                raise
            # A redirect to the next page says that it is stored, whatever becomes of that page.
            attempt.answer("ok" if answer.history else _outcome(answer.status_code))


@contextmanager
def reader(settings: Settings, journal: Journal, seed: int) -> Iterator[Reader]:
    """A reader who has signed in."""
    address = str(stack.status(settings).service("worklist").address)
    headers = {"accept": "text/html"}
    with httpx.Client(transport=LoopbackTransport(), follow_redirects=True, timeout=20, headers=headers) as client:
        assert client.get(sign_in_link(settings)).status_code == 200
        yield Reader(client, address, journal, Random(seed))


class Promoter:
    """Puts stored versions into service in turn; the way back is a rollback."""

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self._settings, self._journal = settings, journal

    def store(self, *versions: str) -> None:
        """Put the packages of the home into the models bucket, as registering does."""
        connected = stack.connect(self._settings)
        storage = Storage.from_settings(connected)
        for version in versions:
            folder = Home(connected.home).package(version)
            storage.upload_folder(folder, connected.models_bucket, f"{connected.model_name}/{version}")
        storage.close()

    def promote(self, version: str) -> None:
        """Promote once. Raises LunglineError when the answer is not a yes."""
        connected = stack.connect(self._settings)
        with self._journal.attempt("promoter promote", version=version) as attempt:
            try:
                entry = promoted(connected, version)
            except PromotionConflict:
                attempt.answer("fail")
                raise
            attempt.answer("ok", number=entry.number)


def promoted(connected: Settings, version: str) -> PromotionEntry:
    """Promote a stored version as `lungline promote` does, without MLflow."""
    storage = Storage.from_settings(connected)
    history = History(storage, connected.models_bucket, connected.model_name)
    deployment = LaptopDeployment.from_settings(connected)
    uri = f"s3://{connected.models_bucket}/{connected.model_name}/{version}/"
    folder = Home(connected.home).file("imports", version)
    storage.download_folder(connected.models_bucket, f"{connected.model_name}/{version}", folder)
    sha256 = Package.load(folder).sha256
    head = history.head()
    kind = "rollback" if head and head.champion and version < head.champion else "promotion"
    values = {"version": version, "kind": kind, "by": "Ada", "reason": "better", "facts": Facts(package=sha256)}
    began = history.append(head, act="began", champion=head and head.champion, **values)
    deployment.deploy(uri, version, Release(sha256, signed=False, anchor=began.anchor))
    entry = history.append(began, act="promoted", champion=version, **values)
    deployment.keep_anchor(entry.anchor)
    return entry


class Operator:
    """Lets another version give second opinions, as `lungline shadow` and `lungline rejudge` do."""

    def __init__(self, settings: Settings, journal: Journal, version: str) -> None:
        self._settings, self._journal, self._version = settings, journal, version

    def begin_shadow(self) -> None:
        """Let the version judge what is uploaded from now on."""
        with self._journal.attempt("operator shadow", version=self._version) as attempt:
            challengers.start(self._settings, self._version, "shadow")
            attempt.answer("ok")

    def rejudge(self) -> None:
        """Let the version judge all old uploads."""
        with self._journal.attempt("operator rejudge", version=self._version) as attempt:
            everything = {"since": None, "until": None, "labels": frozenset(), "most": None, "rate": 50.0}
            done = rejudge_uploads(self._settings, self._version, **everything)
            if done.judged == done.sent:
                attempt.answer("ok")


class Crew:
    """Actors on threads of their own until the end of the context; what they raise is kept in `failures`."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.failures: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def start(self, work: Callable[[], object]) -> None:
        """Let an actor work."""
        thread = threading.Thread(target=self._guarded, args=(work,))
        self._threads.append(thread)
        thread.start()

    def repeat(self, work: Callable[[], object], every: float, passed_over: tuple[type[Exception], ...] = ()) -> None:
        """Let an actor do the same again and again; it passes over some errors, as people do."""

        def run() -> None:
            while not self.stop.is_set():
                with suppress(*passed_over):
                    work()
                self.stop.wait(every)

        self.start(run)

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as exc:  # noqa: BLE001 - looked at by whoever started the actor
            self.failures.append(exc)

    def end(self, seconds: float = 90) -> None:
        """Stop all actors, and wait for them."""
        self.stop.set()
        for thread in self._threads:
            thread.join(seconds)


AWAY = (httpx.HTTPError, LunglineError, ClientError, BotoCoreError)
"""What an actor meets while a part of the stack is down."""
