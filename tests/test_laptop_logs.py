"""Log files of the services."""

from pathlib import Path

import pytest

from laptop.services.process import birth, tail
from laptop.supervision.logs import LogFile


@pytest.fixture
def log(tmp_path: Path) -> LogFile:
    return LogFile(tmp_path / "store.log", private="xray-uploads", max_bytes=1000)


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("listening on 127.0.0.1:1", "listening on 127.0.0.1:1"),
        ("failed: /buckets/xray-uploads/ward 7/Jane Doe.jpg: gone", "failed: /buckets/xray-uploads/..."),
        ("DeleteObjectHandler xray-uploads Jane.jpg", "DeleteObjectHandler xray-uploads/..."),
        ("created bucket xray-uploads", "created bucket xray-uploads"),
        ("read s3://xray-uploads/Jane/Ünïcode.jpg", "read s3://xray-uploads/..."),
        ("read other-xray-uploads2/Jane", "read other-xray-uploads2/Jane"),
    ],
)
def test_keys_of_uploads_are_cut(log: LogFile, tmp_path: Path, line: str, written: str) -> None:
    data = line.encode()
    log.write(data[:10])
    log.write(data[10:] + b"\n")
    log.close()
    assert (tmp_path / "store.log").read_text() == f"{written}\n"


def test_a_log_is_bounded(log: LogFile, tmp_path: Path) -> None:
    for number in range(1000):
        log.write(b"%d %s\n" % (number, b"x" * 20))
    log.close()
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["store.log", "store.log.1", "store.log.2"]
    assert all(path.stat().st_size <= 1000 for path in files)
    assert files[0].read_text().splitlines()[-1].startswith("999 ")


def test_an_endless_line_does_not_stay_in_memory(log: LogFile, tmp_path: Path) -> None:
    for _ in range(20):
        log.write(b"x" * 1000)
    assert (tmp_path / "store.log").stat().st_size > 10_000
    log.close()


def test_a_log_is_for_its_owner_only(log: LogFile, tmp_path: Path) -> None:
    log.close()
    assert (tmp_path / "store.log").stat().st_mode & 0o777 == 0o600


def test_the_end_of_a_log_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_text("".join(f"{number}\n" for number in range(10)) + "\n")
    assert tail(tmp_path / "x.log", 2) == "8 | 9"
    assert tail(tmp_path / "none.log") == "it has no log."


def test_an_ended_process_has_no_birth() -> None:
    assert birth(2**22 + 1) is None
