"""What hangs is named with its age, killed and started again, and loses nothing; what is only slow is left alone."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from laptop import stack
from laptop.services.process import is_working
from laptop.services.service import Command
from laptop.supervision import silence
from laptop.supervision.silence import Silence
from laptop.supervision.supervisor import Supervisor
from lungline.home import Home
from lungline.service_state import State
from tests.support.chaos_run import Chaos, eventually, image, key_of
from tests.support.chaos_stack import ports_of, running
from tests.support.open_ports import family

LIMIT = 10.0
# No two of which the first is in the other's `after`: who waits for a service that hangs is not blamed.
TOGETHER = (("predictor", "trigger", "bridge", "gateway"), ("broker", "worklist"), ("store",))


class Clock:
    """A clock that tests set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(silence.time, "monotonic", lambda: self.now)

    def pass_silently(self, counted: Silence, seconds: int, *, works: bool = False, waits: bool = False) -> None:
        for _ in range(seconds):
            self.now += 1
            counted.lasted(works=works, waits=waits)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_an_idle_silence_has_lasted_at_the_limit(clock: Clock) -> None:
    counted = Silence()
    clock.pass_silently(counted, 29)
    assert not counted.has_lasted(30)
    clock.pass_silently(counted, 1)
    assert counted.has_lasted(30)
    assert not counted.has_lasted(0), "no limit"
    counted.answered()
    clock.pass_silently(counted, 29)
    assert not counted.has_lasted(30)


def test_what_a_probe_can_only_say_later_counts(clock: Clock) -> None:
    counted = Silence(notice_seconds=8)
    clock.pass_silently(counted, 1)
    assert counted.seconds == 8
    clock.pass_silently(counted, 2)
    assert counted.seconds == 10


def test_work_is_given_ten_times_as_long(clock: Clock) -> None:
    counted = Silence()
    clock.pass_silently(counted, 299, works=True)
    assert not counted.has_lasted(30)
    clock.pass_silently(counted, 1, works=True)
    assert counted.has_lasted(30)


def test_waiting_for_another_service_is_no_fault(clock: Clock) -> None:
    counted = Silence()
    clock.pass_silently(counted, 1000, waits=True)
    assert counted.seconds == 1000
    assert not counted.has_lasted(30)
    clock.pass_silently(counted, 30)
    assert counted.has_lasted(30)


def test_a_pause_of_the_whole_machine_counts_for_nothing(clock: Clock) -> None:
    counted = Silence(notice_seconds=8)
    clock.pass_silently(counted, 1)
    clock.now += 3600
    counted.lasted(works=False, waits=False)
    assert (counted.seconds, counted.has_lasted(5)) == (0, False)
    clock.pass_silently(counted, 4)
    assert not counted.has_lasted(5)
    clock.pass_silently(counted, 1)
    assert counted.has_lasted(5)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a thread does")
def test_a_busy_child_is_work_and_a_stopped_or_sleeping_one_is_not() -> None:
    spin = "import threading; threading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start(); input()"
    gate = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}])"
    with subprocess.Popen((sys.executable, "-c", gate), stdin=subprocess.PIPE, start_new_session=True) as process:
        try:
            eventually(lambda: len(family(process.pid)) > 1 and is_working(process.pid), 20, "it works")
            os.killpg(process.pid, signal.SIGSTOP)
            eventually(lambda: not is_working(process.pid), 5, "a stopped process does no work")
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    with subprocess.Popen((sys.executable, "-c", "input()"), stdin=subprocess.PIPE) as sleeping:
        eventually(lambda: not is_working(sleeping.pid), 10, "it waits")
        sleeping.kill()


class Script:
    """A service that gives a sign while a file says so, and works while another one is there."""

    name = "script"
    address = None
    listens = ()
    after = ()
    stop_timeout = 1.0
    notice_seconds = 0.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers, self.works = folder / "answers", folder / "works"

    def command(self) -> Command:
        work = "import pathlib, time\nwhile True: pathlib.Path('works').exists() or time.sleep(0.05)"
        return Command((sys.executable, "-c", work), os.environ, self.folder)

    def probe(self, pid: int) -> State:
        return "ready" if self.answers.exists() else "starting"

    def maintain(self) -> None:
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a thread does")
@pytest.mark.parametrize("starts", [True, False], ids=["starting", "running"])
def test_what_works_is_spared_until_it_stands_still(tmp_path: Path, starts: bool) -> None:
    """A long request, a loaded machine or a large model: silent, and busy for longer than the limit."""
    home, limit = Home.make(tmp_path / "home"), 2.0
    script = Script(tmp_path)
    script.works.touch()
    if not starts:
        script.answers.touch()

    async def until(condition: Callable[[], bool], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            await asyncio.sleep(0.05)
        return condition()

    async def watch() -> None:
        supervisor = Supervisor(home, [script], [], "none", hang_seconds=limit)
        running = asyncio.create_task(supervisor.run())
        if not starts:
            assert await until(lambda: supervisor.services()[0].state == "ready", 20)
            script.answers.unlink()
            assert await until(lambda: supervisor.services()[0].state == "not answering", 10)
        assert not await until(lambda: supervisor.services()[0].restarts > 0, 3 * limit)
        script.works.unlink()
        assert await until(lambda: supervisor.services()[0].hangs == 1, 3 * limit)
        supervisor.stop()
        await asyncio.wait_for(running, 20)

    asyncio.run(watch())


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory, packages: tuple[Path, Path]) -> Iterator[Chaos]:
    home = tmp_path_factory.mktemp("hangs") / "home"
    with running(home, packages[0], hang_seconds=LIMIT) as chaos:
        stack.wait(chaos.settings, "worklist")
        yield chaos


@pytest.mark.stack
def test_a_sleeping_machine_kills_nothing(chaos: Chaos) -> None:
    """The supervisor and all services stop for longer than the limit, and the supervisor wakes first."""
    before = stack.status(chaos.settings)
    assert before.pid
    groups = [service.pid for service in before.services if service.pid]
    for pid in (before.pid, *groups):
        os.killpg(pid, signal.SIGSTOP)
    time.sleep(LIMIT + 4)
    assert stack.status(chaos.settings).silence > LIMIT - 1, "status says how old it is"
    os.killpg(before.pid, signal.SIGCONT)
    time.sleep(3)
    for pid in groups:
        os.killpg(pid, signal.SIGCONT)
    chaos.upload(key_of("woken", 1), image(1))
    chaos.settle(60)
    eventually(lambda: _ready(chaos) and not stack.status(chaos.settings).silence, 30, "everything answers again")
    after = stack.status(chaos.settings)
    assert [service.pid for service in after.services] == [service.pid for service in before.services]


@pytest.mark.stack
@pytest.mark.parametrize("names", TOGETHER, ids="-".join)
def test_hung_services_are_named_killed_and_started(chaos: Chaos, names: tuple[str, ...]) -> None:
    before = stack.status(chaos.settings)
    label, begun = "-".join(names), time.monotonic()
    chaos.upload(key_of(f"before {label}", 1), image(1))
    for name in names:
        os.killpg(before.service(name).pid or 0, signal.SIGSTOP)
    with chaos.uploading(2, seconds=1, name=f"during {label}"):
        eventually(lambda: all(_is_silent(chaos, name) for name in names), 15, f"status says that {label} are silent")
        chaos.say(f"{label} silent in status after {time.monotonic() - begun:.1f} s")
        eventually(lambda: all(_hangs(chaos, name) == 1 for name in names), 2 * LIMIT, f"{label} are killed")
        chaos.say(f"{label} killed after {time.monotonic() - begun:.1f} s")
        eventually(lambda: _ready(chaos), 60, f"{label} are started again")
    chaos.upload(key_of(f"after {label}", 1), image(1))
    chaos.settle(60)
    log = Home(chaos.settings.home).log("supervisor").read_text()
    metrics = httpx.get(f"http://127.0.0.1:{ports_of(chaos.settings.home).supervisor_metrics}/metrics").text
    for name in names:
        assert f"{name} has given no sign for " in log
        assert f'lungline_part_hangs_total{{part="{name}"}} 1.0' in metrics
        assert "so it was killed" in stack.status(chaos.settings).service(name).remark


@pytest.mark.stack
def test_a_service_that_hangs_in_its_start_is_killed_and_started(chaos: Chaos) -> None:
    first = stack.status(chaos.settings).service("predictor")
    os.kill(first.pid or 0, signal.SIGKILL)
    eventually(lambda: stack.status(chaos.settings).service("predictor").pid not in {None, first.pid}, 20, "a new one")
    second = stack.status(chaos.settings).service("predictor")
    assert (second.state, second.hangs) == ("starting", first.hangs)
    os.killpg(second.pid or 0, signal.SIGSTOP)
    chaos.upload(key_of("during a start", 1), image(1))
    eventually(lambda: _hangs(chaos, "predictor") == first.hangs + 1, 2 * LIMIT, "it is killed")
    eventually(lambda: _ready(chaos), 60, "it is started again")


@pytest.mark.stack
def test_after_all_hangs_nothing_is_lost_or_double(chaos: Chaos) -> None:
    status = stack.status(chaos.settings)
    expected = dict.fromkeys((name for group in TOGETHER for name in group), 1) | {"predictor": 2}
    assert {service.name: service.hangs for service in status.services if service.pid} == expected
    chaos.settle(60)
    chaos.say(chaos.check())


def _is_silent(chaos: Chaos, name: str) -> bool:
    service = stack.status(chaos.settings).service(name)
    return service.hangs > 0 or (service.state == "not answering" and service.remark.startswith("No sign for "))


def _hangs(chaos: Chaos, name: str) -> int:
    return stack.status(chaos.settings).service(name).hangs


def _ready(chaos: Chaos) -> bool:
    return all(service.state == "ready" for service in stack.status(chaos.settings).services if service.pid)
