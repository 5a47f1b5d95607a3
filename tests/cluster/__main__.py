"""`make cluster-test`: build what is missing, then run the tests of this folder in namespaces of their own.

python -m tests.cluster [PYTEST ARGUMENT ...]
python -m tests.cluster -m node   # on a real node with real pods
python -m tests.cluster up        # a cluster to look at, until Ctrl-C
"""

import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

from tests.cluster import binaries, isolation, node_preparation, upstream
from tests.cluster.cluster import running_cluster

FOLDER = Path(__file__).parent
PYTEST = (sys.executable, "-m", "pytest", "-m", "cluster", "--timeout=600", "-q")


def lacking() -> str | None:
    """What this machine lacks, in one sentence; programs that can be built do not count."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "A real control plane needs Linux and root, for network namespaces of its own."
    if tools := [tool for tool in isolation.TOOLS if not shutil.which(tool)]:
        return f"A real control plane needs {', '.join(tools)} (Debian: util-linux, mount, iproute2)."
    return upstream.missing() or (binaries.why_not_buildable() if binaries.missing() else None)


def up() -> None:
    """Run a cluster until Ctrl-C or SIGTERM."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with tempfile.TemporaryDirectory(prefix="lungline-cluster-") as folder, running_cluster(Path(folder)) as cluster:
        cluster.create_secrets()
        print("Enter it with: nsenter --net --mount --target $(pgrep -f 'tests.cluster.isolation --inside' | head -1)")
        print(f"KUBECONFIG={cluster.plane.kubeconfig}; Ctrl-C ends it.", flush=True)
        ended.wait()


def main(arguments: list[str]) -> None:
    if arguments == ["up"] and isolation.is_isolated():
        return up()
    if reason := lacking():
        sys.exit(reason)
    if binaries.missing() and (code := binaries.main([])):
        sys.exit(code)
    if "node" in arguments and (reason := node_preparation.prepare()):
        sys.exit(reason)
    if arguments == ["up"]:
        isolation.enter([sys.executable, "-m", "tests.cluster", "up"], with_parent=False)
    return isolation.enter([*PYTEST, *_paths(arguments)])


def _paths(arguments: list[str]) -> list[str]:
    """Arguments of pytest; this folder where they name no file."""
    named = any(argument.partition("::")[0].endswith(".py") for argument in arguments)
    return arguments if named else [*arguments, str(FOLDER)]


if __name__ == "__main__":
    main(sys.argv[1:])
