"""The background process that keeps the parts of a stack running.

It starts them side by side, each as soon as what it needs is ready, restarts one that ends by itself, and stops them
in the order in which they use each other. One thread starts all processes: the kernel's guard against orphans
watches the thread that started a child, not the process.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from eventing.metrics import expose
from eventing.state import State
from laptop.home.lock import take_lock
from laptop.home.ports import load_ports, targets
from laptop.services.process import Process, birth, tail
from laptop.services.service import Service
from laptop.supervision import reaper
from laptop.supervision.assembly import Assembly, assemble
from laptop.supervision.logs import LogFile
from laptop.supervision.metrics import StackCollector
from laptop.supervision.monitoring import Monitoring
from laptop.supervision.reconciler import Reconciler
from laptop.supervision.status import ServiceStatus, StackStatus, read_leftovers, write_status
from lungline import program
from lungline.errors import LunglineError
from lungline.home import Home
from lungline.settings import Settings

log = logging.getLogger("lungline.supervisor")

Assemble = Callable[[Home, Settings], Assembly]

# Each group ends before the next: what is under way is finished, and what was done is still written down.
STOPPING = (("trigger", "bridge"), ("predictor", "worklist", "mlflow", "broker"), ("store", "prometheus"))
PROBE_SECONDS, WATCH_SECONDS = 0.03, 1.0
MAINTAIN_EVERY = 5  # looks at a part
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 30.0
# A part that has run so long has recovered: its next end counts as its first.
STEADY_SECONDS = 60.0


class Supervisor:
    """Runs the parts from `run` until `stop`."""

    def __init__(self, home: Home, parts: Sequence[Service], others: Sequence[ServiceStatus], private: str) -> None:
        self._home = home
        self.on_state: Callable[[str, State], None] = lambda *_: None
        self._parts = {part.name: part for part in parts}
        ports = load_ports(home)
        metrics = {name: f"http://{at}/metrics" for name, at in targets(ports).items()} if ports else {}
        self._status = {
            part.name: ServiceStatus(part.name, "stopped", address=part.address, metrics=metrics.get(part.name))
            for part in parts
        }
        self._status |= {other.name: other for other in others}
        self._logs = {part.name: LogFile(home.log(part.name), private) for part in parts}
        self._ready = {name: asyncio.Event() for name in self._status}
        for other in others:
            self._ready[other.name].set()
        self._processes: dict[str, Process] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._ended = asyncio.Condition()
        self._stopping = asyncio.Event()
        read, self._tied = os.pipe()
        self._leash = subprocess.Popen(
            (sys.executable, "-I", "-S", reaper.__file__), stdin=read, start_new_session=True
        )
        os.close(read)

    def parts(self) -> tuple[ServiceStatus, ...]:
        """What each part does now."""
        return tuple(self._status.values())

    async def run(self) -> None:
        """Start everything, keep it running, and stop it when asked."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, lambda: loop.create_task(self._notice_ends()))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop)
        self._keepers = {name: loop.create_task(self._keep(part)) for name, part in self._parts.items()}
        try:
            await self._stopping.wait()
        finally:
            await self._stop_all()

    def stop(self) -> None:
        """End `run` soon."""
        self._stopping.set()

    async def _keep(self, part: Service) -> None:
        """Start a part again and again, with growing pauses."""
        pause = SHORTEST_PAUSE_SECONDS
        while True:
            await asyncio.gather(*(self._ready[name].wait() for name in part.after if name in self._ready))
            started = time.monotonic()
            try:
                note = await self._run_once(part)
            except Exception as exc:  # noqa: BLE001 - whatever is wrong with one part, the others must go on
                note = f"It cannot be started: {exc}"
            self._ready[part.name].clear()
            if time.monotonic() - started > STEADY_SECONDS:
                pause = SHORTEST_PAUSE_SECONDS
            restarts = self._status[part.name].restarts + 1
            self._tell(part.name, "restarting", pid=None, birth=None, restarts=restarts, note=note)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _run_once(self, part: Service) -> str:
        """Run a part until it ends by itself; returns a sentence on how it ended."""
        process = self._start(part)
        self._tell(part.name, "starting", pid=process.pid, birth=birth(process.pid))
        started = time.monotonic()
        watcher = asyncio.create_task(self._watch(part, process, started))
        try:
            async with self._ended:
                await self._ended.wait_for(lambda: process.exit_code is not None)
        finally:
            watcher.cancel()
            if process.exit_code is not None:
                self._forget(part.name, process)
        lasted = time.monotonic() - started
        last = tail(self._home.log(part.name), 1)
        return f"It ended by itself after {lasted:.1f} s ({_ending(process.exit_code)}): {last}"

    def _start(self, part: Service) -> Process:
        read, write = os.pipe()
        try:
            process = Process(part.command(), write)
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self._processes[part.name] = process
        self._tie("+", process.pid)
        os.set_blocking(read, False)
        asyncio.get_running_loop().add_reader(read, self._pump, part.name, read)
        return process

    def _pump(self, name: str, read: int) -> None:
        """Move what a part has written into its log."""
        with contextlib.suppress(BlockingIOError):
            if data := os.read(read, 2**16):
                self._logs[name].write(data)
                return
            asyncio.get_running_loop().remove_reader(read)
            os.close(read)

    async def _watch(self, part: Service, process: Process, started: float) -> None:
        """Ask a part for its state until it is settled, and further if its state can change."""
        while (state := await self._ask(part, process)) == "starting":
            await asyncio.sleep(PROBE_SECONDS)
        self._ready[part.name].set()
        self._tell(part.name, state, ready_seconds=round(time.monotonic() - started, 2))
        for second in itertools.count(1):
            await asyncio.sleep(WATCH_SECONDS)
            if part.poll and (now := await self._ask(part, process)) != state:
                state = now
                self._tell(part.name, state)
            if second % MAINTAIN_EVERY == 0:
                await self._maintain(part)

    async def _maintain(self, part: Service) -> None:
        try:
            await asyncio.to_thread(part.maintain)
        except LunglineError as exc:
            log.warning("%s: %s", part.name, exc)

    async def _ask(self, part: Service, process: Process) -> State:
        try:
            return await asyncio.to_thread(part.probe, process.pid)
        except Exception:
            log.exception("The %s could not be asked for its state.", part.name)
            await asyncio.sleep(WATCH_SECONDS)
            return "starting"

    async def _notice_ends(self) -> None:
        async with self._ended:
            self._ended.notify_all()

    async def _stop_all(self) -> None:
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)
        for group in STOPPING:
            await asyncio.gather(*(self._stop(name) for name in group if name in self._processes))
        for log in self._logs.values():
            log.close()
        self._tie(".")

    async def _stop(self, name: str) -> None:
        process = self._processes[name]
        await asyncio.to_thread(process.stop, self._parts[name].stop_timeout)
        self._forget(name, process)
        self._tell(name, "stopped", pid=None, birth=None)

    def _forget(self, name: str, process: Process) -> None:
        process.sweep()
        self._processes.pop(name, None)
        self._tie("-", process.pid)

    def _tie(self, what: str, pid: int | None = None) -> None:
        with contextlib.suppress(OSError):  # somebody killed the leash; the kernel's guard is left
            os.write(self._tied, f"{what}{pid or ''}\n".encode())

    def _tell(self, name: str, state: State, **changes: Any) -> None:
        """Publish a part's new state: in the home folder, and to whoever started us."""
        self._status[name] = replace(self._status[name], state=state, **changes)
        pid = os.getpid()
        write_status(self._home, StackStatus(self._home.path, True, pid, self.parts(), birth(pid)))
        self.on_state(name, state)
        note = self._status[name].note
        log.info("%s is %s%s", name, state, f": {note}" if note and state == "restarting" else "")


def end_leftovers(home: Home) -> None:
    """End what a supervisor that was killed has left running; without it the new parts would find their ports taken."""
    left = [(pid, born) for pid, born in read_leftovers(home) if birth(pid) == born]
    for pid, _ in left:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while any(birth(pid) == born for pid, born in left) and time.monotonic() < deadline:
        time.sleep(0.02)


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    return f"killed by {signal.Signals(-code).name}"


def main(settings: Settings, assemble: Assemble = assemble) -> None:
    """Supervise the stack of the settings' home until SIGTERM; with `--attached`, until standard input ends."""
    os.umask(0o077)
    home = Home.make(settings.home)
    take_lock(home)
    end_leftovers(home)
    asyncio.run(_supervise(home, settings, assemble, attached="--attached" in sys.argv))


async def _supervise(home: Home, settings: Settings, assemble: Assemble, *, attached: bool) -> None:
    assembly = assemble(home, settings)
    supervisor = Supervisor(home, assembly.parts, assembly.others, private=settings.uploads_bucket)
    ports = load_ports(home)
    expose(ports and ports.supervisor_metrics, StackCollector(home, supervisor.parts))
    reconciler = Reconciler(assembly.settings)
    supervisor.on_state = reconciler.hear
    reconciler.start()
    monitoring = Monitoring(home, assembly.settings)
    monitoring.start()
    if attached:
        # Nothing is ever written there: it becomes readable when whoever started us has ended.
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), supervisor.stop)
    try:
        await supervisor.run()
    finally:
        monitoring.stop()


if __name__ == "__main__":
    program.run("supervisor", main)
