"""Check histories: `python -m tests.support.history --seed 7` runs a stack first, `... FILE` reads a saved history."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.support import once
from tests.support.chaos_stack import running
from tests.support.history.checker import Verdict, check
from tests.support.history.operations import History
from tests.support.history.seeded_run import Plan, install_versions, run
from tests.support.tiny_package import write_tiny_package


def main() -> int:
    """Print the verdict; 1 when a rule is violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.history", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="a saved history")
    parser.add_argument("--seed", type=int, help="run a stack with this seed")
    parser.add_argument("--uploads", type=int, default=60)
    parser.add_argument("--kills", type=int, default=8)
    more = "let another version judge the same uploads unseen, and again afterwards"
    parser.add_argument("--second-opinions", action="store_true", help=more)
    parser.add_argument("--save", type=Path, help="where to write the history of the run")
    arguments = parser.parse_args()
    if (arguments.file is None) == (arguments.seed is None):
        parser.error("expected either a file or --seed")
    if arguments.file:
        verdict = check(History.load(arguments.file))
    else:
        built = once.begin()
        try:
            verdict = _run(_plan(arguments))
        finally:
            once.end(built)
    if arguments.save:
        verdict.history.save(arguments.save)
    print(verdict)
    return int(not verdict.holds)


def _plan(arguments: argparse.Namespace) -> Plan:
    sizes = arguments.uploads, arguments.kills
    return Plan.of(arguments.seed, *sizes, second_opinions=arguments.second_opinions)


def _run(plan: Plan) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="lungline-history-") as scratch:
        packages = [Path(scratch, name) for name in ("a", "b")]
        for seed, folder in enumerate(packages, 1):
            write_tiny_package(folder, seed=seed, version=None)
        home = Path(scratch, "home")
        with running(home, packages[0]) as chaos:
            install_versions(home, packages)
            return run(chaos, plan)


if __name__ == "__main__":
    sys.exit(main())
