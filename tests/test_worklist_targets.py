"""Each notice target waits for itself alone, whatever another one does."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.support.worklist_site import Site, home, record, running_site, wait
from worklist.database.models import Notice

# Apprise's plug-in for mail looks for a module that Python 3.13 dropped; it has its own where there is none.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

BEHAVIOURS = ["never answers", "trickles forever", "drops", "answers nonsense", "refuses"]


def serve(connection: socket.socket, behaviour: str, stopping: threading.Event) -> None:
    with connection, contextlib.suppress(OSError):
        connection.recv(65536)
        if behaviour == "good":
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        elif behaviour == "answers nonsense":
            connection.sendall(b"what?\r\n\r\n")
        elif behaviour == "trickles forever":
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
            while not stopping.wait(0.2):
                connection.sendall(b"x")
        elif behaviour == "never answers":
            stopping.wait()


@contextmanager
def running_hook(behaviour: str) -> Iterator[tuple[str, list[float]]]:
    """A target that misbehaves; its address, and the times of its connections."""
    listener = socket.create_server(("127.0.0.1", 0))
    accepted: list[float] = []
    stopping = threading.Event()

    def accept() -> None:
        while not stopping.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            accepted.append(time.monotonic())
            threading.Thread(target=serve, args=(connection, behaviour, stopping), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    url = f"json://127.0.0.1:{listener.getsockname()[1]}/hook"
    if behaviour == "refuses":
        listener.close()
    else:
        thread.start()
    try:
        yield url, accepted
    finally:
        stopping.set()
        listener.close()


def send(site: Site, count: int) -> None:
    now = datetime.now(UTC)
    for number in range(count):
        assert site.send(record(number, 0.9, arrived=now, done=now)).status_code == 204


def states(site: Site, rule: str) -> list[tuple[str, str | None]]:
    with site.database.reading() as session:
        rows = session.scalars(select(Notice).where(Notice.rule == rule).order_by(Notice.number))
        return [(row.state, row.error) for row in rows]


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_bad_target_delays_no_other(tmp_path: Path, behaviour: str) -> None:
    """Also in the same group, and when two rules name the bad one."""
    with running_hook(behaviour) as (bad, _), running_hook("good") as (good, received):
        rules = tmp_path / "rules.toml"
        rules.write_text(
            f'[[rule]]\nname = "bad"\nto = [["{bad}"]]\n[[rule]]\nname = "both"\nto = [["{bad}", "{good}"]]\n'
            f'[[rule]]\nname = "good"\nto = [["{good}"]]\n'
        )
        with running_site(home(tmp_path, notice_rules=rules), notice_timeout=2.0) as site:
            begin = time.monotonic()
            send(site, 5)
            wait(lambda: [state for state, _ in states(site, "good")] == ["sent"] * 5, 20)
            wait(lambda: len(received) == 10, 20)
            assert max(received) - begin < 16, "in turn with the bad one it would be 20 s at least"
            wait(lambda: all(error for _, error in states(site, "bad")), 20)
            errors = {error for _, error in states(site, "bad")}
            if behaviour in {"never answers", "trickles forever"}:
                assert "The service did not answer within 2 seconds." in errors
            assert bad not in str(errors)


def test_hanging_target_gets_one_connection_at_a_time(tmp_path: Path) -> None:
    with running_hook("trickles forever") as (bad, accepted):
        rules = tmp_path / "rules.toml"
        rules.write_text(f'[[rule]]\nname = "bad"\nto = [["{bad}"]]\n')
        with running_site(home(tmp_path, notice_rules=rules), notice_timeout=0.5) as site:
            send(site, 10)
            wait(lambda: all(error for _, error in states(site, "bad")), 20)
        assert len(accepted) == 1


def test_service_stops_in_time_with_a_hanging_target(tmp_path: Path) -> None:
    with running_hook("never answers") as (bad, accepted):
        rules = tmp_path / "rules.toml"
        rules.write_text(f'[[rule]]\nname = "bad"\nto = [["{bad}"]]\n')
        with running_site(home(tmp_path, notice_rules=rules)) as site:
            send(site, 1)
            wait(lambda: accepted)
            begin = time.monotonic()
        assert time.monotonic() - begin < 9


def test_target_that_left_the_rules_is_reported(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    with running_hook("refuses") as (bad, _):
        rules.write_text(f'[[rule]]\nname = "old"\nto = [["{bad}"]]\n')
        with running_site(home(tmp_path, notice_rules=rules)) as site:
            send(site, 1)
            wait(lambda: states(site, "old")[0][1])
            with site.database.writing() as session:
                notice = session.scalar(select(Notice))
                assert notice
                notice.due = datetime.now(UTC)
        rules.write_text('[[rule]]\nname = "new"\nto = [["file"]]\n')
        with running_site(home(tmp_path, notice_rules=rules)) as site:
            wait(lambda: "no longer has this target" in (states(site, "old")[0][1] or ""))
