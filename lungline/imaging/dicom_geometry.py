r"""The geometry of a DICOM image: turn it upright and unmirrored, cut off padding, and correct its pixel aspect ratio.

An upright frontal image has its rows run to the patient's left and its columns to the feet (patient orientation L\\F).
Field of view rotation and flip (0018,7032 and 0018,7034) are not read: they state what the equipment has already done.

Source: DICOM PS3.3 C.7.6.1.1.1 (patient orientation), C.7.6.2.1.1 (image orientation), 10.7.1.3 (pixel spacing).
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from lungline.imaging.dicom_header import DicomFile
from lungline.imaging.image import Pixels

_ORIENTATION, _DIRECTIONS = 0x00200020, 0x00200037
_SPACINGS = (0x00280030, 0x00181164, 0x00182010)  # of the pixel, of the imager, nominal of a scanned film
_ASPECT = 0x00280034
NEEDED = frozenset((_ORIENTATION, _DIRECTIONS, *_SPACINGS, _ASPECT))

LATERAL = "the DICOM header gives the patient orientation of a lateral view, not of a frontal chest X-ray"
AXIAL = "the DICOM header gives the patient orientation of an axial view, not of a frontal chest X-ray"
TURNED = "turned upright as the patient orientation says"
_OPPOSITE = {"L": "R", "R": "L", "F": "H", "H": "F", "A": "P", "P": "A"}
_AXES = ("LR", "FH", "AP")
_LARGEST_ASPECT = 10.0  # more is a broken header
_SMALLEST_CHANGE = 0.01

Array = TypeVar("Array", bound=npt.NDArray[Any])


@dataclass(frozen=True, slots=True)
class Turn:
    """How stored pixels are turned upright: exchange of rows and columns first, then flips.

    `orientation` is the patient orientation after that, empty where the header does not say. `not_frontal` is why it
    cannot be a frontal image.
    """

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False
    orientation: tuple[str, str] | tuple[()] = ()
    not_frontal: str | None = None

    @property
    def is_needed(self) -> bool:
        """Whether the pixels are not upright yet."""
        return self.transpose or self.flip_rows or self.flip_columns

    def apply(self, pixels: Array) -> Array:
        """Turn pixels (H, W) or (H, W, samples)."""
        turned = pixels.swapaxes(0, 1) if self.transpose else pixels
        turned = turned[::-1] if self.flip_rows else turned
        return turned[:, ::-1] if self.flip_columns else turned  # pyright: ignore[reportReturnType]


def read_turn(file: DicomFile) -> Turn:
    """Read how the image has to be turned."""
    declared = file.values.get(_ORIENTATION, b"").decode("ascii", "replace").upper().split("\\")
    letters = [part.strip(" \0")[:1] for part in declared]
    if not _is_orientation(letters):
        letters = _letters(file.decimals(_DIRECTIONS))
        # The axial directions of computed tomography are what some software writes into every image.
        if not _is_orientation(letters) or not set(letters) & {"F", "H"}:
            return Turn()
    row, column = letters
    transpose = row in "FH"
    if transpose:
        row, column = column, row
    if column not in "FH":
        return Turn(orientation=(row, column), not_frontal=AXIAL)
    flip_rows, flip_columns = column == "H", row == "R"
    orientation = ("L" if flip_columns else row, "F")
    return Turn(transpose, flip_rows, flip_columns, orientation, LATERAL if row in "AP" else None)


def _is_orientation(letters: list[str]) -> bool:
    if len(letters) != 2 or any(letter not in _OPPOSITE for letter in letters):
        return False
    return letters[0] != letters[1] and _OPPOSITE[letters[0]] != letters[1]


def _letters(directions: tuple[float, ...]) -> list[str]:
    """Return the main directions of rows and columns, given as six cosines."""
    letters: list[str] = []
    for cosines in (directions[:3], directions[3:6]):
        if len(cosines) < 3 or not any(cosines):
            return []
        axis = int(np.argmax(np.abs(cosines)))
        letters.append(("LR", "PA", "HF")[axis][0 if cosines[axis] > 0 else 1])
    return letters


def aspect(file: DicomFile) -> float:
    """Return the height of a stored pixel over its width; 1 if the header gives none, or an implausible one."""
    for tag in (*_SPACINGS, _ASPECT):
        values = file.decimals(tag)
        if len(values) >= 2 and values[0] > 0 and values[1] > 0:
            ratio = values[0] / values[1]
            return ratio if 1 / _LARGEST_ASPECT <= ratio <= _LARGEST_ASPECT else 1.0
    return 1.0


def in_proportion(pixels: Pixels, ratio: float, max_pixels: float) -> Pixels:
    """Enlarge pixels (H, W) or (H, W, 3) in the direction in which they are too dense, `ratio` height over width.

    If that gives more than `max_pixels`, the other direction is reduced instead.
    """
    if abs(ratio - 1) < _SMALLEST_CHANGE:
        return pixels
    height, width = pixels.shape[:2]
    size = (width, round(height * ratio)) if ratio > 1 else (round(width / ratio), height)
    if size[0] * size[1] > max_pixels:
        size = (max(1, round(width / ratio)), height) if ratio > 1 else (width, max(1, round(height * ratio)))
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BILINEAR))


def padding_margins(is_padding: npt.NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the rows and columns inside margins that are all padding; everything if there is nothing else."""
    rows, columns = (np.flatnonzero(~is_padding.all(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(None), slice(None)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
