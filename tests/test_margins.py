import io
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from lungline.datasets.phantom import jpeg
from lungline.imaging.decoding import decode
from lungline.imaging.image import DecodedImage
from lungline.imaging.margins import without_margins
from lungline.imaging.preparation import Preparation, heatmap_png

CHEST = decode(jpeg(3, opacities=True)).pixels[8:200, 20:204]
WIDTH, HEIGHT = CHEST.shape[1], CHEST.shape[0]
SIDES = {
    "top and bottom": (0, 40, 0, 30),
    "left and right": (50, 0, 20, 0),
    "all sides": (30, 20, 40, 50),
    "left": (60, 0, 0, 0),
    "top": (0, 25, 0, 0),
    "two": (0, 30, 45, 0),
}


def framed(left: int, top: int, right: int, bottom: int, level: int) -> np.ndarray:
    """The chest with margins of one grey level."""
    return np.pad(CHEST, ((top, bottom), (left, right)), constant_values=level)


def compressed(pixels: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def image(pixels: np.ndarray) -> DecodedImage:
    return DecodedImage(pixels, "png", pixels.shape[1], pixels.shape[0], 0.0, ())


@pytest.mark.parametrize("level", [0, 40, 128, 255])
@pytest.mark.parametrize("margins", SIDES.values(), ids=SIDES)
def test_margins_of_any_level_are_cut_on_any_side(margins: tuple[int, int, int, int], level: int) -> None:
    left, top, *_ = margins
    assert without_margins(framed(*margins, level)) == (left, top, left + WIDTH, top + HEIGHT)


@pytest.mark.parametrize("quality", [30, 60, 90])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_jpeg_noise_hides_no_margin(level: int, quality: int) -> None:
    box = without_margins(compressed(framed(32, 24, 48, 40, level), quality))
    assert box == pytest.approx((32, 24, 32 + WIDTH, 24 + HEIGHT), abs=0.03 * WIDTH)


def test_margins_of_different_levels_are_cut_one_by_one() -> None:
    bars = np.pad(CHEST, ((0, 0), (30, 0)), constant_values=255)
    frame = np.pad(np.pad(bars, ((20, 0), (0, 0)), constant_values=0), ((9, 9), (9, 9)), constant_values=90)
    assert without_margins(frame) == (39, 29, 39 + WIDTH, 29 + HEIGHT)


def test_a_collimated_border_with_grain_stays() -> None:
    film = np.random.default_rng(0).normal(14, 6, (260, 240)).clip(0, 255).astype(np.uint8)
    film[30:222, 30:214] = CHEST
    assert without_margins(film) == (0, 0, 240, 260)


@pytest.mark.parametrize(
    "pixels", [np.full((50, 60), 7, np.uint8), np.pad(CHEST[:20, :20], 60), np.eye(40, dtype="u1")]
)
def test_an_image_of_hardly_anything_else_stays_whole(pixels: np.ndarray) -> None:
    assert without_margins(pixels) == (0, 0, pixels.shape[1], pixels.shape[0])


@pytest.mark.parametrize("geometry", ["stretch", "centre-crop"])
def test_a_letterboxed_image_is_prepared_like_the_image(geometry: Literal["stretch", "centre-crop"]) -> None:
    preparation = Preparation(size=64, geometry=geometry, normalisation="equalise", trim=True)
    assert np.array_equal(preparation.apply(image(framed(60, 0, 50, 0, 0))), preparation.apply(image(CHEST)))


def test_packages_without_the_field_keep_the_margins() -> None:
    preparation = Preparation(size=64)
    assert not preparation.trim
    assert preparation.region(image(framed(60, 0, 50, 0, 0))) == (0, 0, WIDTH + 110, HEIGHT)


def test_the_heatmap_lies_over_the_cut_image_not_its_margins() -> None:
    whole = image(framed(60, 10, 50, 0, 0))
    cam = np.ones((6, 6), np.float32)
    plain = Image.open(io.BytesIO(heatmap_png(whole, cam * 0, Preparation(size=64, trim=True)))).convert("RGB")
    warm = Image.open(io.BytesIO(heatmap_png(whole, cam, Preparation(size=64, trim=True)))).convert("RGB")
    changed = (np.asarray(plain) != np.asarray(warm)).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == (60, 10, 60 + WIDTH, 10 + HEIGHT)
