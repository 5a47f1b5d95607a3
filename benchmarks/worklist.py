"""Response times of the worklist with 100,000 results and 200 open pages: `python benchmarks/worklist.py`.

Everything is real: the service in a process of its own, an SQLite file, HTTP on loopback. Times are milliseconds at the
client, one request at a time. LUNGLINE_WORKLIST__DATABASE takes the SQLAlchemy address of another database.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
from sqlalchemy import text

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.servers import free_port
from laptop.services.service import settings_environment
from laptop.services.store import running_store
from lungline.events.uploads import Upload
from lungline.results.events import RESULT_TYPE
from lungline.results.records import ModelFacts, OperatingPoint, ResultRecord, Times, UploadFacts
from lungline.settings import Settings, load_settings
from lungline.storage.s3 import Storage
from worklist.database.access import COOKIE, Access
from worklist.database.ingest import ingest
from worklist.database.session import Database

RESULTS = Settings.model_construct().results_bucket
REQUESTS = 60
SEED = 2000
MONTH = 30 * 86400 * 1_000_000
SAME = (
    "bucket, done, touched, record, outcome, label, probability, low, high, reason, attention, version, priority, read"
)
HEADERS = {
    "content-type": "application/json",
    "ce-specversion": "1.0",
    "ce-type": RESULT_TYPE,
    "ce-id": "1",
    "ce-source": "/lungline/predictor",
}
COPY = f"""
INSERT INTO entries (identity, key, sought, arrived, {SAME})
SELECT identity || :copy, key || :copy, sought || :copy, arrived - :later, {SAME} FROM entries WHERE number <= :most
"""


def record(
    number: int, probability: float, *, arrived: datetime, key: str = "", version: str = "1", refused: bool = False
) -> ResultRecord:
    """A result as the predictor writes it."""
    upload = Upload("xray-uploads", key or f"ward/xray-{number}.jpeg", None, f"{number:032x}")
    label = "Pneumonia" if probability >= 0.7 else "Normal" if probability < 0.3 else "Unsure"
    return ResultRecord(
        id=f"{upload.identity}-{version}",
        outcome="refused" if refused else "judged",
        label="Refused" if refused else label,
        probability=None if refused else probability,
        thresholds=OperatingPoint(low=0.3, high=0.7, operating=0.5),
        reason="truncated" if refused else None,
        message="The image file ends too early." if refused else None,
        model=ModelFacts(name="pneumonia", version=version, run_id="r" * 32, sha256="a" * 64, synthetic=False),
        upload=UploadFacts(
            identity=upload.identity,
            bucket=upload.bucket,
            key=upload.key,
            version_id=None,
            etag=upload.etag,
            sequencer=None,
        ),
        times=Times(uploaded=arrived, received=arrived, done=arrived + timedelta(seconds=1)),
    )


def results(count: int) -> list[ResultRecord]:
    """Results of a month: a third of them urgent, a tenth unsure, some refused."""
    dice = random.Random(1)
    now = datetime.now(UTC)
    return [
        record(
            number,
            dice.betavariate(1.2, 4) if dice.random() < 0.6 else dice.betavariate(6, 2),
            key=f"ward-{number % 17}/2026/{dice.randrange(10**9):09d}_{number}.jpeg",
            arrived=now - timedelta(seconds=dice.uniform(60, 30 * 86400)),
            refused=dice.random() < 0.02,
            version=str(1 + number % 3),
        )
        for number in range(count)
    ]


def fill(database: Database, count: int) -> float:
    """Ingest two thousand results and copy them until there are enough; returns results ingested per second."""
    ingested = results(min(count, SEED))
    start = time.perf_counter()
    ingest(database, *ingested)
    rate = len(ingested) / (time.perf_counter() - start)
    with database.writing() as session:
        for copy in range(1, count // len(ingested)):
            session.execute(
                text(COPY), {"copy": f"-{copy}", "later": copy * 7_919_000_000 % MONTH, "most": len(ingested)}
            )
        session.execute(text("ANALYZE"))
    return rate


def timed(ask: Callable[[], httpx.Response], process: psutil.Process) -> dict[str, float]:
    """Median and 95th percentile of one request in milliseconds, and what it costs the service of a core's time."""
    taken: list[float] = []
    used = sum(process.cpu_times()[:2])
    for _ in range(REQUESTS):
        start = time.perf_counter()
        ask().raise_for_status()
        taken.append((time.perf_counter() - start) * 1000)
    cost = (sum(process.cpu_times()[:2]) - used) / REQUESTS * 1000
    p50, p95 = statistics.median(taken), statistics.quantiles(taken, n=20)[-1]
    return {"p50": round(p50, 1), "p95": round(p95, 1), "cpu": round(cost, 1)}


def paths(client: httpx.Client) -> dict[str, str]:
    """What is measured, and the address of a page deep in the list."""
    path, steps = "/rows?view=all", 0
    while steps < 40 and (at := client.get(path).text.find('rel="next"')) > 0:
        text = client.get(path).text
        path = "/rows" + text[text.rfind('href="/', 0, at) + 7 : text.rfind('"', 0, at - 1)].replace("&amp;", "&")
        steps += 1
    return {
        "list, to read": "/",
        "rows, to read": "/rows",
        "rows, all": "/rows?view=all",
        f"rows, page {steps + 1}": path,
        "rows, newest": "/rows?view=all&sort=newest",
        "rows, label": "/rows?label=Unsure",
        "rows, rare label, newest": "/rows?view=all&label=Refused&sort=newest",
        "rows, model and time": "/rows?view=all&version=2&age=7d",
        "search, common": "/rows?view=all&q=ward-3",
        "search, one": "/rows?view=all&q=_1871.jpeg-17",
        "search, nothing": "/rows?view=all&q=no-such-name",
        "aside": "/aside",
    }


async def follow(url: str, cookie: str, pages: int, process: psutil.Process, storage: Storage) -> dict[str, float]:
    """Open pages, send ten results per second for ten seconds, and measure costs and delays."""
    arrivals: list[float] = []
    sent: dict[str, float] = {}
    ready = asyncio.Semaphore(0)
    before = process.memory_info().rss

    async def page(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", f"{url}/live?view=all", timeout=None) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("event: counters"):
                    ready.release()
                if line.startswith("data: ") and '"html"' in line:
                    arrivals.append(time.perf_counter() - sent[json.loads(line[6:])["identity"]])

    limits = httpx.Limits(max_connections=pages + 10)
    async with httpx.AsyncClient(cookies={COOKIE: cookie}, limits=limits) as client:
        tasks = [asyncio.create_task(page(client)) for _ in range(pages)]
        for _ in range(pages):
            await ready.acquire()
        opened = process.memory_info().rss
        idle = await asyncio.to_thread(process.cpu_percent, 5.0)
        start, used = time.perf_counter(), sum(process.cpu_times()[:2])
        for number in range(100):
            result = record(10**7 + number, random.Random(number).random(), arrived=datetime.now(UTC))
            await asyncio.to_thread(keep, storage, result)
            sent[result.upload.identity] = time.perf_counter()
            response = await client.post(url, content=result.model_dump_json(), headers=HEADERS)
            response.raise_for_status()
            await asyncio.sleep(max(0.0, start + (number + 1) * 0.1 - time.perf_counter()))
        await asyncio.sleep(2)
        busy = (sum(process.cpu_times()[:2]) - used) / (time.perf_counter() - start) * 100
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return {
        "memory before, MB": round(before / 2**20),
        "memory, MB": round(opened / 2**20),
        "idle CPU, percent of a core": round(idle, 1),
        "CPU at 10 results a second, percent of a core": round(busy, 1),
        "rows delivered": len(arrivals),
        "rows expected": 100 * pages,
        "delay p50, ms": round(statistics.median(arrivals) * 1000),
        "delay p95, ms": round(statistics.quantiles(arrivals, n=20)[-1] * 1000),
    }


def main() -> None:
    """Measure, and print one JSON value."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=int, default=100_000)
    parser.add_argument("--pages", type=int, default=200)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_store(Path(folder), load_settings({"home": Path(folder)})) as settings,
    ):
        storage = Storage.from_settings(settings)
        storage.ensure_buckets(settings.results_bucket, settings.models_bucket)
        with closing(Database.open(settings)) as database:
            rate = fill(database, arguments.results)
            cookie = Access(database, settings).begin("benchmark", "admin")
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        environment = os.environ | settings_environment(settings)
        command = [sys.executable, "-m", "worklist", "--http_port", str(port)]
        with subprocess.Popen(command, env=environment, cwd=Path(__file__).parent.parent) as server:
            try:
                process = psutil.Process(server.pid)
                print(json.dumps(measure(url, cookie, arguments.pages, process, rate, storage=storage), indent=2))
            finally:
                server.terminate()


def keep(storage: Storage, result: ResultRecord) -> None:
    """Store a record, as the predictor does before its event."""
    storage.put(RESULTS, result.key, result.model_dump_json().encode())


def measure(
    url: str, cookie: str, pages: int, process: psutil.Process, rate: float, *, storage: Storage
) -> dict[str, object]:
    """All metrics."""
    deadline = time.monotonic() + 60
    while True:
        try:
            httpx.get(f"{url}/healthz").raise_for_status()
            break
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    with httpx.Client(base_url=url, cookies={COOKIE: cookie}, timeout=60) as client:
        metrics: dict[str, object] = {
            name: timed(lambda path=path: client.get(path), process) for name, path in paths(client).items()
        }
        latest = results(2000)[-REQUESTS:]
        for result in latest:
            keep(storage, result)
        fresh = iter(latest)
        metrics["event"] = timed(
            lambda: client.post("/", content=next(fresh).model_dump_json(), headers=HEADERS), process
        )
    metrics["results a second into the database"] = round(rate)
    metrics[f"{pages} pages"] = asyncio.run(follow(url, cookie, pages, process, storage))
    return metrics


if __name__ == "__main__":
    main()
