"""How often monitoring raises a false alarm, and what it detects within one window, on a package and a data set.

    python -m benchmarks.drift --package FOLDER --data FOLDER_OR_ZIP

Pictures of val and test, which the network has not learnt from, are parted by patient at random, again and again: one
side is the reference, the other the field. All are saved anew as JPEG of the same quality, so that a change is seen
for what it is and not for another encoder.
"""

import argparse
import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from lungline.datasets.opening import open_dataset
from lungline.diagnosis.diagnoser import Diagnoser
from lungline.monitoring.comparison import TESTS, ComparedResult, compare, sample
from lungline.package.package import Package
from lungline.settings import load_settings

Change = Callable[[Image.Image], Image.Image]


def brighter(levels: int) -> Change:
    """Grey levels added."""
    return lambda image: image.point([min(255, level + levels) for level in range(256)])


def gamma(power: float) -> Change:
    """Dark levels spread or pressed."""
    return lambda image: image.point([round(255 * (level / 255) ** power) for level in range(256)])


def blurred(radius: float) -> Change:
    """Softer; the radius is of a picture of 224 pixels."""
    return lambda image: image.filter(ImageFilter.GaussianBlur(radius * min(image.size) / 224))


def adult(closer: float, aspect: float, larger: float) -> Change:
    """A larger chest fills more of the film, which is wider, and has more pixels."""

    def change(image: Image.Image) -> Image.Image:
        width, height = image.size
        edge = (1 - closer) / 2
        box = (edge * width, edge * height, (1 - edge) * width, (1 - edge) * height)
        return image.resize((round(width * larger * aspect), round(height * larger)), Image.Resampling.BICUBIC, box)

    return change


CHANGES: dict[str, Change] = {
    "none": lambda image: image,
    "exposure: 10 grey levels brighter": brighter(10),
    "exposure: 20 grey levels brighter": brighter(20),
    "exposure: gamma 1.3": gamma(1.3),
    "scanner: blur of radius 0.5 px at 224": blurred(0.5),
    "scanner: blur of radius 1 px at 224": blurred(1.0),
    "adults: chest 10 % larger, as many pixels": adult(0.9, 1.0, 1.0),
    "adults: chest 5 % larger, as many pixels": adult(0.95, 1.0, 1.0),
    "adults: film 15 % wider, 1.5 times the pixels": adult(1.0, 1.15, 1.5),
}
MIXES = {"labels: half of it pneumonia instead of three quarters": 0.5, "labels: a quarter of it pneumonia": 0.25}


def saved(image: Image.Image) -> bytes:
    """A JPEG file, as every picture here."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def judged(diagnoser: Diagnoser, data: bytes, patient: str) -> ComparedResult:
    """What serving would find."""
    found = diagnoser.diagnose(data, heatmap=False)
    return ComparedResult(found.label, found.probability, found.statistics, patient)


class Images:
    """What a package sees in pictures, each with its truth, its patient and its file, as they are and changed."""

    def __init__(
        self, package: Path, pictures: Iterable[tuple[bool, str, bytes]], changes: Mapping[str, Change] = CHANGES
    ) -> None:
        known = [(sick, patient, Image.open(io.BytesIO(data)).convert("L")) for sick, patient, data in pictures]
        diagnoser = Diagnoser(Package.load(package))
        self.sick = np.array([sick for sick, _, _ in known])
        _, self.patients = np.unique([patient for _, patient, _ in known], return_inverse=True)
        self.seen = {
            name: [judged(diagnoser, saved(change(image)), patient) for _, patient, image in known]
            for name, change in changes.items()
        }

    def parted(self, rng: np.random.Generator, window: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a reference and of a field that share no patient; the field has `window` rows or more."""
        order = rng.permutation(self.patients.max() + 1)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        for last in range(1, len(order)):
            field = np.flatnonzero(rank[self.patients] < last)
            if len(field) >= window:
                return np.flatnonzero(rank[self.patients] >= last), field
        raise ValueError("There are fewer pictures than a window has.")


def measure(pictures: Images, *, runs: int, window: int, alarm_rate: float) -> dict[str, dict[str, float]]:
    """Share of runs with an alarm, by change: of any test, and of each."""
    heard: dict[str, list[tuple[str, ...]]] = {}
    for run in range(runs):
        rng = np.random.default_rng(run)
        known, field = pictures.parted(rng, window)
        plain = sample(pictures.seen["none"][row] for row in known)
        for name, seen in pictures.seen.items():
            chosen = rng.permutation(field)[:window]
            found = compare(plain, sample(seen[row] for row in chosen), alarm_rate, seed=run)
            heard.setdefault(name, []).append(found.alarms)
        for name, share in MIXES.items():
            # Of few normal pictures in the data, the field needs most.
            known, field = pictures.parted(rng, round(window * max(1, (1 - share) / np.mean(~pictures.sick))))
            plain = sample(pictures.seen["none"][row] for row in known)
            chosen = mixed(rng, field, pictures.sick, share)[:window]
            found = compare(plain, sample(pictures.seen["none"][row] for row in chosen), alarm_rate, seed=run)
            heard.setdefault(name, []).append(found.alarms)
    return {
        name: {"any": float(np.mean([bool(one) for one in alarms]))}
        | {test: float(np.mean([test in one for one in alarms])) for test in TESTS}
        for name, alarms in heard.items()
    }


def mixed(rng: np.random.Generator, field: np.ndarray, sick: np.ndarray, share: float) -> np.ndarray:
    """As many rows as the field can give with that share of pneumonia, none twice."""
    healthy, ill = rng.permutation(field[~sick[field]]), rng.permutation(field[sick[field]])
    count = min(len(healthy) / (1 - share), len(ill) / share)
    return rng.permutation(np.concatenate([healthy[: round(count * (1 - share))], ill[: round(count * share)]]))


def main() -> None:
    """Print the shares as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, required=True, help="folder of a model package")
    parser.add_argument("--data", required=True, help="the data set that it was trained on")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--window", type=int, default=200)
    parser.add_argument("--alarm-rate", type=float, default=load_settings().monitor.alarm_rate)
    asked = parser.parse_args()
    dataset = open_dataset(asked.data, settings=load_settings())
    unseen = (one for one in dataset.examples if one.split in {"val", "test"})
    pictures = Images(asked.package, ((one.label == 1, one.patient or one.name, dataset.read(one)) for one in unseen))
    shares = measure(pictures, runs=asked.runs, window=asked.window, alarm_rate=asked.alarm_rate)
    print(json.dumps(shares, indent=1))


if __name__ == "__main__":
    main()
