"""A version for a site passes the gate, and goes into service by promotion like every other."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lungline.diagnosis.diagnoser import Diagnoser
from lungline.errors import PromotionRefused, RegistryError
from lungline.evaluation.scoring import Scores
from lungline.monitoring.reference import reference_in
from lungline.package.card import CodeFacts, DataFacts, Thresholds
from lungline.package.package import Package
from lungline.promotion.promotion import promote, rollback
from lungline.registry import mlflow_client, registration, tracking
from lungline.registry.versions import Registry
from lungline.settings import Settings, load_settings
from lungline.site_validation import candidate
from lungline.site_validation.images import open_site
from lungline.site_validation.validation import Validated, validate
from tests.support.site_images import film, folder_of, patients, write_calibrated_package
from tests.test_registry import Place

SHARE = 0.1
PASSED = {tracking.GATE: "passed", tracking.VERDICT: "All rules passed."}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Scores]:
    folder = tmp_path_factory.mktemp("trained") / "package"
    return folder, write_calibrated_package(folder, version=None)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("site"), patients(300, SHARE, seed=5), labelled=False)


@pytest.fixture
def settings(services: dict[str, str], request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of a registry of its own."""
    name = f"site-{abs(hash(request.node.nodeid))}"
    return load_settings({**services, "model_name": name, "experiment": name, "home": str(tmp_path / "home")})


def champion_of(settings: Settings, trained: tuple[Path, Scores], folder: Path, place: Place) -> Package:
    """Register and promote the package as a pipeline does, with its evaluation in MLflow; returns it as registered."""
    package, scores = trained
    record, evaluation = folder / "record", folder / "evaluation"
    record.mkdir(parents=True)
    data = DataFacts(name="drawn", digest="d" * 64, synthetic=True)
    tracking.new_record(settings, data, CodeFacts(version="0.1.0")).save(record)
    run = tracking.settle(settings, record)
    scores.save(evaluation)
    tracking.note(settings, run, artifacts={"evaluation": evaluation}, tags=PASSED)
    registry = Registry(settings)
    metrics, confusion = scores.evaluation.metrics(), scores.evaluation.confusion
    version = registration.register(
        registry, package, run_id=run, pipeline_run="p/1", metrics=metrics, confusion=confusion
    ).version
    promote(version, by="Ada", reason="first", settings=settings, deployment=place)
    return registry.fetch(version, folder / "fetched")


def validated(package: Package, site: Path, settings: Settings) -> Validated:
    images = open_site(str(site), settings=settings)
    reference = reference_in(package.folder, package.card)
    return validate(package, images, settings, site="North", reference=reference)


def test_a_version_for_a_site_is_gated_registered_and_promoted(
    settings: Settings, trained: tuple[Path, Scores], site: Path, tmp_path: Path
) -> None:
    place, registry = Place(), Registry(settings)
    parent = champion_of(settings, trained, tmp_path / "parent", place)
    saved = candidate.save(validated(parent, site, settings), parent, settings, "<h1>North</h1>")
    assert saved.version
    assert (saved.parent, saved.verdict.passed) == (parent.card.version, True)
    names = {rule.name for rule in saved.verdict.rules}
    assert {"auc", "sensitivity", "ece", "auc_gain", "site_unsure_rate", "site_share_gap"} <= names
    assert registry.champion() == parent.card.version, "nothing serves before a promotion"
    assert registry.challenger() == saved.version

    promote(saved.version, by="Ada", reason="fits North", settings=settings, deployment=place)
    assert (registry.champion(), place.version) == (saved.version, saved.version)
    entry = registry.verified({}).entries[-1]
    assert (entry.facts.site, entry.facts.parent) == ("North", parent.card.version)
    assert entry.facts.prior == pytest.approx(SHARE, abs=0.05)

    package = registry.fetch(saved.version, tmp_path / "site-version")
    assert package.card.site
    assert package.card.site.images == 300
    assert package.card.confusion == trained[1].evaluation.confusion, "the same test images get the same answers"
    image = film(0.5, noise=3)
    before, after = (Diagnoser(version).diagnose(image) for version in (parent, package))
    assert before.probability == pytest.approx(0.79, abs=0.02)
    assert after.probability == pytest.approx(0.16, abs=0.08)
    assert before.label == after.label == "Unsure"

    rollback(by="Ada", reason="no", settings=settings, deployment=place)
    assert registry.champion() == parent.card.version


def test_the_reference_of_a_version_for_a_site_is_of_the_site(
    settings: Settings, trained: tuple[Path, Scores], site: Path, tmp_path: Path
) -> None:
    """So that drift monitoring compares production with the site; the site itself is then no drift."""
    place = Place()
    parent = champion_of(settings, trained, tmp_path / "parent", place)
    first = validated(parent, site, settings)
    saved = candidate.save(first, parent, settings, "")
    assert saved.version
    promote(saved.version, by="Ada", reason="fits", settings=settings, deployment=place)
    package = Registry(settings).fetch(saved.version, tmp_path / "fetched")
    reference = reference_in(package.folder, package.card)
    assert reference
    assert (reference.split, reference.images) == ("site North", 300)
    again = validated(package, site, settings)
    assert first.validation.drift
    assert first.validation.drift.plain.alarms != ()
    assert again.validation.drift
    assert again.validation.drift.plain.alarms == ()
    assert first.validation.proposal
    assert again.validation.proposal
    assert again.validation.proposal.prior.share == pytest.approx(first.validation.proposal.prior.share, abs=1e-4)
    # A version for a site can be the parent of the next one: its run has an evaluation of its own.
    assert candidate.save(again, package, settings, "").version


def test_what_the_gate_refuses_is_not_registered(
    settings: Settings, trained: tuple[Path, Scores], site: Path, tmp_path: Path
) -> None:
    parent = champion_of(settings, trained, tmp_path / "parent", Place())
    proposed = validated(parent, site, settings)
    proposal = proposed.validation.proposal
    assert proposal
    blind = {
        name: getattr(proposal.thresholds, name).model_copy(update={"value": 1.0})
        for name in ("low", "operating", "high")
    }
    update = {"proposal": proposal.model_copy(update={"thresholds": proposal.thresholds.model_copy(update=blind)})}
    missing_all = replace(proposed, validation=proposed.validation.model_copy(update=update))
    saved = candidate.save(missing_all, parent, settings, "")
    assert saved.version is None
    assert not saved.verdict.passed
    assert "sensitivity is 0.0000, required at least" in saved.verdict.sentence
    assert len(Registry(settings).versions()) == 1
    run = mlflow_client.connect(settings).get_run(saved.mlflow_run)
    assert run.data.tags["gate"] == "failed"


def test_only_the_champion_gets_a_version_for_a_site(
    settings: Settings, trained: tuple[Path, Scores], site: Path, tmp_path: Path
) -> None:
    place = Place()
    former = champion_of(settings, trained, tmp_path / "former", place)
    proposed = validated(former, site, settings)
    champion_of(settings, trained, tmp_path / "later", place)
    with pytest.raises(PromotionRefused, match="not the champion"):
        candidate.save(proposed, former, settings, "")


def test_an_evaluation_of_another_version_is_refused(
    settings: Settings, trained: tuple[Path, Scores], site: Path, tmp_path: Path
) -> None:
    """Artifacts of a run can be replaced; the card, which the history protects, has the metrics."""
    parent = champion_of(settings, trained, tmp_path / "parent", Place())
    scores = trained[1]
    flattered = tuple(replace(case, probability=float(case.label)) for case in scores.scored)
    Scores(scores.evaluation, flattered).save(tmp_path / "evaluation")
    run = str(parent.card.mlflow_run_id)
    tracking.note(settings, run, artifacts={"evaluation": tmp_path / "evaluation"})
    with pytest.raises(RegistryError, match="is not that of version"):
        candidate.save(validated(parent, site, settings), parent, settings, "")


def test_a_run_without_an_evaluation_says_what_to_do(
    settings: Settings, trained: tuple[Path, Scores], site: Path, tmp_path: Path
) -> None:
    (tmp_path / "record").mkdir()
    data = DataFacts(name="drawn", digest="d" * 64, synthetic=True)
    tracking.new_record(settings, data, CodeFacts(version="0.1.0")).save(tmp_path / "record")
    run = tracking.settle(settings, tmp_path / "record")
    tracking.note(settings, run, tags=PASSED)
    registry, place = Registry(settings), Place()
    version = registration.register(registry, trained[0], run_id=run, pipeline_run="p/1", metrics={"auc": 0.9}).version
    promote(version, by="Ada", reason="first", settings=settings, deployment=place)
    package = registry.fetch(version, tmp_path / "fetched")
    with pytest.raises(RegistryError, match="train again"):
        candidate.save(validated(package, site, settings), package, settings, "")


def test_an_image_that_was_doubted_stays_unsure(trained: tuple[Path, Scores]) -> None:
    card = Package.load(trained[0]).card
    everything = Thresholds(low=0, high=0, operating=0, chosen="Everything is pneumonia.")
    scores = trained[1]
    cases = (
        replace(scores.scored[0], predicted="Unsure", reason="not-a-chest", probability=0.99),
        replace(scores.scored[1], predicted="Unsure", reason=None, probability=0.99),  # of an earlier release
        *scores.scored[2:],
    )
    after = candidate.relabelled(
        Scores(scores.evaluation, cases), card, card.model_copy(update={"thresholds": everything})
    )
    assert [case.predicted for case in after.scored[:3]] == ["Unsure", "Unsure", "Pneumonia"]


def test_the_run_keeps_page_and_json(
    settings: Settings,
    trained: tuple[Path, Scores],
    site: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Nothing is printed meanwhile: with --json, standard output is one value."""
    parent = champion_of(settings, trained, tmp_path / "parent", Place())
    saved = candidate.save(validated(parent, site, settings), parent, settings, "<h1>North</h1>")
    folder = tracking.fetch_artifacts(settings, saved.mlflow_run, "site", tmp_path)
    assert capfd.readouterr().out == ""
    assert folder
    assert (folder / "report.html").read_text() == "<h1>North</h1>"
    assert json.loads((folder / "site.json").read_text())["proposal"]["source"]["method"] == "em"
    tags = Registry(settings).versions()[0].tags
    assert (tags["site"], tags["parent"]) == ("North", parent.card.version)
