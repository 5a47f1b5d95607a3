"""A real Prometheus scrapes a real stack: every query of the dashboards has a result, and alerts fire."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import httpx
import pytest
from confluent_kafka import Producer

from dashboards.rendering import queries, rendered
from eventing.kafka import client_options
from laptop import stack
from laptop.checks import flow
from laptop.home.ports import load_ports, targets
from laptop.services.prometheus import rules
from lungline.datasets.phantom import jpeg
from lungline.errors import StackError
from lungline.health_check import Check
from lungline.home import Home
from lungline.monitoring import comparison, findings
from lungline.monitoring.findings import Feedback, ModelFindings, MonitoringFindings, Window, proportion
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from tests.support.collector import ReceivedSpan, running_collector
from tests.support.own_host import LoopbackTransport
from tests.support.prometheus_server import Prometheus, program, running_prometheus, shorten, until
from tests.support.tiny_package import write_tiny_package
from worklist.database import entries
from worklist.database.access import COOKIE, Access
from worklist.database.session import Database

pytestmark = pytest.mark.stack

ELSEWHERE = "http://127.0.0.1:9"
UPLOADS = 24


@dataclass(frozen=True)
class WatchedStack:
    """A stack with its Prometheus and the spans of its traces."""

    settings: Settings
    home: Home
    prometheus: Prometheus
    spans: list[ReceivedSpan]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedStack]:
    """A stack with its own Prometheus and a faster one beside it, an old model, and notices that cannot be sent."""
    program("prometheus")
    folder = tmp_path_factory.mktemp("watching")
    home = folder / "home"
    write_tiny_package(home / "predictor/packages/1", seed=3, created=datetime.now(UTC) - timedelta(days=300))
    (home / "predictor/current").symlink_to("packages/1")
    (folder / "rules.toml").write_text('[[rule]]\nname = "all"\nto = [["json://127.0.0.1:9/"]]\n')
    worklist = {"notice_rules": folder / "rules.toml"}
    with running_collector() as (collector, spans):
        values = {"home": home, "mlflow_uri": ELSEWHERE, "prometheus": True, "otlp_endpoint": collector}
        settings = Settings.model_validate(values | {"log_format": "json", "worklist": worklist})
        yield from _watched(folder, settings, spans)


def _watched(folder: Path, settings: Settings, spans: list[ReceivedSpan]) -> Iterator[WatchedStack]:
    home = settings.home
    stack.up(settings, attached=True, wait_for=stack.ESSENTIAL | {"worklist", "prometheus"})
    try:
        connected = stack.connect(settings)
        _save_findings(connected)
        ports = load_ports(Home(home))
        assert ports
        with running_prometheus(folder / "fast", targets(ports), shorten(rules())) as fast:
            # A counter that rises before the first scrape has no rate.
            until(lambda: fast.query("count(up == 1) == 6"))
            _upload(settings)
            yield WatchedStack(connected, Home(home), fast, spans)
    finally:
        stack.down(settings)


def _upload(settings: Settings) -> None:
    environment = stack.env(settings, scanner=True)
    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_DEFAULT_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
    for number in range(UPLOADS):
        client.put_object(Bucket=settings.uploads_bucket, Key=f"Doe/{number}.jpg", Body=jpeg(number, opacities=True))
    client.put_object(Bucket=settings.uploads_bucket, Key="Doe/none.jpg", Body=b"not an image")


def _save_findings(settings: Settings) -> None:
    """Save what monitoring would save after drift."""
    now = datetime.now(UTC)
    drift = comparison.WindowComparison(
        tests={"images": comparison.Tested(p=0.001, distance=0.4, alarm=True)},
        statistics={"mean": comparison.StatisticTested(p=0.001, distance=0.4, alarm=True, reference=120, field=160)},
    )
    model = ModelFindings(
        version="1",
        reference=200,
        results=200,
        labels={"Normal": 150, "Unsure": 50},
        unsure=proportion(50, 200),
        refused=proportion(0, 200),
        windows=(Window(start=now, end=now, results=200, comparison=drift),),
        feedback=Feedback(readings=40, sensitivity=proportion(18, 20), specificity=proportion(15, 20)),
    )
    results = MonitoringFindings(at=now, since=now - timedelta(days=7), window=200, alarm_rate=0.01, models=(model,))
    findings.save(Storage.from_settings(settings), settings.results_bucket, results, "<p>drift</p>")


@contextmanager
def halted(service: str, settings: Settings) -> Iterator[None]:
    """Suspend a service while the context lasts."""
    pid = stack.status(settings).service(service).pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _read_two(settings: Settings) -> None:
    """A reader confirms one result and corrects another."""
    database = Database.open(settings)
    access = Access(database, settings)
    cookies = {COOKIE: access.begin("dr.a", "reader")}
    headers = {"accept": "text/html"}
    with httpx.Client(
        transport=LoopbackTransport(), base_url=settings.worklist.uri or "", cookies=cookies, headers=headers
    ) as client:
        person = access.person(client.cookies[COOKIE])
        assert person
        page = client.get("/").text
        identities = list(dict.fromkeys(link[:32] for link in page.split('href="/x/')[1:]))
        for identity, say in zip(identities, ("Normal", "Pneumonia"), strict=False):
            with database.reading() as session:
                entry = entries.find(session, identity)
            assert entry
            shown = {"record": entry.record, "label": entry.label or ""}
            form = shown | {"csrf": person.csrf, "say": say, "comment": ""}
            assert client.post(f"/x/{identity}/readings", data=form).status_code == 303


def test_the_stacks_prometheus_scrapes_every_service(watched: WatchedStack) -> None:
    """It has every alert."""
    address = stack.status(watched.settings).service("prometheus").address
    assert address
    own = Prometheus(address)
    try:
        services = {"predictor", "bridge", "trigger", "worklist", "gateway", "supervisor"}
        until(lambda: {target["metric"]["job"] for target in own.query("up == 1")} == services)
        held = {rule["name"] for group in own.get("/api/v1/rules")["groups"] for rule in group["rules"]}
        assert {"UploadsWithoutResults", "Drift", "DiskFull"} <= held
    finally:
        own.close()


def test_every_query_of_every_dashboard_has_a_result(watched: WatchedStack) -> None:
    prometheus = watched.prometheus
    until(lambda: prometheus.query(f"max(lungline_unread_results) == {UPLOADS + 1}"))
    _read_two(watched.settings)
    until(lambda: prometheus.query("lungline_drift_alarm"), 60)
    expressions = [expression for text in rendered().values() for expression in queries(text)]
    assert len(expressions) > 50
    deadline = time.monotonic() + 60
    while empty := [each for each in expressions if not prometheus.query(each)]:  # a rate needs two scrapes
        assert time.monotonic() < deadline, empty
        time.sleep(0.5)


def test_series_are_few_and_name_no_patient(watched: WatchedStack) -> None:
    names = watched.prometheus.get("/api/v1/labels")
    values = {value for name in names for value in watched.prometheus.get(f"/api/v1/label/{name}/values")}
    assert not [value for value in values if "Doe" in value]
    series = watched.prometheus.query('count({__name__=~"lungline_.*|http_.*"})')
    assert int(series[0]["value"][1]) < 1500


def test_one_trace_leads_from_the_upload_to_the_notice(watched: WatchedStack) -> None:
    services = {f"lungline-{service}" for service in ("bridge", "trigger", "predictor", "worklist")}
    names = {"upload", "deliver to predictor", "predict", "deliver to worklist", "show", "notice"}

    def whole() -> list[ReceivedSpan]:
        for identity in {span.trace for span in list(watched.spans) if span.name == "notice"}:
            trace = [span for span in list(watched.spans) if span.trace == identity]
            if {span.service for span in trace} == services and {span.name for span in trace} >= names:
                return trace
        return []

    trace = until(whole)
    by_name = {span.name: span for span in trace}
    assert by_name["deliver to predictor"].parent == by_name["upload"].span
    assert by_name["predict"].parent == by_name["deliver to predictor"].span
    assert by_name["deliver to worklist"].parent == by_name["predict"].span
    assert by_name["show"].parent == by_name["deliver to worklist"].span
    assert "Doe" not in str(watched.spans)
    identity = by_name["upload"].trace
    for service in ("bridge", "trigger", "predictor", "worklist"):
        lines = watched.home.log(service).read_text().splitlines()
        assert [line for line in lines if f'"identity": "{identity}"' in line], service


def test_alerts_fire_for_what_is_really_broken(watched: WatchedStack) -> None:
    prometheus, settings = watched.prometheus, watched.settings
    # What the fixture has broken: an old and untrained model, an unreachable receiver of notices, drift.
    prometheus.await_firing("ChampionStale", "NoticesFail", "Drift", "UnsureRate")
    producer = Producer(client_options(settings))
    producer.produce(settings.uploads_topic, b"this is no event")
    assert producer.flush(20) == 0
    prometheus.await_firing("DeadLetters")
    with halted("worklist", settings):
        _upload_again(settings, "first")
        prometheus.await_firing("ResultsNotShown")
    with halted("predictor", settings):
        _upload_again(settings, "second")
        prometheus.await_firing("UploadsWithoutResults", "PredictorNotReady")
    _damage(watched.home)
    prometheus.await_firing("ModelRefused")
    quiet = {"CertificateExpires"} if disk_is_full(settings) else {"DiskFull", "CertificateExpires"}
    assert not quiet & prometheus.fired()


def _upload_again(settings: Settings, name: str) -> None:
    storage = Storage.from_settings(settings)
    for number in range(3):
        storage.put(settings.uploads_bucket, f"Doe/{name}-{number}.jpg", jpeg(number, opacities=False))


def _damage(home: Home) -> None:
    """Point the predictor to a damaged package."""
    shutil.copytree(home.file("predictor", "packages", "1"), home.file("predictor", "packages", "2"))
    home.file("predictor", "packages", "2", "model.tflite").write_bytes(b"damaged")
    link = home.file("predictor", "next")
    link.symlink_to("packages/2")
    link.replace(home.file("predictor", "current"))


def disk_is_full(settings: Settings) -> bool:
    """Whether this machine's own disk is so full that the stack must say so."""
    usage = shutil.disk_usage(settings.home)
    return usage.free / usage.total < flow.FREE_DISK


def test_doctor_says_what_is_wrong_and_what_to_do(watched: WatchedStack) -> None:
    def run_checks() -> dict[str, Check]:
        return {check.name: check for check in flow.check_flow(stack.status(watched.settings))}

    wrong = {"model", "dead letters", "notices", "drift"} | ({"room"} if disk_is_full(watched.settings) else set())
    until(lambda: {name for name, check in run_checks().items() if not check.passed} == wrong)
    checks = run_checks()
    assert list(checks) == ["model", "uploads", "dead letters", "worklist", "notices", "drift", "room"]
    assert checks["model"].finding == "the promoted package is refused; version 1 still serves"
    assert all(check.cure for check in checks.values() if not check.passed)


def test_the_status_names_the_scrape_targets(watched: WatchedStack) -> None:
    services = stack.status(watched.settings).services
    scraped = {"predictor", "bridge", "trigger", "worklist", "gateway"}
    assert {service.name for service in services if service.metrics} == scraped
    for service in services:
        if service.metrics:
            assert httpx.get(service.metrics).status_code == 200


def test_up_says_how_to_install_prometheus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match="apt-get install prometheus"):
        stack.up(Settings(home=tmp_path / "home", prometheus=True))
    assert not (tmp_path / "home").exists()
