"""The background process that keeps the services of a stack running.

It starts them side by side, each as soon as the services it needs are ready, restarts those that end by themselves,
and stops them in the order of their dependencies. One thread starts all processes: the kernel's protection against
orphans follows the thread that started a child, not the process.
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
from laptop.home.store_files import note_store_files
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

# Each group ends before the next, so that work in progress is finished and its results are still written.
STOPPING = (("gateway", "trigger", "bridge"), ("predictor", "worklist", "mlflow", "broker"), ("store", "prometheus"))
PROBE_SECONDS, POLL_SECONDS = 0.03, 1.0
MAINTAIN_EVERY = 5  # polls of a service
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 30.0
# A service that has run this long has recovered: the pause before its next restart is the shortest again.
STEADY_SECONDS = 60.0


class Supervisor:
    """Runs the services from `run` until `stop`."""

    def __init__(
        self, home: Home, services: Sequence[Service], external: Sequence[ServiceStatus], private: str
    ) -> None:
        self._home = home
        self.on_state: Callable[[str, State], None] = lambda *_: None
        self._services = {service.name: service for service in services}
        ports = load_ports(home)
        metrics = {name: f"http://{at}/metrics" for name, at in targets(ports).items()} if ports else {}
        self._status = {
            service.name: ServiceStatus(
                service.name, "stopped", address=service.address, metrics=metrics.get(service.name)
            )
            for service in services
        }
        self._status |= {status.name: status for status in external}
        self._logs = {service.name: LogFile(home.log(service.name), private) for service in services}
        self._ready = {name: asyncio.Event() for name in self._status}
        for status in external:
            self._ready[status.name].set()
        self._processes: dict[str, Process] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ended = asyncio.Condition()
        self._stopping = asyncio.Event()
        read, self._reaper_pipe = os.pipe()
        self._reaper = subprocess.Popen(
            (sys.executable, "-I", "-S", reaper.__file__), stdin=read, start_new_session=True
        )
        os.close(read)

    def services(self) -> tuple[ServiceStatus, ...]:
        """The status of each service now."""
        return tuple(self._status.values())

    async def run(self) -> None:
        """Start everything, keep it running, and stop it when asked."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, lambda: loop.create_task(self._notice_ends()))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop)
        self._tasks = {name: loop.create_task(self._keep(service)) for name, service in self._services.items()}
        try:
            await self._stopping.wait()
        finally:
            await self._stop_all()
            # One that comes while the loop closes would be a traceback in the log.
            loop.remove_signal_handler(signal.SIGCHLD)

    def stop(self) -> None:
        """End `run` soon."""
        self._stopping.set()

    async def _keep(self, service: Service) -> None:
        """Start a service again and again, with growing pauses."""
        pause = SHORTEST_PAUSE_SECONDS
        while True:
            await asyncio.gather(*(self._ready[name].wait() for name in service.after if name in self._ready))
            started = time.monotonic()
            try:
                note = await self._run_once(service)
            except Exception as exc:  # noqa: BLE001 - an error in one service must not stop the others
                note = f"It cannot be started: {exc}"
            self._ready[service.name].clear()
            if time.monotonic() - started > STEADY_SECONDS:
                pause = SHORTEST_PAUSE_SECONDS
            restarts = self._status[service.name].restarts + 1
            self._publish(service.name, "restarting", pid=None, birth=None, restarts=restarts, note=note)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _run_once(self, service: Service) -> str:
        """Run a service until it ends by itself; returns a sentence on how it ended."""
        process = self._start(service)
        self._publish(service.name, "starting", pid=process.pid, birth=birth(process.pid), started=time.time())
        started = time.monotonic()
        poller = asyncio.create_task(self._poll(service, process, started))
        try:
            async with self._ended:
                await self._ended.wait_for(lambda: process.exit_code is not None)
        finally:
            poller.cancel()
            if process.exit_code is not None:
                self._forget(service.name, process)
        lasted = time.monotonic() - started
        last = tail(self._home.log(service.name), 1)
        return f"It ended by itself after {lasted:.1f} s ({_ending(process.exit_code)}): {last}"

    def _start(self, service: Service) -> Process:
        read, write = os.pipe()
        try:
            process = Process(service.command(), write)
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self._processes[service.name] = process
        self._notify_reaper("+", process.pid)
        os.set_blocking(read, False)
        asyncio.get_running_loop().add_reader(read, self._pump, service.name, read)
        return process

    def _pump(self, name: str, read: int) -> None:
        """Move a service's output into its log."""
        with contextlib.suppress(BlockingIOError):
            if data := os.read(read, 2**16):
                self._logs[name].write(data)
                return
            asyncio.get_running_loop().remove_reader(read)
            os.close(read)

    async def _poll(self, service: Service, process: Process, started: float) -> None:
        """Probe a service until it has started, and then further if its state can change."""
        while (state := await self._probe(service, process)) == "starting":
            await asyncio.sleep(PROBE_SECONDS)
        self._ready[service.name].set()
        self._publish(service.name, state, ready_seconds=round(time.monotonic() - started, 2))
        for second in itertools.count(1):
            await asyncio.sleep(POLL_SECONDS)
            if service.poll and (now := await self._probe(service, process)) != state:
                state = now
                self._publish(service.name, state)
            if second % MAINTAIN_EVERY == 0:
                await self._maintain(service)

    async def _maintain(self, service: Service) -> None:
        try:
            await asyncio.to_thread(service.maintain)
        except LunglineError as exc:
            log.warning("%s: %s", service.name, exc)
        except Exception:
            log.exception("%s: its housekeeping failed; it is tried again.", service.name)

    async def _probe(self, service: Service, process: Process) -> State:
        try:
            return await asyncio.to_thread(service.probe, process.pid)
        except Exception:
            log.exception("The %s could not be probed.", service.name)
            await asyncio.sleep(POLL_SECONDS)
            return "starting"

    async def _notice_ends(self) -> None:
        async with self._ended:
            self._ended.notify_all()

    async def _stop_all(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for group in STOPPING:
            await asyncio.gather(*(self._stop(name) for name in group if name in self._processes))
        for log in self._logs.values():
            log.close()
        self._notify_reaper(".")

    async def _stop(self, name: str) -> None:
        process = self._processes[name]
        await asyncio.to_thread(process.stop, self._services[name].stop_timeout)
        self._forget(name, process)
        self._publish(name, "stopped", pid=None, birth=None)

    def _forget(self, name: str, process: Process) -> None:
        process.sweep()
        self._processes.pop(name, None)
        self._notify_reaper("-", process.pid)

    def _notify_reaper(self, prefix: str, pid: int | None = None) -> None:
        with contextlib.suppress(OSError):  # the reaper was killed; the kernel's protection remains
            os.write(self._reaper_pipe, f"{prefix}{pid or ''}\n".encode())

    def _publish(self, name: str, state: State, **changes: Any) -> None:
        """Publish a service's new state in the home folder and to `on_state`."""
        self._status[name] = replace(self._status[name], state=state, **changes)
        pid = os.getpid()
        write_status(self._home, StackStatus(self._home.path, True, pid, self.services(), birth(pid)))
        self.on_state(name, state)
        note = self._status[name].note
        log.info("%s is %s%s", name, state, f": {note}" if note and state == "restarting" else "")


def end_leftovers(home: Home) -> None:
    """End services that a killed supervisor has left running, because they hold the ports of the new ones."""
    leftovers = [(pid, born) for pid, born in read_leftovers(home) if birth(pid) == born]
    for pid, _ in leftovers:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while any(birth(pid) == born for pid, born in leftovers) and time.monotonic() < deadline:
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
    supervisor = Supervisor(home, assembly.services, assembly.external, private=settings.uploads_bucket)
    ports = load_ports(home)
    expose(ports and ports.supervisor_metrics, StackCollector(home, supervisor.services))
    reconciler = Reconciler(assembly.settings)
    supervisor.on_state = reconciler.on_state
    reconciler.start()
    monitoring = Monitoring(home, assembly.settings)
    monitoring.start()
    if attached:
        # Nothing is ever written there: it becomes readable when the process that started us has ended.
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), supervisor.stop)
    try:
        await supervisor.run()
    finally:
        monitoring.stop()
        with contextlib.suppress(OSError):  # the disk is full: the next start compares nothing
            note_store_files(home)


if __name__ == "__main__":
    program.run("supervisor", main)
