"""Signatures of packages: ours and those of OpenSSF's model signing accept each other; any change is refused."""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lungline.errors import PackageError, RegistryError
from lungline.package.card import amend_card
from lungline.package.signature import SIGNATURE, is_signed, sign_package, verify_package
from lungline.settings import load_settings
from lungline.site_key import PRIVATE, PUBLIC, SiteKey, generate_key, parse_public_keys, site_key, trusted_keys

KEY = generate_key()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small signed folder."""
    (tmp_path / "7/saved_model").mkdir(parents=True)
    for name in ("card.json", "model.tflite", "saved_model/saved_model.pb"):
        (tmp_path / "7" / name).write_text(f"content of {name}")
    sign_package(tmp_path / "7", KEY)
    return tmp_path / "7"


def test_a_signed_package_names_its_key(folder: Path) -> None:
    assert is_signed(folder)
    assert verify_package(folder, (generate_key().public, KEY.public)) == KEY.public


def rewrite(path: Path) -> None:
    path.write_text(path.read_text() + "x")


def resign(folder: Path) -> None:
    sign_package(folder, generate_key())


def other_payload(folder: Path) -> None:
    """The signature of another folder's content."""
    bundle = json.loads((folder / SIGNATURE).read_text())
    (folder / "card.json").write_text("another")
    sign_package(folder, KEY)
    (folder / SIGNATURE).write_text(json.dumps(bundle))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "the card": (lambda f: rewrite(f / "card.json"), "card.json .* is changed"),
    "the network": (lambda f: rewrite(f / "model.tflite"), "model.tflite .* is changed"),
    "a file below": (lambda f: rewrite(f / "saved_model/saved_model.pb"), "saved_model.pb .* is changed"),
    "a file more": (lambda f: (f / "x").write_text("x"), "The file x .* is not signed"),
    "a nested card": (
        lambda f: (f / "saved_model/card.json").write_text("x"),
        "saved_model/card.json .* is not signed",
    ),
    "a file less": (lambda f: (f / "model.tflite").unlink(), "model.tflite .* is missing"),
    "another key": (resign, "not signed with a key of this site"),
    "another signature": (other_payload, "card.json .* is changed"),
    "no signature": (lambda f: (f / SIGNATURE).unlink(), "is not signed"),
    "half a signature": (lambda f: (f / SIGNATURE).write_text((f / SIGNATURE).read_text()[:99]), "cannot be read"),
    "an empty object": (lambda f: (f / SIGNATURE).write_text("{}"), "cannot be read"),
    "a list": (lambda f: (f / SIGNATURE).write_text("[]"), "cannot be read"),
    "noise": (lambda f: (f / SIGNATURE).write_bytes(bytes(range(256))), "cannot be read"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_is_refused_in_one_sentence(change: str, folder: Path) -> None:
    harm, sentence = CHANGES[change]
    harm(folder)
    with pytest.raises(PackageError, match=sentence) as caught:
        verify_package(folder, (KEY.public,))
    assert "\n" not in str(caught.value)


def test_model_signing_and_we_accept_each_other(folder: Path, tmp_path: Path) -> None:
    """The upstream tool, where one is installed."""
    tool = shutil.which("model_signing", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if tool is None:
        pytest.skip("model_signing is not installed: `pip install model-signing pyopenssl`")
    (tmp_path / "key.pem").write_text(KEY.pem)
    (tmp_path / "key.pub").write_text(KEY.public.pem)
    signature = ("--signature", str(folder / SIGNATURE))

    def run(*arguments: str) -> int:
        return subprocess.run([tool, *arguments], capture_output=True, check=False, timeout=60).returncode

    verify = ("verify", "key", str(folder), *signature, "--public_key", str(tmp_path / "key.pub"))
    assert run(*verify) == 0
    rewrite(folder / "card.json")
    assert run(*verify) != 0
    assert run("sign", "key", str(folder), *signature, "--private_key", str(tmp_path / "key.pem")) == 0
    assert verify_package(folder, (KEY.public,)) == KEY.public


def test_the_home_generates_its_key_once(tmp_path: Path) -> None:
    settings = load_settings({"home": str(tmp_path / "home")})
    assert trusted_keys(settings) == ()
    key = site_key(settings)
    assert site_key(settings) == key
    assert stat.S_IMODE((tmp_path / "home" / PRIVATE).stat().st_mode) == 0o600
    assert trusted_keys(settings) == parse_public_keys((tmp_path / "home" / PUBLIC).read_text()) == (key.public,)


def test_a_lost_private_key_is_replaced_and_the_old_public_one_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = load_settings({"home": str(tmp_path)})
    first = site_key(settings)
    (tmp_path / PRIVATE).unlink()
    second = site_key(settings)
    assert first != second
    assert set(trusted_keys(settings)) == {first.public, second.public}
    assert "the one before was lost" in caplog.text


@pytest.mark.parametrize("text", ["", "noise", KEY.pem[:99], KEY.public.pem], ids=["empty", "noise", "half", "public"])
def test_a_damaged_private_key_is_named_with_its_cure(tmp_path: Path, text: str) -> None:
    (tmp_path / PRIVATE).write_text(text)
    with pytest.raises(RegistryError, match=r"site-key\.pem is no private key .* remove it: a new one is generated"):
        site_key(load_settings({"home": str(tmp_path)}))


def test_a_cluster_without_a_key_is_told_where_it_is(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="LUNGLINE_SITE_KEY is not set"):
        site_key(load_settings({"home": str(tmp_path), "deployment": "cluster"}))
    given = load_settings({"home": str(tmp_path), "deployment": "cluster", "site_key": KEY.pem})
    assert site_key(given) == SiteKey(KEY.pem)
    assert trusted_keys(given) == (KEY.public,)


def test_a_card_that_was_edited_after_signing_is_refused(versions: Path, tmp_path: Path) -> None:
    """Thresholds are in the card, which the card itself cannot list."""
    package = shutil.copytree(versions / "1", tmp_path / "1")
    sign_package(package, KEY)
    amend_card(package, seed=9)
    with pytest.raises(PackageError, match=r"card\.json of package 1 is changed"):
        verify_package(package, (KEY.public,))
