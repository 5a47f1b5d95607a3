"""A home folder on a full disk, and other homes that no stack can have."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from laptop import stack
from laptop.home import disk
from lungline.errors import StackError
from lungline.home import Home
from lungline.settings import Settings


class Usage(NamedTuple):
    total: int
    used: int
    free: int


MB = 2**20


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The free megabytes of the disk, to be set."""
    free = [1000]
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(5000 * MB, 0, free[0] * MB))
    return free


def test_a_start_on_a_full_disk_is_refused_at_once(tmp_path: Path, free: list[int]) -> None:
    """It took two minutes, and ended in a line of the store's log."""
    free[0] = 100
    with pytest.raises(StackError, match=r"^The disk of the home .*new is full: 100 of 5000 MB are free, 600 MB"):
        stack.up(Settings(home=tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_home_with_volumes_starts_with_less(tmp_path: Path, free: list[int]) -> None:
    free[0] = 300
    assert disk.start_fault(tmp_path)
    (tmp_path / "store/data").mkdir(parents=True)
    (tmp_path / "store/data/tansu_1.dat").touch()
    assert disk.start_fault(tmp_path) is None
    free[0] = 150
    assert "200 MB needed" in (disk.start_fault(tmp_path) or "")


def test_a_running_stack_may_use_the_disk_nearly_up(tmp_path: Path, free: list[int]) -> None:
    free[0] = 21
    assert disk.disk_fault(tmp_path) is None
    free[0] = 3
    assert "3 of 5000 MB are free" in (disk.disk_fault(tmp_path) or "")


def _file(tmp_path: Path) -> Path:
    (tmp_path / "file").touch()
    return tmp_path / "file"


def _loop(tmp_path: Path) -> Path:
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path / "loop"


@pytest.mark.parametrize("odd", [_file, _loop, lambda path: _file(path) / "sub", lambda path: path / ("x" * 300)])
def test_an_impossible_home_is_one_sentence_in_every_command(odd: Callable[[Path], Path], tmp_path: Path) -> None:
    settings = Settings(home=odd(tmp_path))
    for function in (stack.up, stack.status, stack.down, stack.connect, stack.env):
        with pytest.raises(StackError, match=r"^The home folder .* cannot be (made|used): [A-Z].*\.$"):
            function(settings)


def test_the_store_makes_small_volumes_on_a_small_disk(tmp_path: Path, free: list[int]) -> None:
    from laptop.services.store import _volume_options  # pyright: ignore[reportPrivateUsage]

    assert _volume_options(Home(tmp_path)) == {"master.volumeSizeLimitMB": 64}
    free[0] = 20_000
    assert _volume_options(Home(tmp_path)) == {}
