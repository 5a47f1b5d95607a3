"""Nothing is lost, repeated or disclosed, whatever is killed; `make chaos` runs the long tests."""

import base64
import json
import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Message, Producer
from typer.testing import CliRunner

from cli.main import app
from eventing.kafka import client_options
from laptop import stack
from laptop.services.broker_log import BrokerLog, log_file
from laptop.services.store import running_store
from lungline.diagnosis.diagnoser import Diagnoser
from lungline.events.uploads import Upload, minio_record
from lungline.home import Home, read_json, write_json
from lungline.package.package import Package
from lungline.results import record_store
from lungline.results import records as results
from lungline.results.purposes import Purpose
from lungline.storage.s3 import Storage
from tests.support.chaos_run import PATIENT, SERVICES, Chaos, eventually, image, key_of, shuffled_pairs
from tests.support.chaos_stack import champion, install, running
from tests.support.history import seeded_run
from tests.support.history.checker import Verdict
from tests.support.history.officer import Officer
from tests.support.history.proof import prove
from tests.support.history.seeded_run import Plan, install_versions
from tests.support.kafka_tail import tail
from tests.support.open_ports import command_line, family
from tests.test_privacy import leaks, named_film

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory, packages: tuple[Path, Path]) -> Iterator[Chaos]:
    with running(tmp_path_factory.mktemp("chaos") / "home", packages[0]) as chaos:
        yield chaos


def test_uploads_survive_three_changes_of_the_champion(chaos: Chaos, packages: tuple[Path, Path]) -> None:
    """None is lost, and none is answered by a mixture of two models."""
    folder = chaos.settings.home / "predictor"
    install(folder.parent, packages[1], "2")
    diagnosers = [Diagnoser(Package.load(folder / "packages" / version)) for version in "12"]
    metadata = f"{chaos.connected.predictor_uri}/v2/models/pneumonia"
    with chaos.uploading(45, seconds=6, name="swap"):
        for number, diagnoser in ((2, diagnosers[1]), (1, diagnosers[0]), (2, diagnosers[1])):
            draft = folder / "draft"
            draft.symlink_to(f"packages/{number}")
            draft.replace(folder / "current")
            eventually(
                lambda version=diagnoser.version: httpx.get(metadata).json()["versions"] == [version], 60, "it serves"
            )
            chaos.await_uploads(4)
    chaos.settle(120)
    expected = {diagnoser.version: diagnoser for diagnoser in diagnosers}
    swapped = {key: records for key, records in chaos.records().items() if "swap" in key}
    assert len(swapped) == 45
    for number in range(45):
        (record,) = swapped[key_of("swap", number)]
        assert record.outcome == "judged"
        assert record.probability == expected[record.model.version].diagnose(image(number)).probability
    assert {record.model.version for (record,) in swapped.values()} == set(expected)
    with tail(chaos.connected, chaos.settings.dead_letters_topic) as letters:
        assert letters.settled(0.5) == []


def test_every_upload_has_one_result_under_chaos(chaos: Chaos) -> None:
    """Services are killed, and the store is unavailable for a while."""
    with chaos.uploading(40, seconds=10):
        chaos.send_poison()
        chaos.kill("predictor")
        chaos.kill("trigger", "bridge")
        chaos.refuse(1.5)
        chaos.kill("store", "broker")
    chaos.settle(120)
    chaos.say(chaos.check())


def test_an_event_sent_fifty_times_has_one_result(chaos: Chaos) -> None:
    """And one notice."""
    upload = chaos.upload(key_of("fifty", 1), image(1))
    producer = Producer(client_options(chaos.connected))
    for _ in range(50):
        producer.produce(chaos.settings.uploads_topic, json.dumps(minio_record(upload)))
    assert producer.flush(60) == 0
    chaos.settle(120)
    assert len(chaos.records()[upload.key]) == 1
    assert len([each for each in chaos.prove().history.of("worklist notice") if each.subject == upload.identity]) == 1


def test_a_lost_event_is_sent_again_after_a_restart(chaos: Chaos) -> None:
    bridge = stack.status(chaos.settings).service("bridge").pid
    assert bridge
    os.kill(bridge, signal.SIGSTOP)
    chaos.upload(key_of("lost", 1), image(1))
    # The next bridge believes that it has sent every event until now.
    state_file = Home(chaos.settings.home).file("run", "bridge.json")
    state = read_json(state_file)
    assert state
    write_json(state_file, state | {"position": time.time_ns()})
    chaos.kill("bridge")
    chaos.settle(120)
    log = Home(chaos.settings.home).log("supervisor")
    eventually(lambda: "those without a result were sent again: 1" in log.read_text(), 30, "it is in the log")


def test_reconcile_finds_nothing_and_replay_replays_dead_letters(chaos: Chaos) -> None:
    before = chaos.letters()
    options = ["--home", str(chaos.settings.home), "--json"]
    reconciled = json.loads(_run("reconcile", "--grace", "0", *options))
    assert (reconciled["uploads"], reconciled["with_result"], reconciled["sent"]) == (
        len(chaos.sent),
        len(chaos.sent),
        0,
    )
    replayed = json.loads(_run("replay", *options))
    assert replayed["replayed"] + replayed["hopeless"] == len(before)
    assert replayed["hopeless"] >= len(chaos.garbage)
    # Poison fails again, and still has its one result.
    with tail(chaos.connected, chaos.settings.dead_letters_topic) as letters:
        letters.until(lambda records: len(records) == len(before) + replayed["replayed"], 60)
    assert json.loads(_run("replay", *options))["replayed"] == replayed["replayed"]
    latest = json.loads(_run("results", "--last", "3", *options))
    assert len(latest) == 3
    assert latest[0]["upload"]["key"] == key_of("lost", 1)
    chaos.check()


def test_readings_and_promotions_survive_kills(chaos: Chaos, packages: tuple[Path, Path]) -> None:
    """While X-rays are uploaded, read and judged by two versions in turn."""
    install_versions(chaos.settings.home, packages)
    plan = Plan.of(3, uploads=16, kills=2)
    _require(seeded_run.run(chaos, plan), plan)


def _require(verdict: Verdict, plan: Plan) -> None:
    assert verdict.holds, f"{verdict}\nTo repeat it: {plan.repeat}"
    counts = verdict.history.counts()
    assert counts["officer erase"] >= plan.erasures > 0
    assert {"reader say", "promoter promote", "receiver notice", "store reading"} <= counts.keys()
    assert counts["scanner put"] >= len(plan.images)
    assert all(counts[name] >= len(plan.images) - plan.erasures for name in ("predictor record", "worklist entry"))


def test_what_is_done_behind_the_stack_is_seen(chaos: Chaos) -> None:
    """A record that is deleted, and one that is filed again under another identity."""
    bucket = chaos.settings.results_bucket
    chaos.upload(key_of("planted", 4), image(4))  # of which the model is unsure
    chaos.settle(120)
    with closing(Storage.from_settings(chaos.connected)) as storage:  # without a notice, whose rule would see it, too
        record = next(each for each in record_store.every(storage, bucket) if each.label == "Unsure")
        data, elsewhere = record.model_dump_json().encode(), results.record_key("0" * 32, record.model.version)
        storage.delete(bucket, record.key)
        without = prove(chaos.settings, chaos.journal, chaos.topics, seconds=0)
        storage.put(bucket, record.key, data)
        storage.put(bucket, elsewhere, data)
        repeated = prove(chaos.settings, chaos.journal, chaos.topics, seconds=0)
        storage.delete(bucket, elsewhere)
    lost = ("acknowledged uploads have results", "replies have results", "worklist has every result")
    assert without.by_rule == dict.fromkeys((*lost, "list shows every result once"), 1)
    assert record.upload.identity[:8] in str(without)
    assert "uploads have one result for each version" in repeated.by_rule
    assert "results lie where they belong" in repeated.by_rule
    assert leaks(str(without), str(repeated)) == []
    assert prove(chaos.settings, chaos.journal, chaos.topics).holds


def test_what_comes_back_of_an_erased_upload_is_seen(chaos: Chaos) -> None:
    upload = chaos.upload(key_of("erased", 4), image(4))
    chaos.settle(120)
    officer = Officer(chaos.settings, chaos.journal, 1, {upload.key: chaos.sent.pop(upload.key)}, 1)
    officer.work()
    assert officer.is_done
    chaos.prove()
    with closing(Storage.from_settings(chaos.connected)) as storage:
        key = f"heatmaps/{upload.identity}/1.png"
        storage.put(chaos.settings.results_bucket, key, b"")
        assert set(prove(chaos.settings, chaos.journal, chaos.topics, seconds=0).by_rule) == {
            "erased uploads have nothing left"
        }
        storage.delete(chaos.settings.results_bucket, key)
    chaos.prove()


def _run(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_nothing_that_the_stack_writes_names_a_patient(chaos: Chaos) -> None:
    """Object keys are only in the uploads and their events, the result records, and the worklist's database."""
    film = {"named": named_film(), "refused": named_film(Modality="CT"), "torn": named_film()[:900]}
    for name, data in film.items():
        chaos.upload(f"{PATIENT}/{name}.dcm", data)
    chaos.poison |= {f"{PATIENT}/{name}.dcm" for name in ("refused", "torn")}
    chaos.settle(120)
    chaos.check()
    settings, home = chaos.connected, Home(chaos.settings.home)
    written = {path: path.read_bytes() for folder in ("logs", "run", "predictor") for path in _files(home.file(folder))}
    written |= {path: path.read_bytes() for path in home.path.iterdir() if path.is_file()}
    assert len(written) > 10
    assert {str(path): leaks(data) for path, data in written.items() if leaks(data)} == {}

    topics = (settings.uploads_topic, settings.results_topic, settings.dead_letters_topic)
    for topic in topics:
        with tail(settings, topic) as records:
            assert leaks(*(part for record in records.settled(1) for part in _envelope(record))) == []
    status = stack.status(settings)
    assert status.pid
    assert leaks(*(command_line(pid) for pid in family(status.pid))) == []
    addresses = [service.metrics for service in status.services if service.metrics] + [
        f"{settings.predictor_uri}/metrics"
    ]
    assert leaks(*(httpx.get(address).text for address in addresses)) == []
    storage = Storage.from_settings(settings)
    others = (settings.results_bucket, settings.research_bucket, settings.models_bucket)
    assert leaks(*(info.key for bucket in others for info in storage.list(bucket))) == []
    with closing(BrokerLog(log_file(home.file("broker")))) as log:
        assert leaks(*(listed.key for listed in log.listed(""))) == []
    research = [storage.get(settings.research_bucket, info.key) for info in storage.list(settings.research_bucket)]
    assert leaks(*(copy.data for copy in research)) == []
    storage.close()


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _envelope(record: Message) -> Iterator[Any]:
    """Key and headers of a message; Knative quotes responses as base64."""
    yield record.key() or b""
    for name, value in record.headers() or []:
        text = value.encode() if isinstance(value, str) else value or b""
        yield base64.b64decode(text) if name == "ce_knativeerrordata" else text


def test_no_error_response_repeats_what_was_sent(chaos: Chaos) -> None:
    base, predict = chaos.connected.predictor_uri, "/v1/models/pneumonia:predict"
    elsewhere = minio_record(Upload("lungline-models", f"{PATIENT}/1.dcm"))  # refused, as any that is not proved
    file = {"image": (f"{PATIENT}.dcm", named_film(Modality="CT"), "application/dicom")}
    answers = [
        httpx.post(f"{base}{predict}", json=elsewhere),
        httpx.post(f"{base}{predict}", content=f"no event of {PATIENT}".encode()),
        httpx.post(f"{base}{predict}", json={"instances": [{"image": f"{PATIENT}"}]}),
        httpx.post(f"{base}/v2/models/pneumonia/infer", json={"inputs": [{"name": PATIENT, "datatype": PATIENT}]}),
        httpx.post(f"{base}/predict", files=file),
        httpx.post(f"{base}/predict", content=named_film()[:900]),
        httpx.get(f"{base}/v2/models/{PATIENT}/ready"),
    ]
    assert {answer.status_code for answer in answers} == {400, 403, 404}
    assert leaks(*(answer.text for answer in answers), *(str(answer.headers) for answer in answers)) == []


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_300_uploads_while_all_services_are_killed(tmp_path: Path, packages: tuple[Path, Path]) -> None:
    """Each service alone, and each pair of services."""
    with running(tmp_path / "home", packages[0]) as chaos:
        with chaos.uploading(300, seconds=100):
            chaos.send_poison()
            for names in (*((name,) for name in SERVICES), *shuffled_pairs(7)):
                chaos.kill(*names)
                chaos.await_uploads(14)
            chaos.refuse(20)
        chaos.settle(300)
        chaos.say(chaos.check())
        for line in Home(chaos.settings.home).log("supervisor").read_text().splitlines():
            if "has restarted" in line or "lost uploads failed" in line:
                print("         ", line)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_readings_and_promotions_survive_any_kill(tmp_path: Path, packages: tuple[Path, Path]) -> None:
    """With a seed that is new each time, and that a failure names."""
    # Not of `random`: building a package seeds it, so the plan was the same each time.
    plan = Plan.of(secrets.randbelow(10**6), uploads=100, kills=12, second_opinions=True)
    print("          to repeat it:", plan.repeat)
    with running(tmp_path / "home", packages[0]) as chaos:
        install_versions(chaos.settings.home, packages)
        verdict = seeded_run.run(chaos, plan)
        chaos.say(f"{verdict}")
        _require(verdict, plan)
        for purpose, rules in _OPINION_RULES.items():
            assert _without_an_opinion(chaos, purpose) == rules


# Which rules see that a second opinion is gone.
_BESIDE = {"worklist has every second opinion"}
_OPINION_RULES: dict[Purpose, set[str]] = {
    "shadow": _BESIDE | {"shadows judge every upload"},
    "rejudged": _BESIDE | {"back fills judge every old upload", "back fills judge what they were sent"},
}


def _without_an_opinion(chaos: Chaos, purpose: Purpose) -> set[str]:
    """The rules that are violated while the store lacks the first second opinion."""
    bucket = chaos.settings.results_bucket
    with closing(Storage.from_settings(chaos.connected)) as storage:
        key = next(info.key for info in storage.list(bucket, f"{purpose}/") if info.key.endswith(".json"))
        data = storage.get(bucket, key).data
        storage.delete(bucket, key)
        seen = set(prove(chaos.settings, chaos.journal, chaos.topics, seconds=0).by_rule)
        storage.put(bucket, key, data)
    return seen


@pytest.mark.chaos
def test_a_wiped_broker_loses_no_upload(tmp_path: Path, packages: tuple[Path, Path]) -> None:
    """It forgets everything while the stack is down."""
    settings = champion(tmp_path / "home", packages[0])
    stack.up(settings, attached=True)
    trigger = stack.status(settings).service("trigger").pid
    assert trigger
    os.kill(trigger, signal.SIGSTOP)
    connected = stack.connect(settings)
    storage = Storage.from_settings(connected)
    upload = Upload("xray-uploads", "a.jpeg", etag=storage.put("xray-uploads", "a.jpeg", image(1)))
    with tail(connected, connected.uploads_topic) as events:
        events.until(lambda records: len(records) == 1)
    stack.down(settings)
    for path in (settings.home / "broker").glob("log.db*"):
        path.unlink()
    with running_store(settings.home, settings) as stored:
        old = Storage.from_settings(stored)
        assert not record_store.is_known(old, "lungline-results", upload.identity)
        old.close()
    stack.up(settings, attached=True)
    try:
        eventually(lambda: record_store.is_known(storage, "lungline-results", upload.identity), 60, "it has a result")
    finally:
        stack.down(settings)
        storage.close()
    assert "those without a result were sent again: 1" in Home(settings.home).log("supervisor").read_text()
