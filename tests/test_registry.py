import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from lungline.deployment.release import Release
from lungline.dossier.lender import Lender
from lungline.errors import (
    ModelNotReady,
    PackageError,
    PromotionConflict,
    PromotionRefused,
    RegistryError,
    RegistryUnavailable,
)
from lungline.package.card import CARD, CodeFacts, DataFacts, amend_card
from lungline.package.package import Package, Prediction
from lungline.promotion import promotion
from lungline.promotion.inspection import prove
from lungline.promotion.promotion import Promotion, promote, rollback
from lungline.registry import mlflow_client, registration, tracking
from lungline.registry.runs import run_facts
from lungline.registry.versions import Registry
from lungline.settings import Settings, load_settings
from lungline.storage.s3 import Storage
from tests.support.dossier_lending import serving

METRICS = {"auc": 0.98, "accuracy": 0.93}


@dataclass
class Place:
    """A deployment in memory: the second implementation that the protocol asks for, with faults on demand."""

    accepts_synthetic: bool = True
    version: str | None = None
    deployed: list[str] = field(default_factory=list)
    fault: BaseException | None = None
    remembers: str | None = None
    release: Release | None = None
    damaged: bool = False

    def deploy(self, package_uri: str, version: str, release: Release | None = None) -> str:
        assert package_uri.endswith(f"/{version}/")
        self.release = release
        if self.fault is not None:
            raise self.fault
        self.deployed.append(version)
        self.version = version
        return f"Version {version} serves."

    def serving(self) -> str | None:
        return self.version

    def intact(self, version: str, sha256: str) -> bool:
        return self.version == version and not self.damaged

    def anchor(self) -> str | None:
        return self.remembers

    def keep_anchor(self, anchor: str) -> None:
        self.remembers = anchor


@pytest.fixture
def settings(services: dict[str, str], request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of a registry of its own."""
    name = f"model-{abs(hash(request.node.nodeid))}"
    return load_settings({**services, "model_name": name, "experiment": name, "home": str(tmp_path / "home")})


def settled_run(settings: Settings, folder: Path, *, gate: bool = True) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    data = DataFacts(name="phantom", digest="d" * 64, synthetic=True)
    tracking.new_record(settings, data, CodeFacts(version="0.1.0")).save(folder)
    run = tracking.settle(settings, folder)
    if gate:
        tracking.note(settings, run, tags={tracking.GATE: "passed", tracking.VERDICT: "All 9 rules passed."})
    return run


def register(settings: Settings, package: Path, tmp_path: Path, *, gate: bool = True) -> str:
    run_id = settled_run(settings, tmp_path / os.urandom(4).hex(), gate=gate)
    return registration.register(
        Registry(settings), package, run_id=run_id, pipeline_run="pipe/7", metrics=METRICS
    ).version


def promoted(settings: Settings, place: Place, version: str | None = None) -> Promotion:
    return promote(version, by="Ada", reason="better", settings=settings, deployment=place)


def test_a_registered_package_is_the_challenger_with_provenance(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path
) -> None:
    """A registered package is the challenger and knows where it comes from."""
    registry = Registry(settings)
    run_id = settled_run(settings, tmp_path / "record")
    registered = registration.register(registry, packages[0], run_id=run_id, pipeline_run="pipe/7", metrics=METRICS)
    assert registered.new
    assert registered.package == f"s3://lungline-models/{settings.model_name}/{registered.version}/"
    assert registry.resolve(None) == registry.resolve("challenger") == registered.version
    card = registry.fetch(registered.version, tmp_path / "fetched").card
    assert (card.version, card.mlflow_run_id, card.pipeline_run) == (registered.version, run_id, "pipe/7")
    assert card.metrics == METRICS
    (version,) = registry.versions()
    assert version.aliases == ("challenger",)
    assert version.synthetic
    assert version.mlflow_run == run_id
    assert version.tags["test_auc"] == "0.9800"
    assert registry.champion() is None


def test_mlflow_loads_a_version_and_it_answers_as_serving_does(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path
) -> None:
    version = register(settings, packages[0], tmp_path)
    script = (
        "import json, sys, numpy, mlflow\n"
        "loaded = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "rows = loaded.predict(numpy.full((2, 32, 32, 1), 0.5, numpy.float32))\n"
        "print(json.dumps([row['probability'] for row in rows]))\n"
    )
    command = [sys.executable, "-c", script, f"models:/{settings.model_name}@challenger"]
    environment = os.environ | mlflow_client.environment(settings) | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120, env=environment)
    package = Registry(settings).fetch(version, tmp_path / "fetched")
    expected = package.predict(np.full((2, 32, 32, 1), 0.5, np.float32))
    assert json.loads(done.stdout.splitlines()[-1]) == [prediction.probability for prediction in expected]


def test_the_package_of_a_run_is_registered_once(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path
) -> None:
    registry = Registry(settings)
    run_id = settled_run(settings, tmp_path / "record")
    first = registration.register(registry, packages[0], run_id=run_id, pipeline_run="a", metrics=METRICS)
    again = registration.register(registry, packages[0], run_id=run_id, pipeline_run="b", metrics=METRICS)
    assert (again.version, again.new) == (first.version, False)
    assert len(registry.versions()) == 1


def test_a_registration_that_broke_off_is_done_anew(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path
) -> None:
    registry = Registry(settings)
    run_id = settled_run(settings, tmp_path / "record")
    first = registration.register(registry, packages[0], run_id=run_id, pipeline_run="a", metrics=METRICS).version
    registry.storage.delete(registry.bucket, f"{settings.model_name}/{first}/{CARD}")
    again = registration.register(registry, packages[0], run_id=run_id, pipeline_run="a", metrics=METRICS)
    assert again.new
    assert [version.version for version in registry.versions()] == [again.version]
    assert registry.fetch(again.version, tmp_path / "fetched").card.version == again.version


def test_version_numbers_of_a_lost_registry_stay_taken(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path
) -> None:
    """A number that a lost registry has used is never used again."""
    registry = Registry(settings)
    registry.storage.put(registry.bucket, f"{settings.model_name}/1/{CARD}", b"of a registry that was lost")
    assert register(settings, packages[0], tmp_path) == "2"


def test_a_version_that_is_not_there_is_refused_by_name(settings: Settings) -> None:
    registry = Registry(settings)
    for name in ("7", "v7", "latest", ""):
        with pytest.raises(RegistryError, match="There is no version"):
            registry.resolve(name)
    for name in ("champion", "challenger", None):
        with pytest.raises(RegistryError, match=f"no {name or 'challenger'} of {settings.model_name} yet"):
            registry.resolve(name)


def test_a_damaged_package_is_not_registered(settings: Settings, packages: tuple[Path, Path], tmp_path: Path) -> None:
    broken = shutil.copytree(packages[0], tmp_path / "broken")
    (broken / "model.tflite").write_bytes(b"")
    with pytest.raises(PackageError, match=r"model\.tflite"):
        register(settings, broken, tmp_path)


def test_promotion_moves_the_champion_and_the_history_answers_for_it(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path
) -> None:
    registry, place = Registry(settings), Place()
    first = register(settings, packages[0], tmp_path)
    done = promoted(settings, place)
    assert (done.version, done.replaced, done.changed, place.version) == (first, None, True, first)
    second = register(settings, packages[1], tmp_path)
    assert promoted(settings, place, second).replaced == first
    assert registry.champion() == registry.resolve("champion") == second
    assert {version.version: version.aliases for version in registry.versions()} == {second: ("champion",), first: ()}
    with pytest.raises(RegistryError, match="no challenger"):
        registry.resolve(None)
    entries = registry.verified({}).entries
    assert [(entry.act, entry.version) for entry in entries] == [
        *(("began", first), ("promoted", first)),
        *(("began", second), ("promoted", second)),
    ]
    last = entries[-1]
    assert (last.by, last.reason, last.facts.metrics, last.facts.data_digest) == ("Ada", "better", METRICS, "0" * 64)
    assert last.facts.pipeline_run == "pipe/7"
    assert registry.history.at(entries[1].at) == entries[1]


def test_promoting_the_champion_again_changes_nothing_but_mends_what_lags(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path
) -> None:
    registry, place = Registry(settings), Place()
    version = register(settings, packages[0], tmp_path)
    promoted(settings, place)
    client = mlflow_client.connect(settings)
    client.delete_registered_model_alias(settings.model_name, "champion")
    place.version = None
    done = promoted(settings, place, version)
    assert not done.changed
    assert place.version == version
    assert registry.versions()[0].aliases == ("champion",)
    assert len(registry.verified({}).entries) == 2


def test_rollback_walks_back_through_the_champions(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path
) -> None:
    registry, place = Registry(settings), Place()
    versions = [register(settings, packages[index % 2], tmp_path) for index in range(3)]
    for version in versions:
        promoted(settings, place, version)
    for expected in (versions[1], versions[0]):
        done = rollback(by="Grace", reason="worse on ward 7", settings=settings, deployment=place)
        assert (done.version, place.version, registry.champion()) == (expected, expected, expected)
    with pytest.raises(PromotionRefused, match="no earlier champion"):
        rollback(by="Grace", reason="again", settings=settings, deployment=place)
    last = registry.verified({}).entries[-1]
    assert (last.kind, last.by, last.reason) == ("rollback", "Grace", "worse on ward 7")


def test_a_rollback_works_without_mlflow(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollback needs no mlflow and says that the alias lags."""
    monkeypatch.setattr(mlflow_client, "ANSWER_SECONDS", 0.0)
    place = Place()
    versions = [register(settings, package, tmp_path) for package in packages]
    for version in versions:
        promoted(settings, place, version)
    cut_off = settings.model_copy(update={"mlflow_uri": "http://127.0.0.1:1"})
    with pytest.raises(RegistryUnavailable, match=f"Version {versions[0]} is in service, but MLflow's alias"):
        rollback(by="Grace", reason="incident", settings=cut_off, deployment=place)
    assert place.version == Registry(settings).champion() == versions[0]
    promoted(settings, place, versions[0])
    assert {entry.version: entry.aliases for entry in Registry(settings).versions()}[versions[0]] == ("champion",)


@pytest.mark.parametrize(("by", "reason"), [("", "better"), ("Ada", " ")])
def test_a_change_without_a_person_or_a_reason_is_refused(settings: Settings, by: str, reason: str) -> None:
    for change in (lambda **given: promote("1", **given), rollback):
        with pytest.raises(PromotionRefused, match="nothing was given"):
            change(by=by, reason=reason, settings=settings, deployment=Place())


def test_a_model_of_phantoms_stays_on_the_laptop(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path
) -> None:
    register(settings, packages[0], tmp_path)
    cluster = Place(accepts_synthetic=False)
    with pytest.raises(PromotionRefused, match="trained on drawn phantoms"):
        promoted(settings, cluster)
    assert cluster.deployed == []
    assert Registry(settings).verified({}).entries == ()


def test_a_package_that_was_changed_after_registration_is_not_promoted(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path
) -> None:
    registry, place = Registry(settings), Place()
    version = register(settings, packages[0], tmp_path)
    registry.storage.put(registry.bucket, f"{settings.model_name}/{version}/model.tflite", b"damage")
    with pytest.raises(PackageError, match="damaged"):
        promoted(settings, place)
    other = shutil.copytree(packages[1], tmp_path / "other")
    amend_card(other, version=version)
    registry.storage.upload_folder(other, registry.bucket, f"{settings.model_name}/{version}")
    with pytest.raises(PackageError, match="not the one that was registered"):
        promoted(settings, place)
    assert place.deployed == []
    assert registry.champion() is None


def test_a_package_that_answers_nonsense_is_not_proven(packages: tuple[Path, Path]) -> None:
    package = Package.load(packages[0])
    prove(package)

    class Nonsense(Package):
        def predict(self, inputs: np.ndarray) -> list[Prediction]:
            return [replace(prediction, probability=float("nan")) for prediction in super().predict(inputs)]

    with pytest.raises(PackageError, match="does not answer: its probability for a drawn chest is nan"):
        prove(Nonsense(package.folder, package.card, package.sha256, (package.folder / "model.tflite").read_bytes()))


@pytest.mark.parametrize("fault", [ModelNotReady("The predictor slept."), KeyboardInterrupt()])
def test_a_failed_deployment_leaves_the_old_champion(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path, fault: BaseException
) -> None:
    """A deployment that fails leaves the old champion and a failed entry."""
    registry, place = Registry(settings), Place()
    old = register(settings, packages[0], tmp_path)
    promoted(settings, place)
    register(settings, packages[1], tmp_path)
    place.fault = fault
    with pytest.raises(type(fault)):
        promoted(settings, place)
    assert place.version == registry.champion() == old
    last = registry.verified({}).entries[-1]
    assert (last.act, last.outcome) == ("failed", str(fault) or "KeyboardInterrupt")
    place.fault = None
    assert promoted(settings, place).replaced == old


def test_one_of_two_concurrent_promotions_wins(settings: Settings, packages: tuple[Path, Path], tmp_path: Path) -> None:
    """Of two promotions at once one wins; the other raises."""
    versions = [register(settings, package, tmp_path) for package in packages]
    place, together = Place(), Barrier(2)

    class Slow(Place):
        def deploy(self, package_uri: str, version: str, release: Release | None = None) -> str:
            together.wait(30)
            return place.deploy(package_uri, version, release)

    def attempt(version: str) -> Promotion | PromotionConflict:
        try:
            return promote(version, by=f"promoter of {version}", reason="race", settings=settings, deployment=Slow())
        except PromotionConflict as exc:
            together.wait(30)  # the winner deploys only after the other has failed
            return exc

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(attempt, versions))
    (winner,) = (outcome for outcome in outcomes if isinstance(outcome, Promotion))
    (loser,) = (outcome for outcome in outcomes if isinstance(outcome, PromotionConflict))
    assert f"promoter of {winner.version}" in str(loser)
    assert place.deployed == [winner.version]
    assert Registry(settings).champion() == winner.version


def test_an_unfinished_promotion_blocks_until_its_lease_ends(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A promotion that nobody finished stands in the way until its lease ends."""
    registry, place = Registry(settings), Place()
    old = register(settings, packages[0], tmp_path)
    promoted(settings, place)
    new = register(settings, packages[1], tmp_path)
    head = registry.history.head()
    assert head is not None
    left = {"kind": "promotion", "version": new, "by": "a process that died", "reason": "x", "facts": head.facts}
    registry.append(head, act="began", champion=old, **left)
    place.version = new  # it died after the switch and before the entry
    with pytest.raises(PromotionConflict, match="a process that died is putting"):
        promoted(settings, place)
    monkeypatch.setattr(promotion, "LEASE", timedelta(0))
    promoted(settings, place)
    assert place.deployed == [old, old, new], "the champion comes back before the next change begins"
    acts = [(entry.act, entry.by) for entry in registry.verified({}).entries]
    assert acts[-3:] == [("failed", "a process that died"), ("began", "Ada"), ("promoted", "Ada")]
    assert "closed by Ada" in registry.history.entries()[-3].outcome


def test_the_old_champion_returns_when_the_store_fails(
    settings: Settings, packages: tuple[Path, Path], tmp_path: Path
) -> None:
    """A store that fails before the last entry brings the old champion back."""
    registry, place = Registry(settings), Place()
    old = register(settings, packages[0], tmp_path)
    promoted(settings, place)
    new = register(settings, packages[1], tmp_path)

    class Overtaken(Place):
        """While it deploys, somebody else closes the promotion as abandoned."""

        def deploy(self, package_uri: str, version: str, release: Release | None = None) -> str:
            head = registry.history.head()
            if head is not None and head.act == "began":
                values = head.model_dump(include={"kind", "version", "champion", "by", "reason", "facts"})
                registry.append(head, act="failed", outcome="Nobody finished it.", **values)
            return place.deploy(package_uri, version, release)

    with pytest.raises(PromotionConflict, match="has tried to put"):
        promote(new, by="Ada", reason="slow", settings=settings, deployment=Overtaken(remembers=place.remembers))
    assert place.version == registry.champion() == old


def test_a_run_reaches_a_server_that_starts_late(settings: Settings, tmp_path: Path) -> None:
    """The record of a run reaches a server that knew nothing of it."""
    folder = tmp_path / "record"
    folder.mkdir()
    data = DataFacts(name="phantom", digest="d" * 64, synthetic=True, counts={"train": 4})
    record = tracking.new_record(settings, data, CodeFacts(version="0.1.0", commit="c" * 40, dirty=False))
    epochs = ({"number": 1.0, "loss": 0.7, "seconds": 1.0}, {"number": 2.0, "loss": 0.5, "seconds": 2.0})
    record.model_copy(update={"epochs": epochs}).save(folder)
    (folder / "network.keras").write_bytes(b"weights")
    run_id = tracking.settle(settings, folder)
    assert tracking.settle(settings, folder) == run_id, "a second time it is there already"
    client = mlflow_client.connect(settings)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["data_digest"] == "d" * 64
    assert run.data.tags["mlflow.source.git.commit"] == "c" * 40
    assert run.data.params["train.seed"] == "7"
    assert [(point.step, point.value) for point in client.get_metric_history(run_id, "loss")] == [(1, 0.7), (2, 0.5)]
    assert [item.path for item in client.list_artifacts(run_id, "model")] == ["model/network.keras"]
    assert run.inputs is not None
    assert run.inputs.dataset_inputs[0].dataset.digest == "d" * 32
    storage = Storage.from_settings(settings)
    assert any(info.key.endswith("model/network.keras") for info in storage.list("lungline-mlflow"))


def test_a_run_can_be_looked_up_by_its_id(settings: Settings, tmp_path: Path) -> None:
    run_id = settled_run(settings, tmp_path / "record")
    run = run_facts(settings, run_id)
    assert run
    assert (run.status, run.params["train.seed"]) == ("FINISHED", "7")
    assert run.tags[tracking.VERDICT] == "All 9 rules passed."
    assert run.started
    assert run.ended
    assert run.started <= run.ended
    assert run.address.endswith(f"/runs/{run_id}")
    assert run_facts(settings, "0" * 32) is None
    with serving(settings) as address:
        assert Lender(address).run(run_id) == run
        assert Lender(address).run("0" * 32) is None


def test_a_server_that_is_away_costs_the_training_nothing(settings: Settings, tmp_path: Path) -> None:
    @dataclass
    class Epoch:
        number: int
        loss: float
        seconds: float

    data = DataFacts(name="phantom", digest="d" * 64, synthetic=True)
    away = settings.model_copy(update={"mlflow_uri": "http://127.0.0.1:1"})
    started = datetime.now(UTC)
    with tracking.Recorder(away, tracking.new_record(away, data, CodeFacts(version="0.1.0"))) as recorder:
        recorder.epoch(Epoch(1, 0.5, 0.1))
    assert datetime.now(UTC) - started < timedelta(seconds=30)
    recorder.record.save(tmp_path)
    run_id = tracking.settle(settings, tmp_path)
    assert mlflow_client.connect(settings).get_run(run_id).data.metrics == {"loss": 0.5}


def test_epochs_reach_a_running_server_live(settings: Settings, tmp_path: Path) -> None:
    """Epochs reach a server that is there while the run goes on."""

    @dataclass
    class Epoch:
        number: int
        loss: float
        seconds: float

    data = DataFacts(name="phantom", digest="d" * 64, synthetic=True)
    with tracking.Recorder(settings, tracking.new_record(settings, data, CodeFacts(version="0.1.0"))) as recorder:
        recorder.epoch(Epoch(1, 0.5, 0.1))
        client = mlflow_client.connect(settings)
        deadline = datetime.now(UTC) + timedelta(seconds=30)
        while not (live := live_metrics(client, settings)) and datetime.now(UTC) < deadline:
            pass
    assert live == {"loss": 0.5}


def live_metrics(client: object, settings: Settings) -> dict[str, float]:
    from mlflow import MlflowClient

    assert isinstance(client, MlflowClient)
    experiment = client.get_experiment_by_name(settings.experiment)
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return runs[0].data.metrics if runs else {}


def test_without_a_server_the_sentence_says_how_to_get_one(settings: Settings) -> None:
    with pytest.raises(RegistryUnavailable, match="lungline up"):
        Registry(settings.model_copy(update={"mlflow_uri": None})).versions()
