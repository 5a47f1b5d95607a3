"""A site is measured as serving would diagnose it, and gets a prior and thresholds that mean what they say."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lungline.errors import DataError
from lungline.evaluation.metrics import Case
from lungline.monitoring.reference import reference_in
from lungline.package.card import Prior, amend_card, log_odds, shifted
from lungline.package.package import Package
from lungline.settings import Settings
from lungline.site_validation.images import open_site
from lungline.site_validation.report import page
from lungline.site_validation.validation import Validated, validate
from tests.support.site_images import CALIBRATED, THRESHOLDS, folder_of, patients, write_calibrated_package

SETTINGS = Settings(offline=True)
SHARE = 0.1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "1"
    write_calibrated_package(folder)
    return folder


@pytest.fixture(scope="module")
def rare() -> list[Case]:
    return patients(400, SHARE, seed=5)


def validated(package: Path, data: Path, prevalence: float | None = None, labels: Path | None = None) -> Validated:
    loaded = Package.load(package)
    images = open_site(str(data), settings=SETTINGS, labels=labels)
    return validate(
        loaded, images, SETTINGS, site="North", reference=reference_in(package, loaded.card), prevalence=prevalence
    )


@pytest.fixture(scope="module")
def unlabelled(folder: Path, rare: list[Case], tmp_path_factory: pytest.TempPathFactory) -> Validated:
    return validated(folder, folder_of(tmp_path_factory.mktemp("site"), rare, labelled=False))


@pytest.fixture(scope="module")
def labelled(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Validated:
    return validated(folder, folder_of(tmp_path_factory.mktemp("site"), patients(600, SHARE, seed=6), labelled=True))


def test_without_labels_both_estimates_hold_the_share(unlabelled: Validated) -> None:
    validation = unlabelled.validation
    assert (validation.labelled, validation.evaluation, validation.calibration) == (False, None, None)
    assert [share.method for share in validation.shares] == ["em", "bbse"]
    for share in validation.shares:
        assert share.low <= SHARE <= share.high
        assert share.high - share.low < 0.12
    assert validation.warnings == ()


def test_the_proposed_prior_makes_risks_frequencies(unlabelled: Validated, rare: list[Case]) -> None:
    proposal = unlabelled.validation.proposal
    assert proposal
    truths = np.array([case.label for case in rare])
    risks = np.array([row.compared.probability for row in unlabelled.results], float)
    moved = [shifted(risk, proposal.prior.shift) for risk in risks]
    assert risks.mean() - truths.mean() > 0.015
    assert np.mean(moved) == pytest.approx(proposal.prior.share, abs=1e-3)
    assert proposal.prior.calibrated == CALIBRATED
    assert "95 % interval" in proposal.prior.chosen


def test_without_labels_every_image_keeps_its_label(unlabelled: Validated) -> None:
    proposal = unlabelled.validation.proposal
    assert proposal
    assert proposal.thresholds.source == "moved"
    assert proposal.labels == unlabelled.validation.labels
    assert proposal.thresholds.operating.value == pytest.approx(shifted(THRESHOLDS.operating, proposal.prior.shift))
    assert proposal.thresholds.operating.low < proposal.thresholds.operating.value < proposal.thresholds.operating.high


def test_another_share_is_drift_and_at_that_share_there_is_none(unlabelled: Validated) -> None:
    drift = unlabelled.validation.drift
    assert drift
    assert drift.at_share
    assert {"score", "labels"} <= set(drift.plain.alarms)
    assert drift.at_share.alarms == ()


def test_other_images_are_drift_at_any_share(folder: Path, tmp_path: Path) -> None:
    site = folder_of(tmp_path / "site", patients(300, CALIBRATED, seed=7, brighter=60), labelled=False)
    validation = validated(folder, site).validation
    assert validation.drift
    assert validation.drift.at_share
    assert "images" in validation.drift.at_share.alarms
    assert any("Label a hundred images" in warning for warning in validation.warnings)


def test_labels_give_metrics_thresholds_and_the_share(labelled: Validated) -> None:
    validation = labelled.validation
    assert validation.evaluation
    assert validation.evaluation.auc
    assert validation.evaluation.auc > 0.98
    assert [share.method for share in validation.shares] == ["counted", "em", "bbse"]
    assert validation.shares[0].value == SHARE
    proposal = validation.proposal
    assert proposal
    assert (proposal.source.method, proposal.prior.share) == ("counted", SHARE)
    assert proposal.thresholds.source == "labels"
    for name in ("low", "operating", "high"):
        threshold = getattr(proposal.thresholds, name)
        assert threshold.low <= threshold.value <= threshold.high
    assert proposal.ppv is not None
    assert 0.3 < proposal.ppv < 1


def test_risks_at_the_proposed_prior_are_calibrated(labelled: Validated) -> None:
    calibration = labelled.validation.calibration
    assert calibration
    assert calibration.ece_proposed is not None
    assert calibration.ece_proposed < calibration.ece
    assert calibration.scale == pytest.approx(1, abs=0.35)
    assert calibration.bias == pytest.approx(log_odds(SHARE) - log_odds(CALIBRATED), abs=1)


def test_a_given_share_is_taken_as_it_is(folder: Path, rare: list[Case], tmp_path: Path) -> None:
    """Such as of a site that picked as many images with pneumonia as without."""
    validation = validated(folder, folder_of(tmp_path / "site", rare, labelled=True), prevalence=0.02).validation
    assert validation.proposal
    assert (validation.proposal.prior.share, validation.proposal.source.method) == (0.02, "given")
    assert validation.drift
    assert validation.drift.at_share
    assert validation.drift.at_share.alarms == ()


def test_a_card_without_a_prior_gets_its_share_from_the_reference(
    folder: Path, rare: list[Case], tmp_path: Path, unlabelled: Validated
) -> None:
    """Packages of earlier releases do not say at which share they were calibrated."""
    former = shutil.copytree(folder, tmp_path / "former")
    amend_card(former, prior=None)
    validation = validated(former, folder_of(tmp_path / "site", rare, labelled=False)).validation
    assert validation.proposal
    assert unlabelled.validation.proposal
    assert validation.proposal.prior.calibrated == pytest.approx(CALIBRATED, abs=0.02)
    assert validation.proposal.prior.share == pytest.approx(unlabelled.validation.proposal.prior.share, abs=0.02)


def test_a_package_that_was_moved_already_gets_the_same_estimate(
    folder: Path, rare: list[Case], tmp_path: Path, unlabelled: Validated
) -> None:
    moved = tmp_path / "moved"
    write_calibrated_package(moved, prior=Prior(calibrated=CALIBRATED, share=0.3, chosen="By hand."))
    validation = validated(moved, folder_of(tmp_path / "site", rare, labelled=False)).validation
    estimates = [other.share("em") for other in (validation, unlabelled.validation)]
    assert estimates[0]
    assert estimates[1]
    assert estimates[0].value == pytest.approx(estimates[1].value, abs=1e-4)


def test_a_table_labels_images_without_class_folders(folder: Path, rare: list[Case], tmp_path: Path) -> None:
    site = folder_of(tmp_path / "site", rare, labelled=False)
    table = tmp_path / "labels.csv"
    names = ("NORMAL", "Pneumonia")
    rows = [f"image{at:04d}.png,{names[case.label]}" for at, case in enumerate(rare[:300])]
    table.write_text("\n".join(("File,Label", *rows, "nobody.png,0")))
    images = open_site(str(site), settings=SETTINGS, labels=table)
    assert [image.label for image in images.images] == [case.label for case in rare[:300]]
    assert images.labelled
    assert "1 rows" in images.notices[0]
    assert "100 images" in images.notices[1]
    table.write_text("\n".join(("file,label", *rows, "image0001.png,perhaps")))
    with pytest.raises(DataError, match="row 302"):
        open_site(str(site), settings=SETTINGS, labels=table)
    table.write_text("name,label\n")
    with pytest.raises(DataError, match="columns file and label"):
        open_site(str(site), settings=SETTINGS, labels=table)


def test_fewer_than_a_hundred_images_are_refused(folder: Path, rare: list[Case], tmp_path: Path) -> None:
    few = folder_of(tmp_path / "few", rare[:99], labelled=False)
    with pytest.raises(DataError, match="at least 100 images of the site; found 99"):
        validated(folder, few)
    (few / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="at least 100 images with a prediction; found 99"):
        validated(folder, few)


def test_documents_are_no_images_and_too_many_are_a_sample(rare: list[Case], tmp_path: Path) -> None:
    site = folder_of(tmp_path / "site", rare, labelled=False)
    (site / "README.txt").write_text("about")
    assert len(open_site(str(site), settings=SETTINGS).images) == 400
    sampled = open_site(str(site), settings=SETTINGS, most=150)
    assert len({image.path for image in sampled.images}) == 150
    assert "at random" in sampled.notices[0]


def test_of_the_data_that_the_model_was_trained_on_only_the_test_split_counts() -> None:
    images = open_site("phantom:600", settings=SETTINGS, trained_on="phantom:600 with 3 reader labels")
    assert len(images.images) == 120
    assert "only its test split" in images.notices[1]
    assert len(open_site("phantom:600", settings=SETTINGS, trained_on="chest_xray.zip").images) == 600


def test_json_and_page_hold_the_proposal_and_no_file_name(labelled: Validated, folder: Path) -> None:
    stored = json.loads(labelled.validation.model_dump_json())
    assert {"evaluation", "calibration", "drift", "shares", "proposal", "warnings"} <= stored.keys()
    assert {"prior", "thresholds", "ppv", "npv"} <= stored["proposal"].keys()
    html = page(labelled, reference_in(folder, Package.load(folder).card))
    for text in ("Share of positives", "Proposed prior and thresholds", "Drift against", "Area under the ROC curve"):
        assert text in html
    for text in (json.dumps(stored), html):
        assert "image0001" not in text


def test_the_command_prints_one_value_and_writes_the_page(folder: Path, rare: list[Case], tmp_path: Path) -> None:
    site = folder_of(tmp_path / "site", rare[:150], labelled=False)
    command = [sys.executable, "-m", "cli", "validate-site", "--model", str(folder), "--data", str(site)]
    options = ["--json", "--report", str(tmp_path / "page.html"), "--home", str(tmp_path / "home"), "--site", "North"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True, timeout=120)
    value = json.loads(done.stdout)
    assert (value["site"], value["model"], value["images"], value["saved"]) == ("North", "1", 150, None)
    assert "Site North, version 1" in (tmp_path / "page.html").read_text()
    refused = subprocess.run([*command, "--save"], capture_output=True, text=True, check=False, timeout=120)
    assert refused.returncode == 2
    assert "needs the champion of the registry" in refused.stderr
