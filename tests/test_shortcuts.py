"""What a model's answers rest on: heat inside the lungs, the border alone, the inside alone."""

import base64
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from PIL import Image

from lungline.evaluation.evidence import CAPTIONS, least_inside
from lungline.evaluation.gate import evaluate_gate
from lungline.evaluation.metrics import Evaluation, Scored, summarise
from lungline.evaluation.report import write_report
from lungline.evaluation.scoring import evaluate, score
from lungline.evaluation.shortcuts import border_only, heat_of, inside_only, measure
from lungline.package.card import MODEL, Prior
from lungline.package.package import Package, Prediction
from lungline.settings import GateSettings
from tests.support.reading_network import CENTRE, CORNER, THRESHOLDS, card_of, films, reader_of


def test_a_model_that_reads_the_border_is_found_out(tmp_path: Path) -> None:
    looks = measure(reader_of(CORNER, tmp_path / "1"), films(CORNER))
    assert looks.border_auc == 1
    assert looks.inside_auc == pytest.approx(0.5, abs=0.2)
    assert looks.heat_inside is not None
    assert looks.heat_inside < 0.45
    assert looks.strongest_inside == 0


def test_a_model_that_reads_the_lungs_passes(tmp_path: Path) -> None:
    looks = measure(reader_of(CENTRE, tmp_path / "1"), films(CENTRE))
    assert looks.border_auc == pytest.approx(0.5, abs=0.2)  # of 24 images, so by chance
    assert looks.inside_auc == 1
    assert looks.strongest_inside == 1
    assert looks.lung_area == pytest.approx(0.25, abs=0.03)


def test_a_low_prior_makes_no_pneumonia_less_confident(tmp_path: Path) -> None:
    """The heat of a model for a place where pneumonia is rare is measured in the same images."""
    package = reader_of(CENTRE, tmp_path / "1")
    rare = Package(
        package.folder,
        package.card.model_copy(update={"prior": Prior(calibrated=0.7, share=1e-6, chosen="By hand.")}),
        package.sha256,
        (package.folder / MODEL).read_bytes(),
    )
    looks, plain = measure(rare, films(CENTRE)), measure(package, films(CENTRE))
    assert plain.strongest_inside == looks.strongest_inside == 1
    assert looks.lung_area == plain.lung_area


def test_an_evaluation_and_its_json_hold_what_answers_rest_on(tmp_path: Path) -> None:
    examples = [(case.label, case.data) for case in films(CENTRE)]
    evaluation = evaluate(reader_of(CENTRE, tmp_path / "1"), examples)
    stored = json.loads(evaluation.model_dump_json())
    assert {"heat_inside", "border_auc", "inside_auc", "doubted"} <= stored.keys()
    assert evaluation.metrics()["inside_auc"] == 1


def test_the_least_heat_inside_comes_first() -> None:
    """Of confident pneumonias only, and at most twelve."""
    shares = [0.9, 0.2, 0.5, None, *[0.95] * 20]
    cases = [Scored(1, probability=0.99, heat_inside=share) for share in shares]
    others = [Scored(0, probability=0.99, heat_inside=0.0), Scored(1, probability=0.8, heat_inside=0.0)]
    places = least_inside([*others, *cases], card_of())
    assert places[:3] == [3, 4, 2]
    assert len(places) == 12
    assert 5 not in places


def test_report_shows_where_the_evidence_lies_and_the_worst(tmp_path: Path) -> None:
    """As files beside the page and the model card, which name them, and on the page itself."""
    package = reader_of(CORNER, tmp_path / "1")
    cases = films(CORNER)
    scores = score(package, cases)
    assert sum(case.heat_inside is not None for case in scores) == len(cases)
    page = write_report(tmp_path, package, summarise(scores, THRESHOLDS), scores, images=[case.data for case in cases])
    shown = page.read_text()
    card = (tmp_path / "model_card.md").read_text()
    for name, caption in CAPTIONS.items():
        png = (tmp_path / name).read_bytes()
        assert np.asarray(Image.open(io.BytesIO(png)).convert("L")).std() > 10
        assert base64.b64encode(png).decode() in shown
        assert caption in shown
        assert f"![{caption}]({name})" in card


def test_report_of_a_model_without_lungs_has_no_such_pictures(tmp_path: Path) -> None:
    package = reader_of(CORNER, tmp_path / "1", segments=False)
    cases = films(CORNER)
    scores = score(package, cases)
    page = write_report(tmp_path, package, summarise(scores, THRESHOLDS), scores, images=[case.data for case in cases])
    assert "Where the evidence lies" not in page.read_text()
    assert not any((tmp_path / name).exists() for name in CAPTIONS)


def test_painting_keeps_its_part_only() -> None:
    film = np.arange(100 * 50, dtype=np.uint16).reshape(100, 50).astype(np.uint8)
    border, inside = border_only(film), inside_only(film)
    assert len(np.unique(border[20:80, 10:40])) == 1
    assert np.array_equal(border[:20], film[:20])
    assert np.array_equal(inside[15:85, 8:42], film[15:85, 8:42])
    assert len(np.unique(np.concatenate([inside[:15].ravel(), inside[:, :7].ravel()]))) == 1


def prediction(cam: np.ndarray, lungs: np.ndarray | None) -> Prediction:
    return cast("Prediction", SimpleNamespace(cam=cam, lungs=lungs))


def test_heat_is_compared_with_any_lungs() -> None:
    cam, left = np.zeros((6, 6), np.float32), np.zeros((48, 48), np.float32)
    cam[:, :3], left[:, :24] = 1, 1
    assert heat_of(prediction(cam, left))[:2] == (pytest.approx(0.93, abs=0.06), True)
    assert heat_of(prediction(cam, None), 1 - left)[:2] == (pytest.approx(0.07, abs=0.06), False)
    with pytest.raises(ValueError, match="no lung field"):
        heat_of(prediction(cam, None))


def scored() -> Evaluation:
    cases = [Scored(at % 2, probability=0.98 if at % 2 else 0.02, predicted="x") for at in range(200)]
    return summarise(cases, THRESHOLDS, resamples=0)


GOOD = {"heat_inside": 0.9, "border_auc": 0.55, "inside_auc": 0.97}


@pytest.mark.parametrize(("name", "value"), [("heat_inside", 0.37), ("border_auc", 0.93), ("inside_auc", 0.45)])
def test_a_shortcut_learner_fails_the_gate(name: str, value: float) -> None:
    """However well it scores on the images as they are."""
    evaluation = scored()
    assert evaluate_gate(evaluation.model_copy(update=GOOD), None, GateSettings(), synthetic=False).passed
    verdict = evaluate_gate(evaluation.model_copy(update=GOOD | {name: value}), None, GateSettings(), synthetic=False)
    assert [rule.name for rule in verdict.rules if not rule.passed] == [name]


def test_an_evaluation_of_an_earlier_release_has_no_such_rules() -> None:
    verdict = evaluate_gate(scored(), None, GateSettings(), synthetic=False)
    assert verdict.passed
    assert not {"heat_inside", "border_auc", "inside_auc"} & {rule.name for rule in verdict.rules}


@pytest.mark.parametrize(("border", "passed"), [(0.93, True), (0.6, False)])
def test_a_champion_that_reads_the_border_sets_no_mark(border: float, passed: bool) -> None:
    """Its area is higher here for a reason that does not hold elsewhere."""
    ours = scored().model_copy(update=GOOD | {"auc": 0.97})
    champion = scored().model_copy(update={"auc": 0.999, "border_auc": border, "inside_auc": 0.9})
    verdict = evaluate_gate(ours, champion, GateSettings(), synthetic=False)
    assert verdict.passed is passed
    (rule,) = (rule for rule in verdict.rules if rule.name == "auc_gain")
    assert ("does not count" in rule.sentence) is passed
