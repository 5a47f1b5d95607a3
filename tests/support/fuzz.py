"""Mutated image files of all formats for the decoder: `python -m tests.support.fuzz --files 20000`.

Each file must become an image or a typed refusal, in bounded time and memory. File N of a seed is always the same:
`--only N` decodes it again. The work runs in a process of its own, so that a crash of a decoder is noticed.
"""

import argparse
import io
import json
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import psutil
from PIL import Image

from lungline.datasets import phantom
from lungline.errors import ImageRefused
from lungline.imaging.image import Limits
from lungline.imaging.preparation import Preparation
from tests.support import dicom_files

LIMITS = Limits(max_pixels=4_000_000, min_side=1)
# Bytes at the start of a file, where most errors matter.
_HEADER = 800
# libtiff writes errors to standard error, and Pillow has no option to prevent it.
_LIBTIFF = (
    "ZIPDecode: ",
    "LZWDecode: ",
    "LZWDecodeCompat: ",
    "PackBitsDecode: ",
    "tempfile.tif: ",
    "TIFF",
    "_TIFF",
    "MissingRequired: ",
)
_EDGES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)


def corpus() -> dict[str, bytes]:
    """Small files of every format that the decoder accepts, and some that it refuses."""
    grey = Image.fromarray(phantom.draw(np.random.default_rng(5), opacities=True, size=80)[:60])
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 200)
    palette = grey.convert("P", palette=Image.Palette.ADAPTIVE)
    turned = Image.Exif()
    turned[0x0112] = 6
    files = {
        "jpeg": _encoded(grey, "JPEG", quality=90, exif=turned),
        "jpeg-progressive": _encoded(grey.convert("RGB"), "JPEG", progressive=True),
        "jpeg-cmyk": _encoded(grey.convert("CMYK"), "JPEG"),
        "png": _encoded(grey, "PNG", exif=turned),
        "png-deep": _encoded(deep, "PNG"),
        "png-palette": _encoded(palette, "PNG", transparency=b"\0\x80"),
        "png-alpha": _encoded(grey.convert("LA"), "PNG"),
        "bmp": _encoded(grey, "BMP"),
        "bmp-colour": _encoded(grey.convert("RGB"), "BMP"),
        "webp": _encoded(grey.convert("RGB"), "WEBP", quality=80, exif=turned),
        "webp-alpha": _encoded(grey.convert("RGBA"), "WEBP", quality=80),
        "webp-lossless": _encoded(grey.convert("RGB"), "WEBP", lossless=True),
        "gif": _encoded(grey, "GIF"),
    }
    for name, image in {"grey": grey, "deep": deep, "palette": palette, "colour": grey.convert("RGB")}.items():
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits"):
            files[f"tiff-{name}-{compression}"] = _encoded(image, "TIFF", compression=compression)
    return files | _dicoms()


def _dicoms() -> dict[str, bytes]:
    pixels = dicom_files.film(64)
    table = dicom_files.dataset(pixels)
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], (np.arange(4096) * 16).astype(np.uint16).tobytes()
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "OW"
    window: dict[str, Any] = {"bits": 12, "WindowCenter": "2000", "WindowWidth": "3000"}
    files = {
        f"dicom-{syntax}": dicom_files.write(pixels, syntax, **window)
        for syntax in dicom_files.EXACT + dicom_files.LOSSY
    }
    colour = np.stack([dicom_files.film(64, bits=8)] * 3, axis=2)
    capture: dict[str, Any] = {"storage": dicom_files.CAPTURE, "Modality": "OT"}
    return files | {
        "dicom-baseline": dicom_files.write(dicom_files.film(64, bits=8), dicom_files.BASELINE),
        "dicom-colour": dicom_files.write(colour, dicom_files.BASELINE, **capture),
        "dicom-colour-runs": dicom_files.write(colour, dicom_files.RLE, **capture),
        "dicom-frames": dicom_files.write(pixels, dicom_files.JPEG_LS, frames=3, **window),
        "dicom-table": dicom_files.write(pixels, bits=12, VOILUTSequence=[table], RescaleSlope="2"),
        "dicom-signed": dicom_files.write(dicom_files.film(64, signed=True), bits=12, PixelPaddingValue=-2048),
        "dicom-bare": dicom_files.write(pixels, preamble=False, **window),
    }


def _encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def mutated(files: dict[str, bytes], number: int, seed: int) -> tuple[str, bytes]:
    """Return the name and content of file `number` of a seed."""
    chance = random.Random(f"{seed}/{number}")
    name = sorted(files)[number % len(files)]
    data = bytearray(files[name])
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5, 12))):
        chance.choice(_MUTATIONS)(data, chance, files)
    return name, bytes(data)


def _place(data: bytearray, chance: random.Random) -> int:
    reach = min(_HEADER, len(data)) if chance.random() < 0.6 else len(data)
    return chance.randrange(max(1, reach))


def _flip(data: bytearray, chance: random.Random, _: dict[str, bytes]) -> None:
    if data:
        data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _set(data: bytearray, chance: random.Random, _: dict[str, bytes]) -> None:
    if data:
        data[_place(data, chance)] = chance.choice((*_EDGES, chance.randrange(256)))


def _number(data: bytearray, chance: random.Random, _: dict[str, bytes]) -> None:
    size, order = chance.choice((2, 4)), chance.choice(("little", "big"))
    value = chance.choice((0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, chance.randrange(100_000)))
    at = _place(data, chance)
    data[at : at + size] = (value % 256**size).to_bytes(size, order)  # pyright: ignore[reportArgumentType]


def _cut(data: bytearray, chance: random.Random, _: dict[str, bytes]) -> None:
    start = _place(data, chance)
    del data[start : start + chance.choice((1, 2, 4, 16, 100, len(data)))]


def _repeat(data: bytearray, chance: random.Random, _: dict[str, bytes]) -> None:
    start = _place(data, chance)
    part = data[start : start + chance.choice((1, 8, 64, 500))]
    data[start:start] = part * chance.choice((1, 2, 50))


def _splice(data: bytearray, chance: random.Random, files: dict[str, bytes]) -> None:
    other = files[chance.choice(sorted(files))]
    start = chance.randrange(len(other))
    part, at = other[start : start + chance.choice((4, 32, 300))], _place(data, chance)
    data[at : at + len(part)] = part


_MUTATIONS: tuple[Callable[[bytearray, random.Random, dict[str, bytes]], None], ...] = (
    *(_flip, _flip, _set, _set, _number, _number),
    *(_cut, _repeat, _splice),
)


@dataclass
class Outcome:
    """The result of a run; `slowest` in milliseconds of CPU time, memory in megabytes."""

    files: int = 0
    accepted: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0
    slowest_file: str = ""
    peak_growth: float = 0.0
    growth: float = 0.0
    seconds: float = 0.0


def run(count: int, seed: int, first: int = 0) -> Outcome:
    """Decode files `first` to `first + count` in this process."""
    files, preparation, outcome, refused = corpus(), Preparation(), Outcome(), Counter[str]()
    for data in files.values():  # load every decoder before memory is measured
        _decode(preparation, data)
    start, process = time.monotonic(), psutil.Process()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    settled = 0
    for number in range(first, first + count):
        name, data = mutated(files, number, seed)
        begun = time.thread_time()
        reason = _decode(preparation, data)
        took = (time.thread_time() - begun) * 1000
        outcome.files += 1
        if reason.startswith("!"):
            outcome.wrong.append(f"{number} {name} {reason}")
        elif reason == "accepted":
            outcome.accepted += 1
        else:
            refused[reason] += 1
        if took > outcome.slowest:
            outcome.slowest, outcome.slowest_file = took, f"{number} {name}"
        if number - first == count // 4:
            settled = process.memory_info().rss
    outcome.refused = dict(refused.most_common())
    outcome.peak_growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    outcome.growth = (process.memory_info().rss - settled) / 2**20
    outcome.seconds = time.monotonic() - start
    return outcome


def _decode(preparation: Preparation, data: bytes) -> str:
    try:
        image = preparation.decode(data, LIMITS)
        pixels = preparation.apply(image)
    except ImageRefused as refused:
        sentence = str(refused)
        return refused.reason if sentence.endswith(".") and "\n" not in sentence else f"!{sentence!r}"
    except Exception as exc:  # noqa: BLE001 - the fuzzer reports every error
        return f"!{type(exc).__name__}: {exc}"
    return "accepted" if np.isfinite(pixels).all() else "!not finite"


def run_apart(count: int, seed: int, timeout: float) -> Outcome:
    """`run` in a process of its own; a crash, a warning or a hang raises."""
    command = [sys.executable, "-X", "faulthandler", "-W", "error", "-m", "tests.support.fuzz", "--here"]
    command += ["--files", str(count), "--seed", str(seed)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)
    messages = [line for line in process.stderr.splitlines() if not line.startswith(_LIBTIFF)]
    if process.returncode or messages:
        raise AssertionError(f"exit {process.returncode}: {messages[-40:]}")
    return Outcome(**json.loads(process.stdout))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.fuzz", description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--here", action="store_true", help="in this process")
    parser.add_argument("--only", type=int, help="decode a single file and print the result")
    arguments = parser.parse_args()
    if arguments.only is not None:
        name, data = mutated(corpus(), arguments.only, arguments.seed)
        print(name, len(data), Preparation().decode(data, LIMITS))
        return
    outcome = (
        run(arguments.files, arguments.seed)
        if arguments.here
        else run_apart(arguments.files, arguments.seed, timeout=3600)
    )
    print(json.dumps(asdict(outcome), indent=None if arguments.here else 2))
    sys.exit(bool(outcome.wrong) and not arguments.here)


if __name__ == "__main__":
    main()
