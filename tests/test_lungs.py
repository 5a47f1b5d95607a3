"""The lung segmenter that comes with the project, the crop around the lungs, and what is judged implausible."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lungline.datasets import phantom
from lungline.imaging.lungs import problem_of, shape_of
from lungline.imaging.preparation import NORMALISATIONS
from lungline.package.card import Card
from lungline.package.package import NO_LUNGS, Package
from lungline.training.lung_crop import crop, lung_box, uncrop
from lungline.training.lung_outlines import disguise, read_outlined
from lungline.training.lungs import SIDE, WEIGHTS, dice, fields_of, load_segmenter
from tests.support.tiny_package import SIZE, write_tiny_package

SHARED = Path(__file__).parents[2] / "shared" / "data"


def lungs(left: tuple[float, float] = (0.15, 0.45), right: tuple[float, float] = (0.55, 0.85)) -> np.ndarray:
    """A field of two rounded lungs, from each first to last column as shares of the side."""
    y, x = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE
    field = np.zeros((SIDE, SIDE), np.float32)
    for low, high in (left, right):
        wide = max((high - low) / 2, 1e-6)
        field[((x - (low + high) / 2) / wide) ** 2 + ((y - 0.5) / 0.33) ** 2 <= 1] = 1
    return field


def phantoms(count: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.stack([phantom.draw(rng, opacities=bool(at % 2), size=112) for at in range(count)])


def test_two_lungs_are_plausible() -> None:
    assert problem_of(lungs()) is None


@pytest.mark.parametrize(
    ("field", "problem"),
    [
        (np.zeros((SIDE, SIDE), np.float32), "no lungs were found"),
        (lungs() * np.float32(0.6), "certainty"),
        (lungs((0.15, 0.2), (0.8, 0.85)), "is lung is"),
        (lungs((0.3, 0.7), (0.3, 0.7)), "gap between"),
        (lungs((0.15, 0.23), (0.60, 0.85)), "smaller lung"),
        (np.ones((SIDE, SIDE), np.float32), "is lung is"),
        (np.repeat(lungs()[:, 12:36], 2, axis=1), None),
    ],
    ids=["nothing", "unsure", "tiny", "one piece", "unequal", "everything", "closely framed"],
)
def test_an_implausible_field_is_named(field: np.ndarray, problem: str | None) -> None:
    reason = problem_of(field.astype(np.float32))
    assert reason is None if problem is None else problem in (reason or "")


def test_the_shape_of_a_field_is_measured() -> None:
    shape = shape_of(lungs())
    assert shape is not None
    assert shape.area == pytest.approx(float(lungs().mean()))
    assert shape.balance == pytest.approx(0.5, abs=0.02)
    assert shape.parting == 1
    assert shape.aspect == pytest.approx(0.66 / 0.7, abs=0.06)


def test_the_crop_frames_the_lungs() -> None:
    """Also with a speck in a corner."""
    field = lungs()
    field[1, 1] = 1
    left, top, right, bottom = np.asarray(lung_box(field[None]))[0]
    assert [left, top, right, bottom] == pytest.approx([0.11, 0.13, 0.89, 0.87], abs=0.025)


def test_an_image_without_lungs_is_seen_whole() -> None:
    assert np.asarray(lung_box(np.zeros((1, SIDE, SIDE), np.float32)))[0] == pytest.approx([0, 0, 1, 1])


def test_a_crop_is_resampled_as_pillow_does() -> None:
    images = phantoms(2).astype(np.float32)
    box = np.array([[0.1, 0.2, 0.9, 0.95]] * 2, np.float32)
    ours = np.asarray(crop(images, box, 64))
    region = (11.2, 22.4, 100.8, 106.4)
    for mine, image in zip(ours, images, strict=True):
        theirs = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR, region))
        assert np.abs(mine - theirs).mean() < 1.5


def test_a_map_of_the_crop_returns_to_its_place() -> None:
    maps = np.zeros((1, 6, 6), np.float32)
    maps[0, 1, 4] = 1
    box = np.array([[0.5, 0.0, 1.0, 0.5]], np.float32)
    whole = np.asarray(uncrop(maps, box, 48))[0]
    row, column = np.unravel_index(int(whole.argmax()), whole.shape)
    assert (row, column) == (pytest.approx(5.5, abs=1), pytest.approx(24 + 17.5, abs=1))


def test_the_segmenter_finds_the_lungs_of_phantoms() -> None:
    fields = fields_of(load_segmenter(), NORMALISATIONS["equalise"](phantoms(20))[..., None])
    assert [problem_of(field) for field in fields] == [None] * 20


def test_the_weights_stay_small() -> None:
    assert WEIGHTS.stat().st_size < 200_000


@pytest.mark.skipif(not SHARED.exists(), reason="the outlined X-rays are not on this machine")
def test_the_segmenter_finds_the_lungs_of_children() -> None:
    """Of every twentieth X-ray, as it is and disguised, by the outlines."""
    data = read_outlined(str(SHARED / "chest_xray.zip"), SHARED / "lungs.npz", SIDE)
    rows = np.flatnonzero(data.trust >= 88)[::20]
    images, truth = data.images[rows], data.fields[rows]
    segmenter = load_segmenter()
    plain = fields_of(segmenter, NORMALISATIONS["equalise"](images)[..., None])
    assert np.median(dice(plain >= 0.5, truth > 0)) > 0.92
    assert np.mean([problem_of(field) is not None for field in plain]) <= 0.02
    changed, moved = disguise(images, truth, np.random.default_rng(0))
    assert np.median(dice(fields_of(segmenter, changed[..., None]) >= 0.5, moved > 0)) > 0.85


@pytest.fixture
def package(tmp_path: Path) -> Package:
    lungs: dict[str, str] = {"source": "outlines", "sha256": "0" * 64}
    write_tiny_package(tmp_path / "package", lungs=lungs, thresholds=ALWAYS)
    return Package.load(tmp_path / "package")


ALWAYS = {"low": 0.0, "high": 0.0, "operating": 0.0, "chosen": "Everything is pneumonia."}


def prepared(pixels: np.ndarray) -> np.ndarray:
    small = np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    return NORMALISATIONS["equalise"](small[None])[..., None]


def test_an_image_without_lungs_is_unsure_and_says_so(package: Package) -> None:
    (prediction,) = package.predict(prepared(np.random.default_rng(0).integers(0, 256, (112, 112), np.uint8)))
    assert prediction.label == "Unsure"
    assert prediction.warnings[0].startswith(NO_LUNGS)
    (chest,) = package.predict(prepared(phantoms(1)[0]))
    assert (chest.label, chest.warnings) == ("Pneumonia", ())


def test_evidence_lies_inside_the_lungs(package: Package) -> None:
    """By construction: even an untrained network's map is empty where there is no lung."""
    (prediction,) = package.predict(prepared(phantoms(1)[0]))
    assert prediction.lungs is not None
    assert prediction.lungs.shape == (SIDE, SIDE)
    near = Image.fromarray(prediction.lungs).resize(prediction.cam.shape[::-1], Image.Resampling.BILINEAR)
    outside = np.asarray(near) < 0.02
    assert outside.any()
    assert float(prediction.cam[outside].max()) <= 0.05 * float(prediction.cam.max())


def test_a_card_without_a_lung_model_is_read(tmp_path: Path) -> None:
    """As packages of earlier releases have it."""
    card: Card = write_tiny_package(tmp_path / "package")
    assert card.lungs is None
    noise = np.random.default_rng(0).integers(0, 256, (112, 112), np.uint8)
    (prediction,) = Package.load(tmp_path / "package").predict(prepared(noise))
    assert not prediction.warnings


@pytest.mark.skipif(not SHARED.exists(), reason="the outlined X-rays are not on this machine")
def test_the_command_trains_and_writes_weights(tmp_path: Path) -> None:
    """On one X-ray in twenty: that it learns, not how well."""
    with np.load(SHARED / "lungs.npz") as stored:
        few = {name: stored[name][::20] for name in stored.files}
    np.savez(tmp_path / "few.npz", allow_pickle=False, **few)
    command = [sys.executable, "-m", "lungline.training.lungs", "--data", str(SHARED / "chest_xray.zip")]
    command += ["--outlines", str(tmp_path / "few.npz"), "--epochs", "2", "--out", str(tmp_path / "weights.npz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-500:]
    losses = [float(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines() if line.startswith("epoch")]
    assert losses[1] < losses[0]
    assert load_segmenter(tmp_path / "weights.npz").output_shape[0] == (None, SIDE, SIDE, 1)
