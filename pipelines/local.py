"""The process that runs the pipeline with kfp.local: `python -m pipelines.local`, started by `pipelines.run`.

kfp.local takes over its process: it prints, replaces `print` and the root logger's handlers, and keeps its
configuration in a global. So it runs in a process of its own, whose output is the run's log.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any


def main() -> int:
    """Run the pipeline as a line of JSON on standard input requests; returns 0 when all steps succeeded."""
    request: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from kfp import local

    from pipelines.training import named

    folder = Path(request["folder"])
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder / "outputs"),
        workspace_root=str(Path(request["run"]) / "workspace"),
        enable_caching=request["reuse"],
        cache_root=str(folder / "cache"),
    )
    try:
        named(request["name"])(**request["arguments"])
    except RuntimeError as exc:
        # kfp.local raises this when a step fails; the step itself has reported why.
        print(exc)
        return 1
    return 0


def _end_with_parent() -> None:
    """End this process and its steps when the parent process is gone."""
    sys.stdin.read()
    os.killpg(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
