"""Who imports whom: `python -m tests.support.import_graph` prints the arrows between rooms, upward ones and circles.

A room is a folder of the repository, or a folder or module inside lungline/, laptop/ and worklist/. The exit code is 1
when an arrow runs against the order of ROOMS, when a room is missing there, or when rooms or files import each other in
a circle. Every import counts, also those inside functions and under TYPE_CHECKING.
"""

import argparse
import ast
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Every room, from the top of the house to the ground. A room imports only rooms below it.
ROOMS = (
    "tests",
    "notebooks",
    "cli",
    "benchmarks",
    "dashboards",
    "laptop.demo",
    "laptop.retraining",
    "laptop.doctor",
    "laptop.checks",
    "laptop.batches",
    "laptop.erasing",
    "laptop.uploads",
    "laptop.upload_files",
    "laptop.rejudging",
    "laptop.challengers",
    "laptop.stack",
    "laptop.supervision",
    "laptop.services",
    "laptop.home",
    "laptop",
    "worklist.__main__",
    "worklist.web",
    "worklist.incoming",
    "worklist.intake",
    "worklist.commands",
    "worklist.jobs",
    "worklist.notifier",
    "worklist.delivery",
    "worklist.unannounced",
    "worklist.resting",
    "worklist.worker",
    "worklist.metrics",
    "worklist.exports",
    "worklist.database",
    "worklist.destinations",
    "worklist.rules",
    "worklist.tasks",
    "worklist",
    "serving",
    "gateway",
    "eventing",
    "pipelines",
    "components",
    "data",
    "lungline.lineage",  # an alias: models registered by earlier versions name it as their loader
    "lungline.dossier",
    "lungline.site_validation",
    "lungline.monitoring",
    "lungline.promotion",
    "lungline.deployment",
    "lungline.training",
    "lungline.evaluation",
    "lungline.registry",
    "lungline.diagnosis",
    "lungline.retention",
    "lungline.datasets",
    "lungline.deidentification",
    "lungline.results",
    "lungline.events",
    "lungline.package",
    "lungline.imaging",
    "lungline.storage",
    "lungline.site_key",
    "lungline.program",
    "lungline.tracing",
    "lungline.logs",
    "lungline.settings",
    "lungline.task",
    "lungline.settings_blocks",
    "lungline.certificates",
    "lungline.service_state",
    "lungline.scrubbing",
    "lungline.home",
    "lungline.health_check",
    "lungline.network",
    "lungline.connections",
    "lungline.memory",
    "lungline.metrics_server",
    "lungline.listening",
    "lungline.litter",
    "lungline.bounds",
    "lungline.rule_file",
    "lungline.wording",
    "lungline.errors",
    "lungline",
    "manifests",
    "requirements",
)
# Rooms below that a folder must leave alone all the same: what runs in one pod stays apart from what runs in another.
APART = {
    "worklist": {"serving", "gateway", "eventing", "pipelines", "components", "data"},
    "gateway": {"eventing", "pipelines", "components", "data"},
    "serving": {"gateway", "eventing", "pipelines", "components", "data"},
    "eventing": {"pipelines", "components", "data"},
}
DIVIDED = {"lungline", "laptop", "worklist"}

Arrow = tuple[str, str]
Graph = Mapping[str, Iterable[str]]


def room_of(module: str) -> str:
    """The room of a dotted module name: `lungline.storage.s3` lies in `lungline.storage`."""
    names = module.split(".")
    return ".".join(names[:2]) if names[0] in DIVIDED else names[0]


@cache
def files() -> dict[str, Path]:
    """Every module and notebook of the house by its dotted name."""
    folders = {room.split(".")[0] for room in ROOMS}
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".ipynb"}]
    return {_dotted(path): path for path in sorted(paths) if ".ipynb_checkpoints" not in path.parts}


@cache
def arrows() -> frozenset[Arrow]:
    """Every import of one of our modules by another, as dotted names."""
    return frozenset(
        (module, target) for module, path in files().items() for target in _targets(module, path) if target != module
    )


def between_rooms(imports: Iterable[Arrow]) -> dict[Arrow, list[Arrow]]:
    """The imports by the two rooms that they connect, without those within a room."""
    grouped: dict[Arrow, list[Arrow]] = defaultdict(list)
    for importer, target in sorted(imports):
        rooms = room_of(importer), room_of(target)
        if rooms[0] != rooms[1]:
            grouped[rooms].append((importer, target))
    return dict(grouped)


def unnamed() -> list[str]:
    """Rooms that hold a module and are missing in ROOMS."""
    return sorted({room_of(module) for module in files()} - set(ROOMS))


def upward(rooms: Iterable[Arrow]) -> list[Arrow]:
    """The arrows that run up, or between rooms that stay apart."""
    height = {room: -place for place, room in enumerate(ROOMS)}
    return [
        (importer, target)
        for importer, target in rooms
        if height.get(target, 0) > height.get(importer, 0) or target in APART.get(importer.split(".")[0], ())
    ]


def circles(graph: Graph) -> list[list[str]]:
    """Groups of nodes that reach each other (Tarjan's strongly connected components of two or more)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in order:
                visit(target)
            if target in stack:
                lowest[node] = min(lowest[node], lowest[target])
        if lowest[node] == order[node]:
            start = stack.index(node)
            group = stack[start:]
            del stack[start:]
            if len(group) > 1:
                groups.append(sorted(group))

    for node in graph:
        if node not in order:
            visit(node)
    return groups


def graph_of(imports: Iterable[Arrow]) -> dict[str, list[str]]:
    """The arrows as targets by importer."""
    graph: dict[str, list[str]] = defaultdict(list)
    for importer, target in sorted(imports):
        graph[importer].append(target)
    return dict(graph)


def problems(rooms: Mapping[Arrow, list[Arrow]]) -> list[str]:
    """A sentence for each room without a place, each upward arrow and each circle."""
    sentences = [f"{room} has no place in ROOMS." for room in unnamed()]
    for arrow in upward(rooms):
        sentences += [f"{importer} imports {target}, which lies above it." for importer, target in rooms[arrow]]
    for circle in circles(graph_of(rooms)) + circles(graph_of(arrows())):
        sentences.append(f"Import each other in a circle: {', '.join(circle)}.")
    return sentences


def main() -> int:
    """Print the arrows between rooms, then what is wrong; with --quiet only the latter. 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quiet", action="store_true", help="print only what is wrong")
    rooms = between_rooms(arrows())
    if not parser.parse_args().quiet:
        for room in ROOMS:
            targets = [f"{target} ({len(imports)})" for (source, target), imports in rooms.items() if source == room]
            print(f"{room:<27} -> {', '.join(targets) or '-'}")
        modules = sum(path.suffix == ".py" for path in files().values())
        print(f"\n{len(ROOMS)} rooms, {modules} modules, {len(rooms)} arrows between rooms.")
        print(f"Upward arrows: {len(upward(rooms))}")
        print(f"Circles between rooms: {len(circles(graph_of(rooms)))}")
        print(f"Circles between files: {len(circles(graph_of(arrows())))}")
    wrong = problems(rooms)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return int(bool(wrong))


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _targets(module: str, path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(_source(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` reads the module, `from module import name` its module.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            target = name if name in files() else name.rpartition(".")[0]
            if target in files():
                yield target


def _source(path: Path) -> str:
    if path.suffix == ".py":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "".join("".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "code")
    return "\n".join(line for line in code.splitlines() if not line.lstrip().startswith(("%", "!")))


if __name__ == "__main__":
    sys.exit(main())
