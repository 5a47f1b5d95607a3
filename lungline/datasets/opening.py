"""Open labelled X-rays, wherever they lie."""

# pooch ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lungline.datasets.dataset import CLASSES, SPLITS, Dataset, Example, Kind, cut_validation
from lungline.datasets.layout import EXPECTED, find_layout
from lungline.datasets.phantom_dataset import PHANTOMS, open_phantoms
from lungline.datasets.prepared import Prepared, Row, prepare
from lungline.datasets.reader_labels import merge
from lungline.datasets.sources import ArraySource, FolderSource, S3Source, Source, ZipSource
from lungline.errors import DataError
from lungline.settings import Settings
from lungline.storage.s3 import Storage, parse_uri

ZENODO = "https://zenodo.org/records/10519652/files/{file}?download=1"
# Side of the images in pixels, file, and the MD5 that the Zenodo record states.
FILES = {
    28: ("pneumoniamnist.npz", "28209eda62fecd6e6a2d98b1501bb15f"),
    64: ("pneumoniamnist_64.npz", "8f4eceb4ccffa70c672198ea285246c6"),
    128: ("pneumoniamnist_128.npz", "05b46931834c231683c68f40c47b2971"),
    224: ("pneumoniamnist_224.npz", "d6a3c71de1b945ea11211b03746c1fe1"),
}
# Short, so that a machine without internet falls back at once; then patience between two parts of a slow download.
_CONNECT_SECONDS, _READ_SECONDS = 5, 60


def cached(size: int) -> Path | None:
    """The file of images of that side, when it was downloaded before and is whole."""
    import pooch

    name, md5 = FILES[size]
    file = Path(pooch.os_cache("lungline")) / name
    return file if file.exists() and pooch.file_hash(str(file), alg="md5") == md5 else None


def download(size: int) -> Path:
    """The file of images of that side, downloaded unless it is cached, with a progress bar on standard error.

    Raises DataError, which says what to do instead, when it cannot be had.
    """
    import pooch
    import requests

    if file := cached(size):
        return file
    name, md5 = FILES[size]
    timeout = (_CONNECT_SECONDS, _READ_SECONDS)
    # pooch announces each download in its log as well; the progress bar says enough.
    pooch.get_logger().setLevel("WARNING")
    fetch: Any = pooch.HTTPDownloader(progressbar=True, timeout=timeout)
    url = ZENODO.format(file=name)
    try:
        path = pooch.retrieve(url, f"md5:{md5}", fname=name, path=pooch.os_cache("lungline"), downloader=fetch)
    except (requests.RequestException, OSError, ValueError) as exc:
        raise DataError(
            f"{name} could not be downloaded from zenodo.org ({type(exc).__name__}); "
            "give a folder or zip of X-rays instead, or use phantom."
        ) from exc
    return Path(path)


__all__ = [
    "CLASSES",
    "SPLITS",
    "Dataset",
    "Example",
    "Kind",
    "Prepared",
    "Row",
    "open_dataset",
    "prepare",
]

SPECS = "a folder, a zip, an .npz, medmnist:28|64|128|224, s3://bucket/prefix, phantom[:N] or auto"
# The size that the default network takes.
_AUTO_SIZE = 64


def open_dataset(
    spec: str = "auto", *, settings: Settings, require: Sequence[str] = SPLITS, feedback: str | None = None
) -> Dataset:
    """The data set that `spec` names: a folder, a zip, an .npz, medmnist:SIZE, s3://, phantom[:N], or auto.

    `auto` is the setting `data`; when that says auto too, a cached download, else a download, else phantoms with a
    notice. `require` names the splits that must hold both classes; a missing val is cut from train by patient.
    With one required split, images may also lie in class folders directly. `feedback` names what readers said, a
    folder, a zip or s3:// as `lungline feedback export` writes it, and is merged in.
    Raises DataError with what was expected and what was found.
    """
    if spec == "auto":
        spec = settings.data
    dataset = _open_auto(settings) if spec == "auto" else _open(spec, settings, require)
    examples = dataset.examples
    if "val" in require and not dataset.of("val"):
        examples = cut_validation(examples)
    dataset = replace(dataset, examples=examples)
    if feedback:
        dataset = merge(dataset, _open(feedback, settings, ()))
    _check_classes(dataset.name, dataset.examples, require)
    return dataset


def _open(spec: str, settings: Settings, require: Sequence[str]) -> Dataset:
    kind, _, rest = spec.partition(":")
    if kind == "phantom":
        return open_phantoms(rest or str(PHANTOMS))
    if kind == "medmnist":
        return _open_medmnist(rest)
    if spec.startswith("s3://"):
        bucket, prefix = parse_uri(spec)
        source = S3Source(Storage.from_settings(settings), bucket, prefix, settings.image_max_bytes)
        return _laid_out(spec, source, require)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _laid_out(path.resolve().name, FolderSource(path, settings.image_max_bytes), require)
    if not path.is_file():
        raise DataError(f"There is no data at {spec}; expected {SPECS}.")
    zipped = ZipSource(path, settings.image_max_bytes)
    if any(name.endswith("_images.npy") for name in zipped.paths()):
        return _in_arrays(path.name, path)
    return _laid_out(path.name, zipped, require)


def _laid_out(name: str, source: Source, require: Sequence[str]) -> Dataset:
    try:
        layout = find_layout(source.paths(), only_split=require[0] if len(require) == 1 else None)
    except DataError as exc:
        raise DataError(f"{name}: {exc}") from exc
    left = layout.left_out
    notice = f"{name}: {len(left)} files outside of {EXPECTED} were left out, such as {left[0]}." if left else None
    return Dataset(name, layout.examples, lambda example: source.read(layout.paths[example.name]), notice=notice)


def _in_arrays(name: str, file: Path) -> Dataset:
    source = ArraySource(file)
    return Dataset(name, tuple(source.examples()), source.read)


def _open_medmnist(size: str) -> Dataset:
    if size not in map(str, FILES):
        raise DataError(
            f"Expected medmnist:SIZE with SIZE one of {', '.join(map(str, FILES))}; found {size or 'none'}."
        )
    return _in_arrays(f"medmnist:{size}", download(int(size)))


def _open_auto(settings: Settings) -> Dataset:
    """Real data where they can be had, else phantoms that say why."""
    if cached(_AUTO_SIZE):
        return _open_medmnist(str(_AUTO_SIZE))
    why = "downloads are off"
    if not settings.offline:
        try:
            return _open_medmnist(str(_AUTO_SIZE))
        except DataError:
            why = "PneumoniaMNIST could not be downloaded from zenodo.org"
    phantoms = open_phantoms(str(PHANTOMS))
    notice = f"LUNGLINE_DATA is not set and {why}, so synthetic phantoms stand in. {phantoms.notice}"
    return replace(phantoms, notice=notice)


def _check_classes(name: str, examples: Sequence[Example], require: Sequence[str]) -> None:
    counts = Counter((example.split, example.label) for example in examples)
    for split in require:
        for label, title in enumerate(CLASSES):
            if not counts[split, label]:
                found = ", ".join(f"{counts[split, at]} {other}" for at, other in enumerate(CLASSES))
                raise DataError(f"{name}: expected both classes in {split}; found no {title} image ({found}).")
