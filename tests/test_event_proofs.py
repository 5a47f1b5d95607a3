"""Sender and receivers of events prove themselves: what is forged, changed, repeated or late is neither done nor
believed."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import httpx
import pytest
from confluent_kafka import Producer
from pydantic import SecretStr

from eventing.kafka import client_options, ensure_topics
from eventing.routes import RetryPolicy
from eventing.sink import READY_PATH, Sink
from eventing.trigger import Trigger
from laptop.home.ports import Ports, load_ports
from laptop.services.broker import running_broker
from laptop.services.predictor import Predictor
from laptop.services.process import running
from laptop.services.store import running_store
from lungline.datasets.phantom import jpeg
from lungline.events import proof, proof_layer
from lungline.events.cloudevents import BATCHED, MAX_EVENT_BYTES, batch
from lungline.events.proof import HEADER, ProofRefused, Receiver, Sender, Session
from lungline.events.uploads import Upload, minio_record
from lungline.home import Home
from lungline.network import HOST
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.fake_predictor import fake_predictor
from tests.support.kafka_tail import tail
from tests.support.laptop_stack import with_champion
from tests.support.relay import Change, Passing, Relay, changed, relaying
from tests.support.tiny_package import write_tiny_package
from tests.support.waiting import eventually
from tests.support.worklist_site import Site, headers, home, record, running_site

pytestmark = [pytest.mark.attack, pytest.mark.stack]

KEY = "a key of the tests"
LARGE = 84 * 2**20


def pairs(values: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in values.items()]


# --- receiver: the worklist ---


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A worklist with a key of events; the token of its settings opens nothing."""
    settings = home(tmp_path_factory.mktemp("guarded"), event_token="s3cret")
    with running_site(settings.model_copy(update={"event_key": SecretStr(KEY)})) as site:
        site.keep(record())
        yield site


def greet(url: str, sender: Sender) -> Session:
    """The session of a receiver that has proved itself."""
    request, value = sender.prove("GET", READY_PATH, [], b"", None)
    answer = httpx.get(f"{url}{READY_PATH}", headers={HEADER: value})
    session = sender.session_of(request, answer.status_code, answer.headers.raw, answer.content, answer.headers[HEADER])
    assert session
    return session


@dataclass(frozen=True)
class Sending:
    """A request with its proof, as it goes out."""

    sender: Sender
    session: Session | None
    path: str = "/"
    method: str = "POST"

    def signed(self) -> tuple[str, dict[str, str], bytes]:
        body = record().model_dump_json().encode()
        _, value = self.sender.prove(self.method, self.path, pairs(headers()), body, self.session)
        return self.path, headers() | {HEADER: value}, body


Changing = Callable[[str, dict[str, str], bytes], tuple[str, dict[str, str], bytes]]


def without(name: str) -> Changing:
    return lambda path, values, body: (path, {key: value for key, value in values.items() if key != name}, body)


def test_a_proved_batch_is_delivered(guarded: Site) -> None:
    event = {name[3:]: value for name, value in headers().items() if name.startswith("ce-")}
    body = batch([(event, record().model_dump_json().encode())] * 2)
    sink = Sink(f"{guarded.url}/", Sender(KEY, "worklist"))
    assert sink.post(body, {"content-type": BATCHED}).delivered
    sink.close()
    assert not Sink(f"{guarded.url}/").post(body, {"content-type": BATCHED}).delivered


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda path, values, _: (path, values, b'{"label": "Normal"}'), id="another body"),
        pytest.param(lambda path, values, body: (path, values, body + b" "), id="a longer body"),
        pytest.param(lambda path, values, body: (path, values | {"ce-id": "2"}, body), id="another attribute"),
        pytest.param(lambda path, values, body: (path, values | {"ce-more": "2"}, body), id="one more attribute"),
        pytest.param(without("ce-source"), id="an attribute less"),
        pytest.param(lambda p, v, body: (p, v | {"content-type": "text/plain"}, body), id="another media type"),
        pytest.param(lambda _, values, body: ("/dead-letters", values, body), id="another path"),
        pytest.param(lambda _, values, body: ("/?x=1", values, body), id="a query"),
        pytest.param(lambda path, v, body: (path, v | {HEADER: v[HEADER][:-1] + "g"}, body), id="no hexadecimal"),
        pytest.param(lambda path, v, body: (path, v | {HEADER: v[HEADER].replace("v1", "v0")}, body), id="no version"),
        pytest.param(without(HEADER), id="no proof"),
        pytest.param(
            lambda p, v, body: (p, without(HEADER)(p, v, body)[1] | {"authorization": "Bearer s3cret"}, body),
            id="the bare token",
        ),
    ],
)
def test_changed_and_unproved_events_are_refused(guarded: Site, change: Changing) -> None:
    sender = Sender(KEY, "worklist")
    sent = Sending(sender, greet(guarded.url, sender)).signed()
    path, values, body = change(*sent)
    answer = httpx.post(f"{guarded.url}{path}", headers=values, content=body)
    assert answer.status_code == 403
    assert HEADER not in answer.headers
    assert httpx.post(f"{guarded.url}{sent[0]}", headers=sent[1], content=sent[2]).status_code in {204, 403}


def test_proofs_of_others_and_of_other_times_are_refused(guarded: Site) -> None:
    sender = Sender(KEY, "worklist")
    session = greet(guarded.url, sender)
    past, future = (replace(session, clock=session.clock + by) for by in (-62, 62))
    others = [
        Sending(Sender("another key of someone", "worklist"), session),
        Sending(Sender(KEY, "predictor"), session),
        Sending(sender, replace(session, name="1" * 32)),
        Sending(sender, past),
        Sending(sender, future),
        Sending(sender, None),
        Sending(sender, session, method="PUT"),
    ]
    for sending in others:
        path, values, body = sending.signed()
        assert httpx.post(f"{guarded.url}{path}", headers=values, content=body).status_code == 403, sending
    for by in (-55, 55):
        path, values, body = Sending(sender, replace(session, clock=session.clock + by)).signed()
        assert httpx.post(f"{guarded.url}{path}", headers=values, content=body).status_code == 204


def test_a_repeated_request_is_refused_whatever_the_clock_says(guarded: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    sender, real = Sender(KEY, "worklist"), time.time
    session = greet(guarded.url, sender)
    for jump in (0, -3600, 3600):
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        path, values, body = Sending(sender, session).signed()
        answers = [httpx.post(f"{guarded.url}{path}", headers=values, content=body) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [204, 403, 403]
        assert "come before" in answers[-1].text


def status_before_the_body(address: str, request: str) -> int:
    """The status of a request of which the body never comes."""
    url = httpx.URL(address)
    with socket.create_connection((url.host, url.port or 80), timeout=10) as connection:
        connection.sendall(f"{request}\r\nhost: {url.host}\r\ncontent-length: {LARGE}\r\n\r\n".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        answer.read()
        assert connection.recv(1) == b""
        return answer.status


@pytest.mark.parametrize("more", ["", f"\r\n{HEADER}: v1", "\r\nauthorization: Bearer s3cret"])
@pytest.mark.parametrize("path", ["/", "/dead-letters"])
def test_the_body_of_a_stranger_is_not_read(guarded: Site, path: str, more: str) -> None:
    assert status_before_the_body(guarded.url, f"POST {path} HTTP/1.1{more}") == 403


def test_answers_to_proved_senders_are_proved_whatever_they_say(guarded: Site) -> None:
    sink = Sink(f"{guarded.url}/", Sender(KEY, "worklist"))
    events = {
        204: (record().model_dump_json().encode(), headers()),
        404: (record(7).model_dump_json().encode(), headers()),
        400: (b"{}", headers()),
        413: (b" " * (MAX_EVENT_BYTES + 1), headers()),
    }
    for status, (body, values) in events.items():
        answer = sink.post(body, values)
        assert (answer.status, answer.believed) == (status, True)
    sink.close()


def test_a_full_memory_of_requests_asks_for_patience(guarded: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "MOST_NONCES", 0)
    sink = Sink(f"{guarded.url}/", Sender(KEY, "worklist"))
    answer = sink.post(record().model_dump_json().encode(), headers())
    assert (answer.status, answer.believed, answer.busy_seconds) == (503, True, 1)
    sink.close()


def test_pages_of_a_guarded_worklist_need_no_proof(guarded: Site) -> None:
    with guarded.client() as client:
        assert client.get("/").status_code == 200
    assert HEADER not in httpx.get(f"{guarded.url}/healthz").headers


# --- proofs alone ---


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def session_with(receiver: Receiver, sender: Sender, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Session:
    monkeypatch.setattr(time, "monotonic", clock)
    request, value = sender.prove("GET", "/", [], b"", None)
    answer = receiver.prove(receiver.accept("GET", "/", [], value), 200, [], b"")
    session = sender.session_of(request, 200, [], b"", answer)
    assert session
    return session


def test_remembered_requests_are_bounded_and_none_is_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "MOST_NONCES", 5)
    clock = Clock()
    receiver, sender = Receiver(KEY, "predictor", clock), Sender(KEY, "predictor")
    session = session_with(receiver, sender, monkeypatch, clock)
    values: list[str] = []
    for minute in range(20):
        clock.now = 1020.0 + 60 * minute
        sent = [sender.prove("POST", "/", [], b"", session)[1] for _ in range(7)]
        assert [receiver.accept("POST", "/", [], each).has_room for each in sent] == [True] * 5 + [False] * 2
        values += sent[:5]
        for value in values:
            with pytest.raises(ProofRefused):
                receiver.accept("POST", "/", [], value)
        held = receiver._nonces._minutes  # noqa: SLF001 - how much it holds shows nowhere else
        assert sum(len(each) for each in held.values()) <= 4 * 5


def test_no_forged_request_takes_up_memory() -> None:
    receiver, stranger = Receiver(KEY, "predictor"), Sender("a key of somebody else", "predictor")
    for _ in range(100):
        _, value = stranger.prove("POST", "/", [], b"", Session("0" * 31 + "1", 0, 0.0))
        with pytest.raises(ProofRefused):
            receiver.accept("POST", "/", [], value)
    assert not receiver._nonces._minutes  # noqa: SLF001 - as above


@pytest.mark.parametrize("status", [200, 400, 503])
def test_an_answer_proves_nothing_else(status: int) -> None:
    receiver, sender = Receiver(KEY, "predictor"), Sender(KEY, "predictor")
    given = [(b"CE-Type", b" t "), (b"retry-after", b"1"), (b"date", b"x")]
    request, value = sender.prove("GET", "/", [], b"", None)
    answer = receiver.prove(receiver.accept("GET", "/", [], value), status, given, b"body")
    other, _ = sender.prove("GET", "/", [], b"", None)
    believed = [
        sender.session_of(request, status, given, b"body", answer),
        sender.session_of(request, status, [(b"ce-type", b"t"), (b"Retry-After", b"1")], b"body", answer),
        sender.session_of(request, status + 1, given, b"body", answer),
        sender.session_of(request, status, given, b"bodies", answer),
        sender.session_of(request, status, [(b"ce-type", b"u"), (b"retry-after", b"1")], b"body", answer),
        sender.session_of(request, status, [(b"ce-type", b"t")], b"body", answer),
        sender.session_of(request, status, [(b"ce-typ", b"et"), (b"retry-after", b"1")], b"body", answer),
        sender.session_of(other, status, given, b"body", answer),
        sender.session_of(request, status, given, b"body", value),
        sender.session_of(request, status, given, b"body", None),
    ]
    assert [session is not None for session in believed] == [True, True] + [False] * 8


# --- sender: the trigger, between a broker and a predictor ---


@dataclass(frozen=True)
class Place:
    """A store, a broker and a champion; who listens at the predictor's port is up to the test."""

    home: Home
    settings: Settings
    ports: Ports
    predictor: Predictor

    def named(self, name: str) -> "Place":
        """The same with topics of a test's own."""
        topics = {"uploads_topic": f"{name}-uploads", "results_topic": f"{name}-results"}
        settings = self.settings.model_copy(update=topics)
        ensure_topics(settings)
        return replace(self, settings=settings)

    def upload(self, name: str) -> str:
        """Store an X-ray and send its event; returns the event."""
        storage = Storage.from_settings(self.settings)
        etag = storage.put(self.settings.uploads_bucket, f"{name}.jpeg", jpeg(1, opacities=True))
        event = json.dumps(minio_record(Upload(self.settings.uploads_bucket, f"{name}.jpeg", etag=etag)))
        producer = Producer(client_options(self.settings))
        producer.produce(self.settings.uploads_topic, event, headers=[("content-type", b"application/json")])
        assert producer.flush(10) == 0
        storage.close()
        return event

    @contextmanager
    def trigger(self, uri: str | None = None) -> Iterator[Trigger]:
        settings = self.settings.model_copy(
            update={"predictor_uri": uri or self.predictor.address, "event_key": SecretStr(KEY)}
        )
        trigger = Trigger(self.home, settings, retry=RetryPolicy(retries=2, first_backoff_seconds=0.01))
        thread = threading.Thread(target=trigger.run)
        thread.start()
        try:
            yield trigger
        finally:
            trigger.stop()
            thread.join(20)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder, package = tmp_path_factory.mktemp("place"), tmp_path_factory.mktemp("package") / "1"
    write_tiny_package(package, seed=1, version=None)
    made = Home.make(folder)
    settings = with_champion(folder, package)
    with running_store(folder, settings) as stored, running_broker(folder, stored) as connected:
        storage = Storage.from_settings(connected)
        storage.ensure_buckets(connected.uploads_bucket, connected.results_bucket, connected.research_bucket)
        storage.close()
        ports = load_ports(made)
        assert ports
        yield Place(made, connected, ports, Predictor(made, connected, ports, SecretStr(KEY)))


def counts(trigger: Trigger) -> dict[str, int]:
    return trigger.subscriptions[0].dispatcher.counts


FORGED = {"ce-specversion": "1.0", "ce-id": "1", "ce-type": "org.lungline.result.v1", "ce-source": "/forged"}


def test_who_takes_the_port_gets_nothing_and_is_not_believed(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it answers; the event is judged by the true predictor when that is back."""
    place = place.named("port")
    with place.trigger() as trigger, tail(place.settings, place.settings.results_topic) as results:
        for status in (200, 400, 503):
            with fake_predictor(lambda *_, status=status: (status, FORGED), place.ports.predictor) as fake:
                fake.readiness_status = status
                place.upload(f"{status}")
                eventually(lambda status=status: f"Another program answers at {HOST}" in caplog.text)
                eventually(lambda: not trigger.subscriptions[0].is_ready)
                assert place.predictor.probe(0) == "not ready: another program answers"
                time.sleep(0.3)
                assert fake.deliveries == [], "it sees no event, nor anything to use elsewhere"
        assert results.settled(0.2) == []
        with running(place.predictor, place.home.log("predictor")):
            eventually(lambda: counts(trigger)["delivered"] == 3)
            assert trigger.subscriptions[0].is_ready
            assert place.predictor.probe(0) == "ready"
            results.until(lambda come: len(come) == 3)
        assert counts(trigger)["unproved"] > 0
        assert (counts(trigger)["dead_letters"], counts(trigger)["retried"]) == (0, 0)
        with fake_predictor(lambda *_: (200, FORGED), place.ports.predictor) as fake:
            place.upload("later")
            eventually(lambda: not trigger.subscriptions[0].is_ready)
            time.sleep(0.3)
            assert fake.deliveries == [], "nor on new connections of threads that have met the true one"
        assert counts(trigger)["dead_letters"] == 0
    assert caplog.text.count("Another program answers") < 10


@pytest.fixture(scope="module")
def relayed(place: Place) -> Iterator[Relay]:
    """The true predictor, behind a program that sees and may change everything but a greeting."""
    with running(place.predictor, place.home.log("predictor")), relaying((HOST, place.ports.predictor)) as relay:
        eventually(lambda: place.predictor.probe(0) == "ready")
        yield relay


def set_body(body: bytes) -> Change:
    return lambda passing: replace(passing, body=body)


@pytest.mark.parametrize(
    ("name", "treatment"),
    [
        ("forged-200", {"forged": Passing(200, FORGED, b"{}")}),
        ("forged-400", {"forged": Passing(400, {}, b"{}")}),
        ("forged-503", {"forged": Passing(503, {"retry-after": "0"}, b"{}")}),
        ("other-answer", {"on_answer": set_body(b"{}")}),
        ("other-attribute", {"on_answer": changed("ce-id", "x")}),
        ("other-status", {"on_answer": lambda passing: replace(passing, line=400)}),
        ("other-event", {"on_event": set_body(b'{"Records": []}')}),
        ("other-source", {"on_event": changed("ce-source", "x")}),
    ],
)
def test_changed_answers_and_events_cost_nothing(
    place: Place, relayed: Relay, name: str, treatment: dict[str, Passing | Change]
) -> None:
    place = place.named(name)
    for attribute in ("forged", "on_answer", "on_event"):
        setattr(relayed, attribute, treatment.get(attribute))
    relayed.events.clear()
    with place.trigger(relayed.uri) as trigger, tail(place.settings, place.settings.results_topic) as results:
        event = place.upload(name)
        eventually(lambda: counts(trigger)["unproved"] >= 4)
        assert results.settled(0.1) == []
        for attribute in treatment:
            setattr(relayed, attribute, None)
        eventually(lambda: counts(trigger)["delivered"] == 1)
        (result,) = results.until(lambda come: len(come) == 1)
        assert (counts(trigger)["dead_letters"], counts(trigger)["retried"]) == (0, 0)
    proofs = [each.headers[HEADER] for each in relayed.events]
    assert len(proofs) == len(set(proofs)) >= 5, "each delivery is proved anew"
    assert KEY.encode() not in b"".join(each.body + repr(each.headers).encode() for each in relayed.events)
    assert {each.body for each in relayed.events} == {event.encode()}
    assert f"{name}.jpeg" in (result.value() or b"").decode()


def test_events_without_proof_are_refused_and_images_are_not(place: Place, relayed: Relay) -> None:
    relayed.forged = relayed.on_answer = relayed.on_event = None
    address, model = place.predictor.address, "/v1/models/pneumonia"
    event = minio_record(Upload(place.settings.uploads_bucket, "x.jpeg"))
    binary = {"ce-specversion": "1.0", "ce-type": "dev.knative.kafka.event", "ce-id": "1", "ce-source": "/x"}
    structured = {"content-type": "application/cloudevents+json"}
    attribute = {"specversion": "1.0", "type": "t", "data": event}
    bare = {"authorization": f"Bearer {KEY}"}
    tried = [
        httpx.post(f"{address}{model}:{verb}", headers=values, json=body)
        for verb in ("predict", "explain")
        for values, body in ((binary, event), (structured, attribute), (bare, event), ({}, [event["Records"][0]]))
    ]
    assert {answer.status_code for answer in tried} == {403}
    assert all(proof_layer.NEEDED in answer.json()["error"] for answer in tried)
    assert status_before_the_body(address, f"POST {model}:predict HTTP/1.1\r\nce-type: t") == 403
    image = jpeg(1, opacities=False)
    assert httpx.post(f"{address}/predict", content=image).status_code == 200
    assert httpx.get(f"{address}{model}").json()["ready"] is True
