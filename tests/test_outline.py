"""The lungs' outline: drawn where the heatmap is, kept in the record, and where the heat lies is said."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from prometheus_client import REGISTRY

from lungline.diagnosis.diagnoser import ELSEWHERE, Diagnoser
from lungline.diagnosis.upload import diagnose_upload
from lungline.events.uploads import Upload
from lungline.imaging.image import DecodedImage
from lungline.imaging.outline import MOST_NUMBERS, MOST_OUTLINES, outlines_of
from lungline.imaging.preparation import Preparation
from lungline.package.card import LungModel
from lungline.results import record_store, records
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from serving import metrics
from tests.support.object_store import running_store
from tests.support.reading_network import CENTRE, CORNER, SIZE, films, reader_of
from tests.support.worklist_site import record as a_record

SETTINGS = Settings()
UPLOADS, RESULTS = SETTINGS.uploads_bucket, SETTINGS.results_bucket


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with running_store(tmp_path_factory.mktemp("store"), UPLOADS, RESULTS) as storage:
        yield storage


def image(width: int, height: int, inner: tuple[int, int, int, int] | None = None) -> DecodedImage:
    """Noise in a part of a black image, by default all of it."""
    left, top, right, bottom = inner or (0, 0, width, height)
    pixels = np.zeros((height, width), np.uint8)
    pixels[top:bottom, left:right] = np.random.default_rng(0).integers(60, 200, (bottom - top, right - left))
    return DecodedImage(pixels, "png", width, height, 0.0, ())


def filled(outlines: tuple[tuple[int, ...], ...], side: int = 480) -> np.ndarray:
    canvas = Image.new("L", (side, side))
    for points in outlines:
        ImageDraw.Draw(canvas).polygon([value / 1000 * side - 0.5 for value in points], fill=1)
    return np.asarray(canvas) > 0


def two_lungs() -> np.ndarray:
    rows, columns = np.mgrid[0:48, 0:48]
    sides = (np.exp(-((((columns - x) / 7) ** 2 + ((rows - 24) / 15) ** 2) ** 2)) for x in (13, 35))
    return np.maximum(*sides).astype(np.float32)


def test_outlines_enclose_the_field() -> None:
    field = two_lungs()
    outlines = outlines_of(field, image(480, 480), Preparation(size=SIZE))
    assert len(outlines) == 2
    inside, drawn = np.kron(field, np.ones((10, 10))) >= 0.5, filled(outlines)
    assert (inside & drawn).sum() / (inside | drawn).sum() > 0.9
    assert sum(map(len, outlines)) < 120


def test_trimmed_margins_are_mapped_back() -> None:
    """The field covers the network's input: the middle half of a letterboxed film."""
    film = image(400, 200, (100, 0, 300, 200))
    outlines = outlines_of(two_lungs(), film, Preparation(size=SIZE, trim=True))
    assert {side: min(points[0::2]) > 260 for side, points in enumerate(outlines)} == {0: True, 1: True}
    assert max(max(points[0::2]) for points in outlines) < 740
    left = min(outlines, key=lambda points: points[0])
    assert np.mean([min(left[0::2]), max(left[0::2])]) == pytest.approx(250 + 1000 / 2 * 13.5 / 48, abs=6)


def test_a_centre_crop_is_mapped_back() -> None:
    outlines = outlines_of(np.ones((48, 48), np.float32), image(400, 200), Preparation(geometry="centre-crop"))
    ((*points,),) = outlines
    assert (min(points[0::2]), max(points[0::2])) == (250, 750)
    assert (min(points[1::2]), max(points[1::2])) == (0, 1000)


@pytest.mark.parametrize("seed", range(5))
def test_any_field_gives_a_bounded_outline(seed: int) -> None:
    """Noise, a chequerboard, rings: what a broken segmenter may give."""
    dice = np.random.default_rng(seed)
    fields = [
        dice.random((48, 48)),
        np.indices((48, 48)).sum(axis=0) % 2,
        np.kron(dice.random((8, 8)), np.ones((6, 6))),
    ]
    for field in [*fields, np.zeros((48, 48)), np.full((48, 48), np.nan), np.full((1, 1), 1.0)]:
        outlines = outlines_of(field.astype(np.float32), image(300, 200), Preparation(size=SIZE))
        assert len(outlines) <= MOST_OUTLINES
        assert all(6 <= len(points) <= MOST_NUMBERS for points in outlines)
        assert all(0 <= value <= 1000 for points in outlines for value in points)


def result_of(folder: Path, store: Storage, region: tuple[slice, slice], **card: Any) -> records.ResultRecord:
    """The stored record of a bright region that the network reads."""
    data = films(region)[1].data
    upload = Upload(UPLOADS, f"{folder.name}.png", etag=store.put(UPLOADS, f"{folder.name}.png", data))
    saved = diagnose_upload(upload, Diagnoser(reader_of(region, folder / "1", **card)), store, SETTINGS)
    assert record_store.load(store, RESULTS, saved.key) == saved
    return saved


def test_a_record_holds_the_outline_and_the_share_of_heat_inside(tmp_path: Path, store: Storage) -> None:
    record = result_of(tmp_path, store, CENTRE)
    assert record.label == "Pneumonia"
    assert record.lungs
    (points,) = record.lungs.outlines
    assert (min(points), max(points)) == (pytest.approx(250, abs=15), pytest.approx(750, abs=15))
    assert record.lungs.heat_inside
    assert record.lungs.heat_inside > 0.5
    assert not any(ELSEWHERE in warning for warning in record.warnings)


def test_a_result_whose_heat_lies_outside_says_so(tmp_path: Path, store: Storage) -> None:
    record = result_of(tmp_path, store, CORNER)
    assert record.label == "Pneumonia"
    assert record.lungs
    assert record.lungs.heat_inside is not None
    assert record.lungs.heat_inside < 0.5
    assert any(ELSEWHERE in warning for warning in record.warnings)
    before = REGISTRY.get_sample_value("lungline_heat_inside_lungs_bucket", {"le": "0.5"}) or 0
    metrics.count_record(record, record.times.received)
    assert REGISTRY.get_sample_value("lungline_heat_inside_lungs_bucket", {"le": "0.5"}) == before + 1


def test_lungs_that_cannot_be_outlined_are_counted_by_kind(tmp_path: Path, store: Storage) -> None:
    """The middle square is one piece, not two lungs."""
    record = result_of(tmp_path, store, CENTRE, lungs=LungModel(source="by hand", sha256="0"))
    assert (record.label, record.doubts) == ("Unsure", ("no-lungs",))
    assert record.warnings[0].startswith("the lungs cannot be outlined")

    def counted(reason: str) -> float:
        return REGISTRY.get_sample_value("lungline_unsure_total", {"reason": reason}) or 0

    before = {reason: counted(reason) for reason in metrics.REASONS_UNSURE}
    metrics.count_record(record, record.times.received)
    forged = record.model_copy(update={"doubts": ("Doe-Jane",)})
    metrics.count_record(forged, record.times.received)
    metrics.count_record(record.model_copy(update={"doubts": ()}), record.times.received)
    after = {reason: counted(reason) - value for reason, value in before.items()}
    assert after == dict.fromkeys(before, 0) | {"no-lungs": 1, "other": 1, "between-thresholds": 1}


def test_an_earlier_record_has_no_lungs() -> None:
    """Records of the version before lack both fields."""

    stored = a_record(1).model_dump(mode="json")
    del stored["lungs"], stored["doubts"]
    loaded = records.ResultRecord.model_validate(stored)
    assert (loaded.lungs, loaded.doubts) == (None, ())


@pytest.mark.parametrize(
    "outlines", [[[0, 1001]], [[-1, 0]], [[0] * (MOST_NUMBERS + 1)], [[0, 0]] * (MOST_OUTLINES + 1)]
)
def test_a_forged_outline_is_refused(outlines: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="outlines"):
        records.LungFacts.model_validate({"outlines": outlines})
