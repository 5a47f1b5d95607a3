"""The map of a heatmap, and what is drawn from it."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from lungline.imaging.heatmap import MOST_CELLS, EvidenceMap, draw, overlay
from lungline.imaging.image import DecodedImage
from worklist.exports.images import lift

WHOLE = (0.0, 0.0, 1.0, 1.0)
CORNER = np.zeros((4, 6), np.float32)
CORNER[0, 5] = 1.0


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png), formats=["PNG"])


def test_a_map_keeps_its_levels_and_survives_json() -> None:
    evidence = EvidenceMap.of(CORNER, (0.1, 0.0, 0.9, 1.0))
    assert (evidence.width, evidence.height) == (6, 4)
    assert np.array_equal(evidence.cells, np.rint(CORNER * 255))
    assert EvidenceMap.model_validate_json(evidence.model_dump_json()) == evidence


def test_a_map_of_any_network_fits_a_record() -> None:
    evidence = EvidenceMap.of(np.eye(300, 200, dtype=np.float32), WHOLE)
    assert max(evidence.width, evidence.height) == MOST_CELLS
    EvidenceMap.model_validate(evidence.model_dump())  # so it can be read back


@pytest.mark.parametrize(
    "change",
    [{"levels": "AAAA"}, {"levels": "no base64!"}, {"width": 65}, {"region": (0.5, 0.0, 0.4, 1.0)}, {"height": 0}],
)
def test_a_map_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EvidenceMap.model_validate(EvidenceMap.of(CORNER, WHOLE).model_dump() | change)


def test_colours_lie_where_the_map_says_and_nowhere_else() -> None:
    """Over the image, and alone for a viewer that lays them over the image itself."""
    evidence = EvidenceMap.of(CORNER, (0.0, 0.0, 0.5, 1.0))
    grey = DecodedImage(np.full((80, 120), 90, np.uint8), "png", 120, 80, 0.0, ())
    drawn, alone = np.asarray(opened(draw(grey, evidence)), int), np.asarray(opened(overlay(evidence, 120, 80)), int)
    coloured = np.ptp(drawn, axis=2) > 0
    assert coloured[5, 55]
    assert not coloured[:, 60:].any()
    assert not coloured[60:].any()
    assert not alone[:, 60:, 3].any()
    mixed = np.rint((alone[..., :3] * alone[..., 3:] + 90 * (255 - alone[..., 3:])) / 255)
    assert np.abs(mixed - drawn).max() <= 1


def test_the_overlay_looks_like_the_one_lifted_from_a_stored_heatmap() -> None:
    evidence = EvidenceMap.of(CORNER, WHOLE)
    grey = DecodedImage(np.full((80, 120), 90, np.uint8), "png", 120, 80, 0.0, ())
    old, new = (np.asarray(opened(png), int) for png in (lift(draw(grey, evidence)), overlay(evidence, 120, 80)))
    red = 2, 118
    assert old[red][0] == pytest.approx(new[red][0], abs=70)
    assert old[red][3] == pytest.approx(new[red][3], abs=40)
    assert old[70, 10, 3] == new[70, 10, 3] == 0
