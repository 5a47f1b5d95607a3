"""How many pictures a second the predictor judges, beside its peers and its floor: `python -m benchmarks.predictor`.

All are up at once and are loaded in turns, several rounds each, so that whatever else the machine does hits them all.
The floor decodes, prepares and runs LiteRT in a plain loop on one core: what no server can beat for each core it uses.
"per core" divides by the CPU seconds of the server's process, so it says what a picture costs, whatever else runs.
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
SETTINGS = {
    OURS: "KServe, LiteRT with 1 thread, one worker of 8 threads",
    KERAS: "FastAPI, keras.Model.predict, one uvicorn worker, TensorFlow's own threads",
    SAVED: "KServe, SavedModel signature, one worker, a thread a core, 1 TensorFlow thread each",
    FLOOR: "decode, prepare and LiteRT in a loop, one process, 1 thread",
}


@dataclass(frozen=True, slots=True)
class Round:
    """One contestant's turn: pictures a second, and pictures for each CPU second of its process."""

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
    """Rates of all contestants and their ratios; a peer that fails is named and left out."""
    pictures = [jpeg(seed, opacities=bool(seed % 2), size=SIDE) for seed in range(16)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lungline-bench-")))
        say(f"network {network}: making it")
        made = networks.make(folder, network) if peers or package is None else None
        package = package or made
        assert package
        turns: dict[str, Turn] = {FLOOR: _floor(package, pictures)}
        failed: dict[str, str] = {}
        for name, (command, path, ready) in _commands(package, folder, peers=peers).items():
            try:
                port = free_port()
                server = stack.enter_context(started([*command, str(port)], port, ready))
                turns[name] = _served(server, path, pictures, connections)
                turns[name](0.5)  # its first requests are not its rate
                say(f"{name} is up")
            except (OSError, RuntimeError) as exc:
                failed[name] = str(exc)
                say(f"{name} failed: {exc}")
        found = _rounds(turns, failed, rounds, seconds, say)
    return {
        "network": network,
        "picture": f"{SIDE} px JPEG",
        "connections": connections,
        "rounds": rounds,
        "seconds_a_round": seconds,
        "cores": psutil.cpu_count(),
        "contestants": {name: _contestant(name, done) for name, done in found.items()},
        "ratios": ratios(found),
        "failed": failed,
    }


def _commands(package: Path, folder: Path, *, peers: bool) -> dict[str, tuple[list[str], str, str]]:
    """How each server is started (its port comes last), where it takes pictures, and where it says that it is ready."""
    v1 = "/v1/models/pneumonia:predict"
    found = {
        OURS: (["serving", "--model_dir", str(package), "--http_port"], v1, "/v2/health/ready"),
        SAVED: (
            ["benchmarks.peers.kserve_saved_model", "--model", str(package / SAVED_MODEL), "--port"],
            v1,
            "/v2/health/ready",
        ),
    }
    if (folder / networks.KERAS).exists():
        keras = ["benchmarks.peers.fastapi_keras", "--model", str(folder / networks.KERAS), "--port"]
        found[KERAS] = (keras, "/predict", "/health")
    return found if peers else {OURS: found[OURS]}


def _floor(package: Path, pictures: list[bytes]) -> Turn:
    from ai_edge_litert import interpreter

    preparation = read_card(package)[0].preparation
    make: Any = interpreter.Interpreter
    lite = make(model_content=(package / MODEL).read_bytes(), num_threads=1)
    lite.allocate_tensors()
    into = lite.get_input_details()[0]["index"]
    outs = [one["index"] for one in lite.get_output_details()]

    def turn(seconds: float) -> Round:
        count, cpu, began = 0, time.process_time(), time.perf_counter()
        while time.perf_counter() - began < seconds:
            prepared = preparation.apply(preparation.decode(pictures[count % len(pictures)]))
            lite.set_tensor(into, prepared[np.newaxis])
            lite.invoke()
            for out in outs:
                lite.get_tensor(out)
            count += 1
        used, spent = time.process_time() - cpu, time.perf_counter() - began
        return Round(count / spent, count / used, used / spent, spent / count * 1000, 0.0, 0.0)

    return turn


def _served(server: Server, path: str, pictures: list[bytes], connections: int) -> Turn:
    bodies = [json.dumps({"instances": [{"b64": base64.b64encode(one).decode()}]}) for one in pictures]

    def turn(seconds: float) -> Round:
        before = server.cpu()
        found = load.ask(server.port, path, bodies, seconds=seconds, connections=connections)
        used = server.cpu() - before
        if found.failed or not found.count:
            raise RuntimeError(f"{found.failed} of {found.count} requests failed")
        rate, each = found.count / found.seconds, found.count / used
        return Round(rate, each, used / found.seconds, found.p50, found.p99, found.cpu / found.seconds)

    return turn


def _rounds(
    turns: dict[str, Turn], failed: dict[str, str], rounds: int, seconds: float, say: Callable[[str], None]
) -> dict[str, list[Round]]:
    found: dict[str, list[Round]] = {name: [] for name in turns}
    for number, name in _order(list(turns), rounds):
        if name in failed:
            continue
        try:
            found[name].append(turns[name](seconds))
            say(f"round {number + 1}/{rounds} {name}: {found[name][-1].rate:.0f}/s")
        except (OSError, RuntimeError) as exc:
            failed[name] = str(exc)
            say(f"{name} failed: {exc}")
    return {name: done for name, done in found.items() if name not in failed}


def _order(names: list[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Each round the other way round: whoever comes first in one comes last in the next."""
    for number in range(rounds):
        yield from ((number, name) for name in (names if number % 2 == 0 else names[::-1]))


def _contestant(name: str, done: list[Round]) -> dict[str, Any]:
    middle = {field: statistics.median(getattr(one, field) for one in done) for field in Round.__slots__}
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


def ratios(found: dict[str, list[Round]]) -> dict[str, float]:
    """The predictor's rate over each peer's, and its rate per core over the floor's: medians of the rounds' ratios."""
    result: dict[str, float] = {}
    ours = found.get(OURS, [])
    for name, done in found.items():
        if name == OURS or not ours:
            continue
        field = "per_core" if name == FLOOR else "rate"
        pairs = zip(ours, done, strict=False)
        result[name] = round(statistics.median(getattr(our, field) / getattr(one, field) for our, one in pairs), 3)
    return result


def main() -> None:
    """Measure, and print one JSON value; progress goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=networks.NETWORKS, default="recipe")
    parser.add_argument("--package", type=Path, help="a model package instead; then without peer (a)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--connections", type=int, default=load.CONNECTIONS)
    parser.add_argument("--alone", action="store_true", help="only the predictor and the floor")
    given = parser.parse_args()
    found = measure(
        given.network,
        package=given.package,
        rounds=given.rounds,
        seconds=given.seconds,
        connections=given.connections,
        peers=not given.alone,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
