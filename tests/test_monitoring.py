import io
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry, generate_latest
from typer.testing import CliRunner

from benchmarks.drift import Change, Images, adult, blurred, brighter, saved
from cli.main import app
from laptop.supervision.monitoring import Monitoring
from lungline.datasets.phantom import jpeg
from lungline.diagnosis.diagnoser import Diagnoser
from lungline.errors import PackageError
from lungline.home import Home
from lungline.imaging.decoding import decode
from lungline.imaging.statistics import STATISTICS, ImageStatistics, compute_statistics
from lungline.monitoring import findings, rule
from lungline.monitoring.comparison import TESTS, ComparedResult, compare, sample
from lungline.monitoring.findings import proportion
from lungline.monitoring.gauges import DriftCollector, families
from lungline.monitoring.monitor import monitor
from lungline.monitoring.reference import FILE, add_reference, fetch_reference, measure
from lungline.package.package import Package
from lungline.results import record_store
from lungline.results.records import ModelFacts, OperatingPoint, ResultRecord, Times, UploadFacts
from lungline.settings import Settings, load_settings
from lungline.storage.s3 import Storage
from tests.support.object_store import ACCESS_KEY, SECRET_KEY, running_store
from tests.support.tiny_package import write_tiny_package

SETTINGS = Settings()
RESULTS, MODELS = SETTINGS.results_bucket, SETTINGS.models_bucket
# Half of what is compared at a time by default: what shows in so few shows in 200.
WINDOW = 100
UNCHANGED: Change = lambda image: image  # noqa: E731 - one of several
CHANGES: dict[str, Change] = {
    "exposure, 10 grey levels": brighter(10),
    "another scanner's blur, 1 pixel": blurred(224 / 96),
    "adults, 10 % larger": adult(0.9, 1.0, 1.0),
    "adults, on a wider film with more pixels": adult(1.0, 1.15, 1.5),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages") / "1"
    write_tiny_package(folder)
    return folder


@pytest.fixture(scope="module")
def images(folder: Path) -> Images:
    files = [jpeg(seed, opacities=seed % 2 == 0, size=96) for seed in range(220)]
    cases = [(seed % 2 == 0, f"person{seed}", data) for seed, data in enumerate(files)]
    return Images(folder, cases, {"none": UNCHANGED, **CHANGES})


def share_of_alarms(images: Images, change: str, runs: int) -> float:
    alarms = 0
    for run in range(runs):
        reference_rows, live_rows = images.split(np.random.default_rng(run), WINDOW)
        reference = sample(images.results["none"][row] for row in reference_rows)
        window = sample(images.results[change][row] for row in live_rows[:WINDOW])
        alarms += bool(compare(reference, window, 0.01, seed=run).alarms)
    return alarms / runs


def test_unchanged_data_rarely_raise_an_alarm(images: Images) -> None:
    """At most one in twenty windows of unchanged data raises one."""
    assert share_of_alarms(images, "none", 100) <= 0.05


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_images_is_detected_within_one_window(images: Images, change: str) -> None:
    assert share_of_alarms(images, change, 3) == 1


def test_similar_images_of_one_patient_raise_no_alarm() -> None:
    def drawn(rng: np.random.Generator, patients: int) -> Iterator[ComparedResult]:
        for patient in range(patients):
            habit = rng.normal()
            for _ in range(5):
                values = {name: float(habit + 0.1 * rng.normal()) for name in STATISTICS}
                yield ComparedResult(
                    "Normal", 1 / (1 + np.exp(-habit)), ImageStatistics(statistics=values), f"{rng}{patient}"
                )

    alarms = []
    for run in range(30):
        rng = np.random.default_rng(run)
        here, there = sample(drawn(rng, 20)), sample(drawn(rng, 20))
        alarms.append(bool(compare(here, there, 0.05, seed=run).alarms))
    assert np.mean(alarms) <= 0.2


def test_labels_unsure_and_refusals_have_their_own_tests() -> None:
    """Swapped labels, more unsure results and more refusals each raise the alarm of their own test."""

    def some(**counts: int) -> list[ComparedResult]:
        risk = {"Normal": 0.1, "Unsure": 0.5, "Pneumonia": 0.9, "Refused": None}
        return [ComparedResult(label, risk[label]) for label, count in counts.items() for _ in range(count)]

    usual = sample(some(Normal=60, Unsure=10, Pneumonia=130))
    swapped = compare(usual, sample(some(Normal=130, Unsure=10, Pneumonia=60)), 0.01)
    assert {"score", "labels"} <= set(swapped.alarms)
    assert "unsure" in compare(usual, sample(some(Normal=50, Unsure=50, Pneumonia=100)), 0.01).alarms
    assert compare(usual, sample(some(Normal=57, Unsure=10, Pneumonia=123, Refused=20)), 0.01).alarms == ("refusals",)
    assert compare(usual, usual, 0.01).alarms == ()
    assert compare(usual, sample(some(Normal=5)), 0.01).tests == {}


def test_statistics_tell_exposure_blur_and_framing() -> None:
    plain = jpeg(1, opacities=True)
    changes = (UNCHANGED, brighter(20), blurred(2), adult(1.0, 1.15, 1.5))
    usual, bright, soft, wide = (
        compute_statistics(decode(changed(plain, change)), 1000).statistics for change in changes
    )
    assert tuple(usual) == STATISTICS
    assert bright["mean"] > usual["mean"] + 10
    assert soft["grain"] < usual["grain"]
    assert wide["aspect"] == pytest.approx(1.15, abs=0.01)
    assert wide["side"] == pytest.approx(usual["side"] + np.log2(1.5), abs=0.01)


def changed(data: bytes, change: Change) -> bytes:
    return saved(change(Image.open(io.BytesIO(data))))


def test_a_share_has_wilsons_interval() -> None:
    share = proportion(9, 10)
    assert share is not None
    assert (share.low, share.high) == (pytest.approx(0.596, abs=1e-3), pytest.approx(0.982, abs=1e-3))
    assert proportion(0, 0) is None


def test_a_package_carries_its_reference_like_any_other_file(folder: Path, tmp_path: Path) -> None:
    write_tiny_package(tmp_path / "1")
    files = [jpeg(seed, opacities=False, size=64) for seed in range(3)] + [b"not an image"]
    reference = measure(
        Package.load(tmp_path / "1"), [("a", files[0]), ("a", files[1]), *((None, x) for x in files[2:])], "val"
    )
    card = add_reference(tmp_path / "1", reference)
    assert FILE in card.files
    assert Package.load(tmp_path / "1").card == card
    assert reference.patients == (0, 0, 1, 2)
    assert reference.labels[3] == "Refused"
    online = Diagnoser(Package.load(folder)).diagnose(files[0])
    assert (online.statistics, online.label) == (reference.observed[0], reference.labels[0])
    (tmp_path / "1" / FILE).write_text("{}")
    with pytest.raises(PackageError, match=r"reference\.json .* is damaged"):
        Package.load(tmp_path / "1")


# ------------------------------------------------------------------------------------------------ in the object store


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, folder: Path, images: Images) -> Iterator[Storage]:
    """Version 1 has a reference and 110 usual results, then 100 brighter ones; version 0 is older than monitoring."""
    with running_store(tmp_path_factory.mktemp("store"), RESULTS, MODELS) as storage:
        package = tmp_path_factory.mktemp("packages") / "1"
        write_tiny_package(package)
        files = [(None, jpeg(seed, opacities=seed % 2 == 0, size=96)) for seed in range(1000, 1100)]
        add_reference(package, measure(Package.load(package), files, "val"))
        storage.upload_folder(package, MODELS, "pneumonia/1")
        storage.upload_folder(folder, MODELS, "pneumonia/0")
        usual = Diagnoser(Package.load(package))
        start = datetime.now(UTC) - timedelta(hours=1)
        for place in range(110):
            save(
                storage,
                "1",
                start + timedelta(seconds=place),
                usual,
                jpeg(place + 2000, opacities=place % 2 == 0, size=96),
            )
        for place in range(60):
            save(storage, "0", start + timedelta(seconds=place), usual, jpeg(place + 2000, opacities=True, size=96))
        yield storage


def save(storage: Storage, version: str, at: datetime, diagnoser: Diagnoser, data: bytes) -> str:
    diagnosis = diagnoser.diagnose(data, heatmap=False)
    identity = sha256(f"{at}{version}".encode()).hexdigest()[:32]
    record = ResultRecord(
        id=f"{identity}-{version}",
        outcome="judged",
        label=diagnosis.label,
        probability=diagnosis.probability,
        thresholds=OperatingPoint(low=0.3, high=0.7, operating=0.5),
        model=ModelFacts(name="pneumonia", version=version, run_id=None, sha256="0", synthetic=True),
        upload=UploadFacts(
            identity=identity,
            bucket="xray-uploads",
            key=f"Doe-Jane/{identity}",
            version_id=None,
            etag="e",
            sequencer=None,
        ),
        times=Times(uploaded=at, received=at, done=at),
        image_statistics=diagnosis.statistics,
    )
    record_store.save(storage, RESULTS, record)
    return identity


def read(storage: Storage, identity: str, verdict: str, probability: float, number: int) -> None:
    reading = {
        "schema_version": 1,
        "id": str(number),
        "identity": identity,
        "record": "r",
        "version": "1",
        "label": "Unsure",
        "probability": probability,
        "action": "corrected",
        "verdict": verdict,
        "comment": "",
        "reader": "Dr. Roe",
        "at": datetime.now(UTC).isoformat(),
    }
    storage.put(RESULTS, f"readings/{identity[:2]}/{identity}/{number}.json", json.dumps(reading).encode())


def test_live_data_are_compared_by_version_and_reported_once(storage: Storage, folder: Path, images: Images) -> None:
    settings = load_settings({"monitor.window": 100})
    calm = monitor(settings, storage)
    assert [model.version for model in calm.models] == ["1", "0"]
    newer, older = calm.models
    assert (newer.reference, newer.results, len(newer.windows), newer.drifted) == (100, 110, 1, False)
    assert older.reason == "The package of version 0 has no reference: its release had no monitoring."
    assert findings.save(storage, RESULTS, calm, "") == []

    diagnoser = Diagnoser(Package.load(folder))
    start, identity = datetime.now(UTC), ""
    for place in range(100):
        bright = changed(jpeg(place + 3000, opacities=place % 2 == 0, size=96), brighter(20))
        identity = save(storage, "1", start + timedelta(seconds=place), diagnoser, bright)
        if place < 20:
            read(
                storage,
                identity,
                "Pneumonia" if place < 10 else "Normal",
                0.9 if place in {0, 1, 2, 15} else 0.2,
                place,
            )
    read(storage, identity, "Not usable", 0.2, 99)
    results = monitor(settings, storage)
    (changed_model, _) = results.models
    assert results.drifted == ("1",)
    assert [window.alarm for window in changed_model.windows] == [False, True]
    assert "images" in changed_model.windows[-1].comparison.alarms
    mean = changed_model.windows[-1].comparison.statistics["mean"]
    assert mean.field > mean.reference + 10
    feedback = changed_model.feedback
    assert feedback is not None
    assert feedback.readings == 20
    assert feedback.sensitivity is not None
    assert feedback.specificity is not None
    assert (feedback.sensitivity.count, feedback.sensitivity.total) == (3, 10)
    assert (feedback.specificity.count, feedback.specificity.total) == (9, 10)

    assert findings.save(storage, RESULTS, results, "page") == ["1"]
    assert findings.save(storage, RESULTS, results, "page") == []
    (event,) = [json.loads(storage.get(RESULTS, entry.key).data) for entry in storage.list(RESULTS, findings.EVENTS)]
    assert (event["type"], event["subject"], event["data"]["results"]) == ("org.lungline.drift.v1", "1", 100)


def test_two_monitors_at_once_report_a_drift_once(storage: Storage) -> None:
    latest = findings.latest(storage, RESULTS)
    assert latest is not None
    storage.delete(RESULTS, findings.LATEST)  # as if neither had seen the other's findings
    assert findings.save(storage, RESULTS, latest, "page") == []


def use(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the command line at the store."""
    for name, value in {
        "DEPLOYMENT": "cluster",
        "S3_ENDPOINT": storage.endpoint or "",
        "S3_ACCESS_KEY": ACCESS_KEY,
        "S3_SECRET_KEY": SECRET_KEY,
        "MONITOR__WINDOW": "100",
        "MODELS_BUCKET": MODELS,
    }.items():
        monkeypatch.setenv(f"LUNGLINE_{name}", value)


def gauges(storage: Storage) -> str:
    """The gauges as Prometheus reads them."""
    registry = CollectorRegistry()
    registry.register(DriftCollector(storage, RESULTS))
    return generate_latest(registry).decode()


def test_the_command_shows_stores_and_reports(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(storage, monkeypatch)
    page = tmp_path / "report.html"
    done = CliRunner().invoke(app, ["monitor", "--since", "2d", "--report", str(page)])
    assert done.exit_code == 0, done.output
    assert "The latest results differ from the reference (images" in done.stdout
    text = page.read_text()
    assert "<script" not in text
    assert "http" not in text
    assert "Doe-Jane" not in text
    assert "Roe" not in text
    assert storage.get(RESULTS, findings.REPORT).data.decode() == text
    failed = CliRunner().invoke(app, ["monitor", "--fail-on-drift", "--json"])
    assert (failed.exit_code, json.loads(failed.stdout)["drifted"]) == (3, ["1"])


def test_prometheus_gets_the_latest_findings_and_no_patient(storage: Storage) -> None:
    text = gauges(storage)
    assert 'lungline_drift_alarm{model_version="1"} 1.0' in text
    assert 'lungline_drift_reference{model_version="0"} 0.0' in text
    assert 'lungline_drift_windows{model_version="1",state="alarm"} 1.0' in text
    assert 'lungline_field_sensitivity{bound="value",model_version="1"} 0.3' in text
    assert "Doe-Jane" not in text
    assert len(text.splitlines()) < 150


def test_a_version_that_was_replaced_raises_no_alarm_any_more(storage: Storage) -> None:
    latest = findings.latest(storage, RESULTS)
    assert latest is not None
    old = latest.models[0]
    assert old.drifted
    later = [
        window.model_copy(update={"start": window.start + timedelta(hours=1), "end": window.end + timedelta(hours=1)})
        for window in old.windows
    ]
    new = old.model_copy(update={"version": "2"})
    after = latest.model_copy(update={"models": (new.model_copy(update={"windows": (later[-1],)}), old)})
    assert after.drifted == ("2",)
    beside = latest.model_copy(update={"models": (new.model_copy(update={"windows": (old.windows[-1],)}), old)})
    assert beside.drifted == ("2", "1")


def test_the_page_on_drift_names_every_gauge_test_and_file() -> None:
    text = (Path(__file__).parent.parent / "docs/drift.md").read_text()
    names = {family.name for family in families(None)} | {f"`{name}`" for name in TESTS}
    assert [
        name for name in (*names, FILE, findings.LATEST, findings.REPORT, findings.EVENTS) if name not in text
    ] == []


def test_an_unreadable_reading_is_shown_not_silent(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A reading record of another schema is counted on the page, in the command's output and as a metric."""
    use(storage, monkeypatch)
    assert monitor(load_settings(), storage).unreadable_readings == 0
    drifted = {"schema_version": 9, "id": "1", "identity": "ab" * 16, "model": "1", "opinion": "Pneumonia"}
    key = f"readings/ab/{'ab' * 16}/drifted.json"
    storage.put(RESULTS, key, json.dumps(drifted).encode())
    before = findings.latest(storage, RESULTS)
    try:
        page = tmp_path / "report.html"
        done = CliRunner().invoke(app, ["monitor", "--since", "2d", "--report", str(page)])
        sentence = "1 reading record could not be read"
        assert done.exit_code == 0, done.output
        assert sentence in done.stdout
        assert sentence in page.read_text()
        assert "lungline_readings_unreadable 1.0" in gauges(storage)
    finally:
        storage.delete(RESULTS, key)
        if before:
            findings.save(storage, RESULTS, before, "page")


def test_enough_windows_with_an_alarm_are_a_cause(storage: Storage) -> None:
    latest = findings.latest(storage, RESULTS)
    assert rule.drift(None, "1", 1) == (False, "Monitoring has not run yet.")
    assert not rule.drift(latest, "2", 1)[0]
    assert not rule.drift(latest, "1", 2)[0]
    due, why = rule.drift(latest, "1", 1)
    assert due
    assert why.startswith("The latest window of version 1 differs from")


def test_one_claim_at_a_time_and_none_within_the_cooldown(storage: Storage) -> None:
    """Of many monitors that see a cause at once, one starts a run, and none does within the cooldown."""
    now, week = datetime.now(UTC), timedelta(days=7)
    with ThreadPoolExecutor(4) as pool:
        claims = [
            claim for claim in pool.map(lambda _: rule.claim(storage, RESULTS, "why", week, now), range(8)) if claim
        ]
    assert [claim.number for claim in claims] == [1]
    assert rule.claim(storage, RESULTS, "why", week, now + timedelta(days=6)) is None
    later = rule.claim(storage, RESULTS, "again", week, now + timedelta(days=8))
    assert later is not None
    assert rule.last_claim(storage, RESULTS) == later
    assert (later.number, later.why) == (2, "again")


def test_the_laptop_stack_monitors_and_leaves_nothing_running(storage: Storage, tmp_path: Path) -> None:
    given = {"s3_endpoint": storage.endpoint, "s3_access_key": ACCESS_KEY, "s3_secret_key": SECRET_KEY}
    settings = load_settings({**given, "home": str(tmp_path), "monitor.interval_minutes": 0.001, "monitor.window": 100})
    before = findings.latest(storage, RESULTS)
    assert before is not None
    watching = Monitoring(Home.make(tmp_path), settings)
    watching.start()
    deadline = time.monotonic() + 120
    try:
        while (latest := findings.latest(storage, RESULTS)) is None or latest.at == before.at:
            assert time.monotonic() < deadline, Home(tmp_path).log("monitoring").read_text()
            time.sleep(0.1)
    finally:
        watching.stop()
    assert latest.drifted == before.drifted
    left = [
        process
        for process in psutil.Process().children(recursive=True)
        if "laptop.retraining" in " ".join(process.cmdline())
    ]
    assert left == []


def test_a_missing_or_damaged_package_is_reported(storage: Storage) -> None:
    card, reference = fetch_reference(storage, MODELS, "pneumonia/7")
    assert (card, reference) == (None, None)
    storage.put(MODELS, "pneumonia/8/card.json", storage.get(MODELS, "pneumonia/1/card.json").data)
    storage.put(MODELS, f"pneumonia/8/{FILE}", b"{}")
    with pytest.raises(PackageError, match="its sha256 is not the card's"):
        fetch_reference(storage, MODELS, "pneumonia/8")
