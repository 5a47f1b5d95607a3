"""A program of the cluster as a process: its log is a file, its end is noticed, and it stops by its own pid."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

STOP_SECONDS = 20
# A pod's namespace stands in a file, and leader election reads it there.
_AS_IN_A_POD = (
    "mount -t tmpfs run /run && mkdir -p /run/secrets/kubernetes.io/serviceaccount"
    ' && printf %s "$0" > /run/secrets/kubernetes.io/serviceaccount/namespace && exec "$@"'
)


class Died(AssertionError):
    """A program ended that should run; the message holds the end of its log."""


class Process:
    """A running program, in the network namespace `network` and in a pod of `pod_namespace` where these are given."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        folder: Path,
        *,
        environment: dict[str, str] | None = None,
        network: str | None = None,
        pod_namespace: str | None = None,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        prefix = ["ip", "netns", "exec", network] if network else []  # which gives it mounts of its own, too
        if pod_namespace:
            prefix += ["sh", "-c", _AS_IN_A_POD, pod_namespace]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*prefix, *map(str, command)],
                env={"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder), **(environment or {})},
                cwd=folder,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                # Ctrl-C is for the tests: they stop their programs in order.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def running(self) -> bool:
        return self._process.poll() is None

    def check(self) -> None:
        """Raise Died when the program has ended."""
        if not self.running():
            raise Died(f"{self.name} ended with {self._process.returncode}:\n{self.tail()}")

    def tail(self, lines: int = 25) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait_until(self, condition: Callable[[], object], seconds: float) -> None:
        """Wait for a sign of readiness; fail at once when the program ends."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.check()
            assert time.monotonic() < deadline, f"{self.name} is not ready within {seconds} s:\n{self.tail()}"
            time.sleep(0.1)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(STOP_SECONDS)
