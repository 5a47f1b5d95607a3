"""Does a second predictor double what is judged? `python -m benchmarks.replicas`, as root on Linux.

A stack reads an uploads topic of several partitions; a balancer hands each of the trigger's connections to the next
predictor, as Knative does with the pods of a revision. Every predictor may use a fixed share of a core only (a control
group's quota), so that predictors are what uploads wait for, and cores for a second one are there.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import secrets
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from benchmarks import networks
from benchmarks.uploads import NOWHERE, WARM, burst
from laptop import stack
from laptop.home.ports import claim_ports, load_ports
from laptop.services.broker import running_broker
from laptop.services.predictor import Predictor
from laptop.services.process import running
from laptop.services.relay import end, hand_on
from lungline.datasets.phantom import jpeg
from lungline.home import Home
from lungline.network import HOST
from lungline.settings import Settings, load_settings

GROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 20_000
SHARE = 0.2
TOPIC = "xray-uploads-of-replicas"
KEPT = ("uploads", "saved_per_second", "lost", "p50_ms", "p99_ms")


def measure(package: Path, replicas: int, partitions: int, *, count: int, share: float) -> dict[str, Any]:
    """Uploads saved a second by so many predictors, each with this share of a core, from so many partitions."""
    with tempfile.TemporaryDirectory(prefix="lungline-bench-") as folder, contextlib.ExitStack() as context:
        images = Path(folder) / "images"
        images.mkdir()
        for seed in range(16):
            (images / f"{seed}.jpeg").write_bytes(jpeg(seed, opacities=bool(seed % 2), size=224))
        backends: list[int] = []
        front = context.enter_context(balancer(backends))
        key = SecretStr(secrets.token_hex(32))
        values = {"mlflow_uri": NOWHERE, "predictor_uri": f"http://{HOST}:{front}", "event_key": key}
        settings = load_settings({"home": Path(folder) / "home", **values})
        with running_broker(settings.home, settings) as connected:
            create_topic(connected, TOPIC, partitions)
        settings = settings.model_copy(update={"uploads_topic": TOPIC})
        stack.up(settings, attached=True)
        context.callback(stack.down, settings)
        connected = stack.connect(settings)
        homes = [Path(folder) / str(number) for number in range(replicas)]
        backends.extend(context.enter_context(predictor(home, connected, package, share)) for home in homes)
        burst(connected, images, "warm", rate=5, count=WARM)
        metrics = burst(connected, images, "replicas", rate=200, count=count)
    return {"replicas": replicas, "partitions": partitions, "share_of_a_core": share} | {
        name: metrics[name] for name in KEPT
    }


@contextmanager
def predictor(home: Path, settings: Settings, package: Path, share: float) -> Iterator[int]:
    """A ready predictor with a share of a core; yields its port."""
    made = Home.make(home)
    made.champion.parent.mkdir(parents=True, exist_ok=True)
    made.champion.symlink_to(package.absolute())
    service = Predictor(made, settings, load_ports(made) or claim_ports(made), settings.event_key)
    with running(service, made.log(service.name)) as process, limited(process.pid, share):
        yield urlsplit(service.address).port or 0


@contextmanager
def limited(pid: int, share: float) -> Iterator[None]:
    """Give a process this share of one core. Raises RuntimeError where control groups cannot be made."""
    root = GROUPS / "cpu" if (GROUPS / "cpu").is_dir() else GROUPS
    group = root / f"lungline-bench-{os.getpid()}-{pid}"
    try:
        group.mkdir()
    except OSError as exc:
        raise RuntimeError(f"A control group for the predictor cannot be made in {root}: {exc.strerror}.") from exc
    try:
        quota = round(share * PERIOD_US)
        if (group / "cpu.max").exists():
            (group / "cpu.max").write_text(f"{quota} {PERIOD_US}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for member in (group / "cgroup.procs").read_text().split():
            (root / "cgroup.procs").write_text(member)
        group.rmdir()


def create_topic(settings: Settings, name: str, partitions: int) -> None:
    """Create a topic; the stack gives those that it creates itself a partition each."""
    from confluent_kafka.admin import AdminClient, NewTopic  # pyright: ignore[reportPrivateImportUsage] - as its docs do

    from eventing.kafka import client_options

    admin = AdminClient(client_options(settings) | {"log_level": 0})
    for future in admin.create_topics([NewTopic(name, partitions, 1)], operation_timeout=5).values():
        future.result(10)
    if len(admin.list_topics(name, timeout=5).topics[name].partitions) != partitions:
        raise RuntimeError(f"The broker gave topic {name} not {partitions} partitions.")


@contextmanager
def balancer(backends: list[int]) -> Generator[int]:
    """A port whose connections go to the ports of `backends` by turns; yields it."""
    loop = asyncio.new_event_loop()
    turns = itertools.count()

    async def hand(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = (reader, writer)
        if not backends:
            end(client)
            return
        with contextlib.suppress(OSError):
            server = await asyncio.open_connection(HOST, backends[next(turns) % len(backends)])
            await hand_on(client, server, lambda: None)

    server = loop.run_until_complete(asyncio.start_server(hand, HOST, 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def main() -> None:
    """Measure one predictor with one partition, then two with four, and print one JSON value."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=networks.NETWORKS, default="recipe")
    parser.add_argument("--count", type=int, default=400, help="uploads in each run")
    parser.add_argument("--share", type=float, default=SHARE, help="of a core, for each predictor")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        package = networks.make(Path(folder), arguments.network)
        runs: list[dict[str, Any]] = []
        for replicas, partitions in ((1, 1), (2, 4)):
            runs.append(measure(package, replicas, partitions, count=arguments.count, share=arguments.share))
            print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    gain = runs[1]["saved_per_second"] / runs[0]["saved_per_second"]
    print(json.dumps({"runs": runs, "gain": round(gain, 2)}, indent=2))


if __name__ == "__main__":
    main()
