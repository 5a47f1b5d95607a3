"""The background process that keeps the services of a stack running.

It starts them side by side, each as soon as the services it needs are ready, restarts those that end by themselves or
give no sign for too long, and stops them in the order of their dependencies. Their sockets are its own, so that no port
changes hands while a service restarts. One thread starts all processes: the kernel's protection against
orphans follows the thread that started a child, not the process.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from eventing.metrics import expose
from laptop.home.challengers import predictor_name
from laptop.home.disk import disk_fault
from laptop.home.lock import take_lock
from laptop.home.ports import exchanged, load_ports, targets
from laptop.home.store_files import note_store_files
from laptop.services.process import Process, birth, is_working, tail
from laptop.services.service import Service
from laptop.supervision.assembly import Assembly, assemble
from laptop.supervision.challengers import Challengers
from laptop.supervision.leftovers import end_leftovers
from laptop.supervision.listeners import claim
from laptop.supervision.logs import LogFile
from laptop.supervision.metrics import StackCollector
from laptop.supervision.monitoring import Monitoring
from laptop.supervision.orphans import Reaper
from laptop.supervision.probes import Probes
from laptop.supervision.reconciler import Reconciler
from laptop.supervision.silence import Silence
from laptop.supervision.status import REPORT_SECONDS, ServiceStatus, StackStatus, write_status
from lungline import program
from lungline.home import Home
from lungline.results.purposes import PURPOSES
from lungline.service_state import State
from lungline.settings import Settings

log = logging.getLogger("lungline.supervisor")

Assemble = Callable[[Home, Settings], Assembly]

# Each group ends before the next, so that work in progress is finished and its results are still written.
# Of challengers their triggers end before their predictors; what they leave undone is delivered again.
STOPPING = (
    ("gateway", "trigger", "bridge", *(f"{purpose}-trigger" for purpose in PURPOSES)),
    ("predictor", "worklist", "mlflow", "broker", *map(predictor_name, PURPOSES)),
    ("store", "prometheus"),
)
PROBE_SECONDS, POLL_SECONDS = 0.03, 1.0
# A start is silent; one that does nothing for this long is a matter for the status.
IDLE_START_SECONDS = 10.0
UNPROVEN: frozenset[State] = frozenset({"starting", "not answering", "not ready: another program answers"})
# A service whose `after` is in one of these may be silent because it waits.
UNSETTLED: frozenset[State] = frozenset({*UNPROVEN, "restarting", "stopped"})
STRANGER: State = "not ready: another program answers"
MAINTAIN_EVERY = 5  # polls of a service
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 30.0
# A service that has run this long has recovered: the pause before its next restart is the shortest again.
STEADY_SECONDS = 60.0


class Supervisor:
    """Runs the services from `run` until `stop`."""

    def __init__(
        self,
        home: Home,
        services: Sequence[Service],
        external: Sequence[ServiceStatus],
        private: str,
        *,
        listeners: Mapping[int, socket.socket] | None = None,
        hang_seconds: float = 0.0,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        self._home = home
        self._private = private
        self._listeners = dict(listeners or {})
        self._hang_seconds = hang_seconds
        self.on_state: Callable[[str, State], None] = lambda *_: None
        self.alongside: Callable[[], Coroutine[Any, Any, None]] | None = None
        """What adds and removes further services while it runs."""
        self._services = {service.name: service for service in services}
        ports = load_ports(home)
        metrics = {name: f"http://{at}/metrics" for name, at in targets(ports).items()} if ports else {}
        self._status = {
            service.name: ServiceStatus(
                *(service.name, "stopped"),
                address=service.address,
                note=(notes or {}).get(service.name),
                metrics=metrics.get(service.name),
            )
            for service in services
        }
        self._status |= {status.name: status for status in external}
        self._logs = {service.name: LogFile(home.log(service.name), private) for service in services}
        self._ready = {name: asyncio.Event() for name in self._status}
        for status in external:
            self._ready[status.name].set()
        self._processes: dict[str, Process] = {}
        self._hung: dict[str, float] = {}
        """Services that were killed because they hang, and how long they gave no sign."""
        self._probes = Probes()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ended = asyncio.Condition()
        self._stopping = asyncio.Event()
        self._reaper = Reaper()

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
        self._tasks["supervisor"] = loop.create_task(self._report())
        if self.alongside:
            self._tasks["alongside"] = loop.create_task(self.alongside())
        try:
            await self._stopping.wait()
        finally:
            await self._stop_all()
            # One that comes while the loop closes would be a traceback in the log.
            loop.remove_signal_handler(signal.SIGCHLD)

    def stop(self) -> None:
        """End `run` soon."""
        self._stopping.set()

    def add(self, services: Sequence[Service], listeners: Mapping[int, socket.socket]) -> None:
        """Run further services, on open sockets; their names are new."""
        self._listeners |= listeners
        for service in services:
            name = service.name
            self._services[name] = service
            self._status[name] = ServiceStatus(name, "stopped", address=service.address)
            if name not in self._logs:
                self._logs[name] = LogFile(self._home.log(name), self._private)
            self._ready[name] = asyncio.Event()
            self._tasks[name] = asyncio.get_running_loop().create_task(self._keep(service))

    async def remove(self, names: Sequence[str]) -> None:
        """Stop services and forget them, in the order in which services stop."""
        for group in STOPPING:
            for name in group:
                if name in names:
                    await self._remove(name)
        self._write()

    async def _remove(self, name: str) -> None:
        task = self._tasks.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if name in self._processes:
            await self._stop(name)
        for port in self._services.pop(name).listens:
            self._listeners.pop(port).close()
        del self._status[name], self._ready[name]  # the log stays open for what is still to come from it

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
            changes = {"restarts": restarts, "note": note, "silent_since": None}
            if seconds := self._hung.pop(service.name, None):
                hangs = self._status[service.name].hangs + 1
                changes |= {"hangs": hangs, "note": f"It gave no sign for {seconds:.0f} s, so it was killed."}
            self._publish(service.name, "restarting", pid=None, birth=None, **changes)
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
            sockets = [self._listeners[port] for port in service.listens if port in self._listeners]
            process = Process(service.command(), write, sockets)
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self._processes[service.name] = process
        self._reaper.add(process.pid)
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
        """Probe a service until it has started, and then for as long as it runs."""
        state = await self._await_sign(service, process)
        if state is None:
            return
        self._ready[service.name].set()
        self._publish(service.name, state, ready_seconds=round(time.monotonic() - started, 2))
        silence = Silence(service.notice_seconds)
        for second in itertools.count(1):
            await asyncio.sleep(POLL_SECONDS)
            now = await self._probes.state(service, process.pid)
            now = "not answering" if now == "starting" else now
            if now == "not answering":
                self._lasts(service, process, silence)
            else:
                silence.answered()
            if now != state:
                state = now
                since = time.time() - silence.seconds if state == "not answering" else None
                self._publish(service.name, state, silent_since=since)
            if silence.has_lasted(self._hang_seconds):
                self._end_hung(service, process, silence.seconds)
                return
            if second % MAINTAIN_EVERY == 0 and state != "not answering":
                self._probes.maintain(service)

    async def _await_sign(self, service: Service, process: Process) -> State | None:
        """The state of a service that has started; None when it hangs in its start and was killed."""
        silence, looked = Silence(), time.monotonic()
        while (state := await self._probes.state(service, process.pid)) in UNPROVEN:
            status = self._status[service.name]
            if state == STRANGER != status.state:
                self._publish(service.name, state)
            if time.monotonic() - looked >= POLL_SECONDS:  # at each probe it would cost more than the probe
                looked = time.monotonic()
                if state == STRANGER:  # a new process would not drive it away
                    silence.answered()
                else:
                    self._lasts(service, process, silence)
            if silence.has_lasted(self._hang_seconds):
                self._end_hung(service, process, silence.seconds)
                return None
            if silence.idle > IDLE_START_SECONDS and not status.silent_since:
                self._publish(service.name, "starting", silent_since=time.time() - silence.seconds)
            await asyncio.sleep(PROBE_SECONDS)
        self._status[service.name] = replace(self._status[service.name], silent_since=None)
        return state

    def _lasts(self, service: Service, process: Process, silence: Silence) -> None:
        """Count a service's silence; it is no fault of one that waits for another, or cannot write its state."""
        waits = any(self._status[name].state in UNSETTLED for name in service.after if name in self._status)
        waits = waits or disk_fault(self._home.path) is not None
        silence.lasted(works=is_working(process.pid), waits=waits)

    def _end_hung(self, service: Service, process: Process, seconds: float) -> None:
        log.error("%s has given no sign for %.0f s: it is killed and started again.", service.name, seconds)
        self._hung[service.name] = seconds
        process.signal(signal.SIGKILL)

    async def _report(self) -> None:
        """Write the status again and again: so others see that the supervisor lives."""
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            self._write()

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
        await asyncio.to_thread(self._reaper.close)

    async def _stop(self, name: str) -> None:
        process = self._processes[name]
        await asyncio.to_thread(process.stop, self._services[name].stop_timeout)
        self._forget(name, process)
        for port in self._services[name].listens:
            if port in self._listeners:
                self._listeners[port].close()  # who still waits there is told so
        self._publish(name, "stopped", pid=None, birth=None, silent_since=None)

    def _forget(self, name: str, process: Process) -> None:
        process.sweep()
        self._processes.pop(name, None)
        self._probes.forget(name, process.pid)
        self._reaper.remove(process.pid)

    def _publish(self, name: str, state: State, **changes: Any) -> None:
        """Publish a service's new state in the home folder and to `on_state`."""
        self._status[name] = replace(self._status[name], state=state, **changes)
        self._write()
        self.on_state(name, state)
        note = self._status[name].note
        log.info("%s is %s%s", name, state, f": {note}" if note and state == "restarting" else "")

    def _write(self) -> None:
        pid = os.getpid()
        # What a full disk does not take is written soon after it has room; who publishes a state must go on.
        with contextlib.suppress(OSError):
            write_status(self._home, StackStatus(self._home.path, True, pid, self.services(), birth(pid)))


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
    before = load_ports(home)
    assembly, listeners = claim(lambda: assemble(home, settings))
    ports = load_ports(home)
    notes = exchanged(before, ports)
    for service, note in notes.items():
        log.warning("%s: %s", service, note)
    supervisor = Supervisor(
        *(home, assembly.services, assembly.external, settings.uploads_bucket),
        listeners=listeners,
        hang_seconds=settings.hang_seconds,
        notes=notes,
    )
    expose(ports and ports.supervisor_metrics, StackCollector(home, supervisor.services))
    reconciler = Reconciler(assembly.settings)
    supervisor.on_state = reconciler.on_state
    reconciler.start()
    supervisor.alongside = Challengers(assembly.wiring, supervisor).run
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
