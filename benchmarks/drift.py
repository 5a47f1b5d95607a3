"""How often monitoring raises a false alarm, and what it detects within one window, on a package and a data set.

    python -m benchmarks.drift --package FOLDER --data FOLDER_OR_ZIP

Images of val and test, which the network was not trained on, are split by patient at random, once for each run: one
side is the reference, the other stands for production data. All are saved again as JPEG of the same quality, so that a
change is not confused with another encoder.
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
    """Add grey levels."""
    return lambda image: image.point([min(255, level + levels) for level in range(256)])


def gamma(power: float) -> Change:
    """Apply a gamma curve."""
    return lambda image: image.point([round(255 * (level / 255) ** power) for level in range(256)])


def blurred(radius: float) -> Change:
    """Blur, with the radius in pixels of an image of 224 pixels."""
    return lambda image: image.filter(ImageFilter.GaussianBlur(radius * min(image.size) / 224))


def adult(closer: float, aspect: float, larger: float) -> Change:
    """A larger chest: it fills more of the image, which is wider and has more pixels."""

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
    """The JPEG file of an image."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def diagnosed(diagnoser: Diagnoser, data: bytes, patient: str) -> ComparedResult:
    """The result that serving would save."""
    diagnosis = diagnoser.diagnose(data, heatmap=False)
    return ComparedResult(diagnosis.label, diagnosis.probability, diagnosis.statistics, patient)


class Images:
    """A package's results for images (truth, patient, file), unchanged and with each change."""

    def __init__(
        self, package: Path, files: Iterable[tuple[bool, str, bytes]], changes: Mapping[str, Change] = CHANGES
    ) -> None:
        images = [(sick, patient, Image.open(io.BytesIO(data)).convert("L")) for sick, patient, data in files]
        diagnoser = Diagnoser(Package.load(package))
        self.sick = np.array([sick for sick, _, _ in images])
        _, self.patients = np.unique([patient for _, patient, _ in images], return_inverse=True)
        self.results = {
            name: [diagnosed(diagnoser, saved(change(image)), patient) for _, patient, image in images]
            for name, change in changes.items()
        }

    def split(self, rng: np.random.Generator, window: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a reference and of production data without common patients; at least `window` of the latter."""
        order = rng.permutation(self.patients.max() + 1)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        for last in range(1, len(order)):
            production = np.flatnonzero(rank[self.patients] < last)
            if len(production) >= window:
                return np.flatnonzero(rank[self.patients] >= last), production
        raise ValueError("There are fewer images than a window has.")


def measure(images: Images, *, runs: int, window: int, alarm_rate: float) -> dict[str, dict[str, float]]:
    """Share of runs with an alarm, by change: of any test, and of each."""
    alarms: dict[str, list[tuple[str, ...]]] = {}
    for run in range(runs):
        rng = np.random.default_rng(run)
        reference, production = images.split(rng, window)
        plain = sample(images.results["none"][row] for row in reference)
        for name, results in images.results.items():
            chosen = rng.permutation(production)[:window]
            comparison = compare(plain, sample(results[row] for row in chosen), alarm_rate, seed=run)
            alarms.setdefault(name, []).append(comparison.alarms)
        for name, share in MIXES.items():
            # The data has few normal images, and production needs most of them.
            reference, production = images.split(rng, round(window * max(1, (1 - share) / np.mean(~images.sick))))
            plain = sample(images.results["none"][row] for row in reference)
            chosen = mixed(rng, production, images.sick, share)[:window]
            comparison = compare(plain, sample(images.results["none"][row] for row in chosen), alarm_rate, seed=run)
            alarms.setdefault(name, []).append(comparison.alarms)
    return {
        name: {"any": float(np.mean([bool(names) for names in runs_alarms]))}
        | {test: float(np.mean([test in names for names in runs_alarms])) for test in TESTS}
        for name, runs_alarms in alarms.items()
    }


def mixed(rng: np.random.Generator, rows: np.ndarray, sick: np.ndarray, share: float) -> np.ndarray:
    """As many of the rows as have this share of pneumonia, none twice."""
    healthy, ill = rng.permutation(rows[~sick[rows]]), rng.permutation(rows[sick[rows]])
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
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.data, settings=load_settings())
    unseen = (example for example in dataset.examples if example.split in {"val", "test"})
    files = ((example.label == 1, example.patient or example.name, dataset.read(example)) for example in unseen)
    images = Images(arguments.package, files)
    shares = measure(images, runs=arguments.runs, window=arguments.window, alarm_rate=arguments.alarm_rate)
    print(json.dumps(shares, indent=1))


if __name__ == "__main__":
    main()
