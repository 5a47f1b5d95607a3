"""Damaged state files of a home: made again with a word, or refused at once in one sentence with file and cure."""

import json
import re
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from itsdangerous import BadSignature, URLSafeTimedSerializer

from eventing.seaweedfs_tls import Certificates, secure
from laptop import stack
from laptop.home.credentials import Credentials, load_credentials
from laptop.home.models import champion_fault
from laptop.home.ports import claim_ports, load_ports
from laptop.home.state import check_state
from laptop.home.store_growth import LIST, note_growth
from laptop.services.broker_log import BrokerLog, Change, log_file
from laptop.supervision.leftovers import end_leftovers
from laptop.supervision.status import read_status
from lungline.errors import StackError
from lungline.home import Home, ModelFolder, write_json
from lungline.settings import Settings
from lungline.site_key import site_key

MADE_AGAIN = ("ports.json", "supervisor.json", "store/config/store.crt", "store/config/store.key")
REFUSED = ("credentials.json", "site-key.pem")
FILES = (*MADE_AGAIN, *REFUSED)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home as a stack that was killed leaves it."""
    made = Home.make(tmp_path / "home")
    credentials = Credentials.generate()
    write_json(made.file("credentials.json"), asdict(credentials))
    claim_ports(made)
    service = {"name": "store", "state": "ready", "pid": 2**22, "birth": "long ago"}
    write_json(made.file("supervisor.json"), {"pid": 2**22, "birth": "long ago", "services": [service]})
    secure(made.file("store", "config"), credentials.signing)
    site_key(Settings(home=made.path))
    return made


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwritten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:8] + bytes(path.stat().st_size - 8))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def other_types(path: Path) -> None:
    """Every value of a JSON object is of another type, or the file of another kind."""
    try:
        value = json.loads(path.read_text())
    except ValueError:
        value = {}
    path.write_text(json.dumps({name: [None, {"x": "y"}] for name in value} or {"text": 1}))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half": half,
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "zeros": lambda path: path.write_bytes(bytes(512)),
    "other types": other_types,
    "a list": lambda path: path.write_text("[1, 2]"),
    "removed": Path.unlink,
    "a folder": a_folder,
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_mended_or_named_with_its_cure(
    name: str, damage: str, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    """Forty-eight damages: after the check the files can be read, or one sentence names the file and what to do."""
    DAMAGES[damage](home.file(name))
    if damage == "a folder" or (name in REFUSED and damage != "removed"):
        cure = "(restore it from a backup|move it away)"
        with pytest.raises(StackError, match=rf"^{re.escape(str(home.file(name)))} is .*{cure}[^\n]*$"):
            check_state(home, Settings(home=home.path))
        return
    check_state(home, Settings(home=home.path))
    assert damage == "removed" or "made again" in caplog.text
    claim_ports(home)
    end_leftovers(home)
    assert load_ports(home)
    assert not read_status(home).running
    assert all(path.stat().st_size for path in asdict(Certificates.claim(home.file("store", "config"))).values())


def without(*names: str) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        for name in names[:-1]:
            value = value[name]
        del value[names[-1]]

    return change


@pytest.mark.parametrize(
    "change",
    [
        without("owner"),
        without("scanner", "secret_key"),
        without("signing"),
        without("signing", "signing"),
        lambda value: value["signing"].update(signing=""),
        lambda value: value["owner"].update(secret_key=7),
        lambda value: value["owner"].update(access_key=None),
    ],
)
def test_credentials_with_a_part_missing_are_refused_at_once(change: Callable[[Any], None], home: Home) -> None:
    """They were replaced without a word, or ended in a traceback; `up` says it before anything starts."""
    path = home.file("credentials.json")
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(StackError, match=r"credentials\.json is damaged \(.+\): restore it from a backup"):
        stack.up(Settings(home=home.path))
    assert json.loads(path.read_text()) == value, "what is left of them stays"


@pytest.mark.parametrize("port", ["20001", None, 0, 70000, 2.5, True, [1]])
def test_a_port_that_is_none_is_chosen_again(port: object, home: Home, caplog: pytest.LogCaptureFixture) -> None:
    path = home.file("ports.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"s3": port}))
    check_state(home, Settings(home=home.path))
    assert "ports.json was damaged (s3: " in caplog.text
    assert isinstance(claim_ports(home).s3, int)


def test_credentials_that_are_gone_from_a_home_with_data_are_told(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    home.file("credentials.json").unlink()
    check_state(home, Settings(home=home.path))
    assert caplog.text == "", "a new home needs no word"
    home.file("store", "data").mkdir()
    home.file("store", "data", "1.dat").touch()
    check_state(home, Settings(home=home.path))
    assert "new credentials are generated" in caplog.text


def test_a_sound_home_is_left_as_it_is(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    before = {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}
    check_state(home, Settings(home=home.path))
    assert {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()} == before
    assert caplog.text == ""
    assert load_credentials(home)


@pytest.mark.parametrize("text", ["", " ", "short", "\0" * 64])
def test_an_empty_secret_of_cookies_is_made_again(text: str, home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """With an empty one forged links were accepted."""
    from worklist.database.access import signer

    settings = Settings(home=home.path)
    path = home.file("worklist", "secret")
    path.write_text(text)
    forged = URLSafeTimedSerializer(text, salt="lungline-worklist-link").dumps("Eve")
    with pytest.raises(BadSignature):
        signer(settings, "link").loads(forged)
    assert "everybody signs in once more" in caplog.text
    kept = path.read_text()
    signer(settings, "link")
    assert path.read_text() == kept


@pytest.fixture
def killed(home: Home) -> Home:
    """A home whose store was killed: a volume and a log of the filer's database, and how far they had grown."""
    filer = home.file("store", "data", "filerldb2", "00")
    filer.mkdir(parents=True)
    (filer / "000001.log").write_bytes(b"records " * 900)
    (filer.parents[1] / "7.dat").write_bytes(b"\3" + bytes(7) + b"objects " * 900)
    note_growth(home)
    return home


@pytest.mark.parametrize("name", ["filerldb2/00/000001.log", "7.dat"])
@pytest.mark.parametrize(
    ("damage", "what"), [(half, "was cut"), (Path.unlink, "was removed"), (overwritten, "has changed")]
)
def test_what_is_done_to_the_files_of_a_killed_store_is_noticed(
    name: str, damage: Callable[[Path], Any], what: str, killed: Home
) -> None:
    """The store itself starts with half of its filer's log, and merely has fewer objects."""
    path = killed.file("store", "data", name)
    damage(path)
    with pytest.raises(StackError, match=rf"^{re.escape(str(path))} {what} since the store ran: restore "):
        check_state(killed, Settings(home=killed.path))
    killed.file("store", "data", LIST).unlink()  # the cure that the sentence names
    check_state(killed, Settings(home=killed.path))


def test_what_a_running_store_does_to_its_files_is_no_damage(killed: Home, caplog: pytest.LogCaptureFixture) -> None:
    """They grow; a compacted volume is another one; the filer's database removes what newer files hold."""
    volume, journal = (
        killed.file("store", "data", "7.dat"),
        killed.file("store", "data", "filerldb2", "00", "000001.log"),
    )
    volume.write_bytes(volume.read_bytes() + b"more")
    check_state(killed, Settings(home=killed.path))
    volume.write_bytes(b"\3\0\0\0\0\1\0\0" + b"few")
    journal.rename(journal.with_name("000002.ldb"))
    check_state(killed, Settings(home=killed.path))
    assert "may be lost" not in caplog.text


def test_a_copy_of_a_running_home_starts_with_what_it_has(
    killed: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a power cut: what was written last may be missing."""
    copy = Home(shutil.copytree(killed.path, tmp_path / "copy"))
    half(copy.file("store", "data", "7.dat"))
    check_state(copy, Settings(home=copy.path))
    assert "7.dat was cut: objects of the last seconds may be lost" in caplog.text


@pytest.mark.parametrize("damage", ["half", "noise", "zeros", "a list", "removed"])
def test_a_damaged_log_of_the_broker_is_set_aside(damage: str, home: Home, caplog: pytest.LogCaptureFixture) -> None:
    home.file("broker").mkdir(exist_ok=True)
    path = log_file(home.file("broker"))
    with closing(BrokerLog(path)) as log:
        log.write([Change(f"{number}", bytes(1000)) for number in range(40)])
    write_json(home.file("run", "kafka_gate.json"), {"log": str(path)})
    check_state(home, Settings(home=home.path))
    assert "log.db" not in caplog.text
    DAMAGES[damage](path)
    check_state(home, Settings(home=home.path))
    word = "gone" if damage == "removed" else "damaged"
    assert re.search(rf"log.db was {word}.*: uploads without a result are sent again", caplog.text)
    with closing(BrokerLog(path)) as log:
        assert log.listed("") == []


def test_a_home_of_an_earlier_release_lacks_no_log(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    write_json(home.file("run", "kafka_gate.json"), {"pid": 1, "private": True, "port": 7})
    check_state(home, Settings(home=home.path))
    assert "log.db" not in caplog.text


def test_nobody_waits_for_a_champion_whose_expectation_is_damaged(home: Home) -> None:
    """The predictor refuses it; `up` waited 15 seconds for it all the same."""
    home.package("2").mkdir(parents=True)
    home.champion.symlink_to("packages/2")
    assert champion_fault(home) is None
    home.file("predictor", "expected").mkdir()
    home.file("predictor", "expected", "1.json").write_text("[1]")
    assert champion_fault(home) is None, "another version's"
    home.file("predictor", "expected", "2.json").write_text("[1]")
    assert champion_fault(home)


def test_a_new_home_has_nothing_to_check(tmp_path: Path) -> None:
    home = Home.make(tmp_path / "new")
    check_state(home, Settings(home=home.path))
    shutil.rmtree(tmp_path / "new")


def test_a_further_model_is_checked_as_the_first_is(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    kind = ModelFolder(home.models / "pneumonia-kind")
    kind.package("1").mkdir(parents=True)
    kind.champion.write_text("damage")
    check_state(home, Settings(home=home.path))
    assert "pneumonia-kind/current was damaged: `lungline models` lists them" in caplog.text
    kind.champion.symlink_to("packages/2")
    check_state(home, Settings(home=home.path))
    assert "pneumonia-kind/current leads to no package" in caplog.text
    (kind.path / "expected").write_text("damage")
    with pytest.raises(StackError, match="pneumonia-kind/expected is a file where a folder should be"):
        check_state(home, Settings(home=home.path))
