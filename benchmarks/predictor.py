"""Images per second of the predictor, its peers and the floor: `python -m benchmarks.predictor`.

All run at once and are loaded in turns, several rounds each, so that other load on the machine hits all of them. The
floor decodes, prepares and runs LiteRT in a plain loop on one core: the best that a server can do with each core.
"per core" divides by the CPU seconds of the server's process: the cost of an image, whatever else runs.
"""

import argparse
import base64
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import load, networks
from benchmarks.servers import Server, free_port, started
from lungline.datasets.phantom import jpeg
from lungline.package.card import MODEL, SAVED_MODEL, read_card

SIDE = 224  # pixels
OURS, KERAS, SAVED, FLOOR = "lungline", "fastapi_keras", "kserve_saved_model", "floor"
ALL_CORES = "floor_all_cores"
"""The ratio of the predictor's rate to that of the floor on every core, where one core does a floor of its own."""
SETTINGS = {
    OURS: "KServe, LiteRT with 1 thread, one worker of 8 threads",
    KERAS: "FastAPI, keras.Model.predict, one uvicorn worker, TensorFlow's own threads",
    SAVED: "KServe, SavedModel signature, one worker, a thread a core, 1 TensorFlow thread each",
    FLOOR: "decode, prepare and LiteRT in a loop, one process, 1 thread",
}


@dataclass(frozen=True, slots=True)
class Round:
    """One contestant's turn: images per second, and images per CPU second of its process."""

    rate: float
    per_core: float
    cores: float
    p50: float
    p99: float
    load_cpu: float


Turn = Callable[[float], Round]


def measure(
    network: str = "recipe",
    *,
    package: Path | None = None,
    rounds: int = 3,
    seconds: float = 2.0,
    connections: int = load.CONNECTIONS,
    peers: bool = True,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Rates of all contestants, and their ratios; a peer that fails is reported and left out."""
    images = [jpeg(seed, opacities=bool(seed % 2), size=SIDE) for seed in range(16)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lungline-bench-")))
        say(f"network {network}: building it")
        made = networks.make(folder, network) if peers or package is None else None
        package = package or made
        assert package
        turns: dict[str, Turn] = {FLOOR: _floor(package, images)}
        failed: dict[str, str] = {}
        for name, (command, path, ready) in _commands(package, folder, peers=peers).items():
            try:
                port = free_port()
                server = stack.enter_context(started([*command, str(port)], port, ready))
                turns[name] = _served(server, path, images, connections)
                turns[name](0.5)  # the first requests are slower
                say(f"{name} is up")
            except (OSError, RuntimeError) as exc:
                failed[name] = str(exc)
                say(f"{name} failed: {exc}")
        results = _rounds(turns, failed, rounds, seconds, say)
    return {
        "network": network,
        "picture": f"{SIDE} px JPEG",
        "connections": connections,
        "rounds": rounds,
        "seconds_a_round": seconds,
        "cores": psutil.cpu_count(),
        "contestants": {name: _contestant(name, done) for name, done in results.items()},
        "ratios": ratios(results),
        "failed": failed,
    }


def _commands(package: Path, folder: Path, *, peers: bool) -> dict[str, tuple[list[str], str, str]]:
    """For each server: its command (to which the port is appended), its path for images, its path for readiness."""
    v1 = "/v1/models/pneumonia:predict"
    commands = {
        OURS: (["serving", "--model_dir", str(package), "--http_port"], v1, "/v2/health/ready"),
        SAVED: (
            ["benchmarks.peers.kserve_saved_model", "--model", str(package / SAVED_MODEL), "--port"],
            v1,
            "/v2/health/ready",
        ),
    }
    if (folder / networks.KERAS).exists():
        keras = ["benchmarks.peers.fastapi_keras", "--model", str(folder / networks.KERAS), "--port"]
        commands[KERAS] = (keras, "/predict", "/health")
    return commands if peers else {OURS: commands[OURS]}


def _floor(package: Path, images: list[bytes]) -> Turn:
    from ai_edge_litert import interpreter

    preparation = read_card(package)[0].preparation
    make: Any = interpreter.Interpreter
    lite = make(model_content=(package / MODEL).read_bytes(), num_threads=1)
    lite.allocate_tensors()
    into = lite.get_input_details()[0]["index"]
    outs = [output["index"] for output in lite.get_output_details()]

    def turn(seconds: float) -> Round:
        count, cpu, began = 0, time.process_time(), time.perf_counter()
        while time.perf_counter() - began < seconds:
            prepared = preparation.apply(preparation.decode(images[count % len(images)]))
            lite.set_tensor(into, prepared[np.newaxis])
            lite.invoke()
            for out in outs:
                lite.get_tensor(out)
            count += 1
        used, spent = time.process_time() - cpu, time.perf_counter() - began
        return Round(count / spent, count / used, used / spent, spent / count * 1000, 0.0, 0.0)

    return turn


def _served(server: Server, path: str, images: list[bytes], connections: int) -> Turn:
    bodies = [json.dumps({"instances": [{"b64": base64.b64encode(image).decode()}]}) for image in images]

    def turn(seconds: float) -> Round:
        before = server.cpu()
        metrics = load.generate(server.port, path, bodies, seconds=seconds, connections=connections)
        used = server.cpu() - before
        if metrics.failed or not metrics.count:
            raise RuntimeError(f"{metrics.failed} of {metrics.count} requests failed")
        rate, per_core = metrics.count / metrics.seconds, metrics.count / used
        cores, load_cores = used / metrics.seconds, metrics.cpu / metrics.seconds
        return Round(rate, per_core, cores, metrics.p50, metrics.p99, load_cores)

    return turn


def _rounds(
    turns: dict[str, Turn], failed: dict[str, str], rounds: int, seconds: float, say: Callable[[str], None]
) -> dict[str, list[Round]]:
    results: dict[str, list[Round]] = {name: [] for name in turns}
    for number, name in _order(list(turns), rounds):
        if name in failed:
            continue
        try:
            results[name].append(turns[name](seconds))
            say(f"round {number + 1}/{rounds} {name}: {results[name][-1].rate:.0f}/s")
        except (OSError, RuntimeError) as exc:
            failed[name] = str(exc)
            say(f"{name} failed: {exc}")
    return {name: done for name, done in results.items() if name not in failed}


def _order(names: list[str], rounds: int) -> Iterator[tuple[int, str]]:
    """The order of the turns, reversed in every second round: the first then comes last."""
    for number in range(rounds):
        yield from ((number, name) for name in (names if number % 2 == 0 else names[::-1]))


def _contestant(name: str, done: list[Round]) -> dict[str, Any]:
    middle = {field: statistics.median(getattr(turn, field) for turn in done) for field in Round.__slots__}
    return {
        "settings": SETTINGS[name],
        "per_second": round(middle["rate"], 1),
        "per_core": round(middle["per_core"], 1),
        "cores_used": round(middle["cores"], 2),
        "cpu_ms_a_picture": round(1000 / middle["per_core"], 3),
        "p50_ms": round(middle["p50"], 2),
        "p99_ms": round(middle["p99"], 2),
        "load_generator_cores": round(middle["load_cpu"], 3),
    }


def ratios(results: dict[str, list[Round]]) -> dict[str, float]:
    """The predictor's rate over each peer's, and its rate per core over the floor's: medians over the rounds.

    The floor's rate on all cores is its rate on one, times their number.
    """
    medians: dict[str, float] = {}
    ours = results.get(OURS, [])
    for name, done in results.items():
        if name == OURS or not ours:
            continue
        field = "per_core" if name == FLOOR else "rate"
        pairs = zip(ours, done, strict=False)
        quotients = [getattr(our, field) / getattr(their, field) for our, their in pairs]
        medians[name] = round(statistics.median(quotients), 3)
    if ours and (floor := results.get(FLOOR)):
        cores = psutil.cpu_count() or 1
        quotients = [our.rate / (alone.rate * cores) for our, alone in zip(ours, floor, strict=False)]
        medians[ALL_CORES] = round(statistics.median(quotients), 3)
    return medians


def main() -> None:
    """Measure, and print one JSON value; progress goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=networks.NETWORKS, default="recipe")
    parser.add_argument("--package", type=Path, help="a model package instead, without the Keras peer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of each turn")
    parser.add_argument("--connections", type=int, default=load.CONNECTIONS)
    parser.add_argument("--alone", action="store_true", help="only the predictor and the floor")
    arguments = parser.parse_args()
    results = measure(
        arguments.network,
        package=arguments.package,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        connections=arguments.connections,
        peers=not arguments.alone,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
