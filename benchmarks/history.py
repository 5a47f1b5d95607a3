"""How costs grow with the number of results: `python -m benchmarks.history`.

A store is filled up to each size with uploads and records; then one result is saved and found, the latest are
listed, and all uploads are reconciled with all results. Medians in milliseconds.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.filler import Filler
from eventing.reconcile import reconcile
from laptop.services.store import running_store
from lungline.events.uploads import Upload
from lungline.results import latest_list, record_store
from lungline.results.records import ModelFacts, OperatingPoint, ResultRecord, Times, UploadFacts
from lungline.settings import Settings, load_settings
from lungline.storage.s3 import Storage

SIZES = (1_000, 10_000, 100_000)
MISSING = 5
REPEATS = 25
VERSION = "1"
FIRST = 1_700_000_000  # when the first upload was stored; the others follow one a second


def measure(sizes: tuple[int, ...] = SIZES, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Metrics for each size."""
    by_size: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lungline-bench-")))
        settings = stack.enter_context(running_store(folder, load_settings({"home": folder})))
        storage, filled = Storage.from_settings(settings), 0
        storage.exists(settings.results_bucket, "nothing")  # imports on the first call are not measured
        for size in sizes:
            began = time.perf_counter()
            with Filler(settings) as filler:
                for number in range(filled, size):
                    _fill(filler, settings, number)
            filled = size
            say(f"{size} results are in the store after {time.perf_counter() - began:.0f} s")
            by_size[str(size)] = _costs(storage, settings, size)
        storage.close()
    return by_size


def _fill(filler: Filler, settings: Settings, number: int) -> None:
    upload, moment = _upload(settings, number), FIRST + number
    filler.put(upload.bucket, upload.key, _content(number), moment)
    if number % 1000 >= MISSING:  # the others have lost their event
        record = _record(upload, moment)
        filler.put(settings.results_bucket, _listed(record), b"", moment)
        filler.put(settings.results_bucket, record.key, record.model_dump_json().encode(), moment)


def _costs(storage: Storage, settings: Settings, size: int) -> dict[str, float]:
    bucket = settings.results_bucket
    fresh = iter(range(10**9 + size, 10**9 + size + REPEATS))
    identities = iter([_upload(settings, _with_result(number * size // REPEATS)).identity for number in range(REPEATS)])
    sent: list[Upload] = []

    def save() -> None:
        upload = _upload(settings, next(fresh))
        record = _record(upload, int(time.time()))
        record_store.save(storage, bucket, record)

    def find() -> None:
        if len(record_store.find(storage, bucket, next(identities))) != 1:
            raise RuntimeError("A result was not found.")

    medians = {
        "save_ms": _median(save),
        "find_ms": _median(find),
        "latest_20_ms": _median(lambda: record_store.latest(storage, bucket, 20), REPEATS // 3),
    }
    began, cpu_began = time.perf_counter(), time.process_time()
    report = reconcile(storage, settings, sent.append)
    spent, used = time.perf_counter() - began, time.process_time() - cpu_began
    missing = sum(number % 1000 < MISSING for number in range(size))
    if len(sent) != missing or report.uploads != size:
        raise RuntimeError(f"Reconciling found {len(sent)} of {missing} uploads without a result.")
    return medians | {
        "reconcile_s": round(spent, 2),
        "reconcile_us_an_upload": round(spent / size * 1e6, 1),
        "reconcile_cpu_us_an_upload": round(used / size * 1e6, 1),
    }


def _with_result(number: int) -> int:
    return number - number % 1000 + max(number % 1000, MISSING)


def _median(action: Callable[[], object], repeats: int = REPEATS) -> float:
    spent: list[float] = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        spent.append((time.perf_counter() - began) * 1000)
    return round(statistics.median(spent), 2)


def _upload(settings: Settings, number: int) -> Upload:
    etag = hashlib.md5(_content(number), usedforsecurity=False).hexdigest()
    return Upload(settings.uploads_bucket, f"ward {number % 17}/{number:09d}.jpeg", etag=etag)


def _content(number: int) -> bytes:
    return f"not an image, and never read: {number}".encode()


def _record(upload: Upload, moment: int) -> ResultRecord:
    at = datetime.fromtimestamp(moment, UTC)
    return ResultRecord(
        id=f"{upload.identity}-{VERSION}",
        outcome="judged",
        label="Normal",
        probability=0.1,
        thresholds=OperatingPoint(low=0.2, high=0.8, operating=0.5),
        model=ModelFacts(name="pneumonia", version=VERSION, run_id=None, sha256="0" * 64, synthetic=True),
        upload=UploadFacts(
            identity=upload.identity,
            bucket=upload.bucket,
            key=upload.key,
            version_id=None,
            etag=upload.etag,
            sequencer=None,
        ),
        times=Times(uploaded=at, received=at, done=at),
    )


def _listed(record: ResultRecord) -> str:
    return latest_list.latest_key(record.upload.identity, VERSION, record.times.received)


def main() -> None:
    """Measure, and print one JSON value; progress goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    arguments = parser.parse_args()
    metrics = measure(tuple(arguments.sizes), say=lambda line: print(line, file=sys.stderr, flush=True))
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
