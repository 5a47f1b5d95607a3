"""Where a result comes from: the digest of the code, the commit, and the libraries that decide its numbers."""

import hashlib
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lungline.package.card import CodeFacts

ROOT = Path(__file__).parents[2]
SOURCES = ("lungline", "data", "components")
"""Packages whose code decides what a pipeline step writes; the others only arrange and show it."""

LIBRARIES = ("ai-edge-litert", "keras", "numpy", "pillow", "scikit-learn", "tensorflow", "tensorflow-cpu")


@cache
def code_facts() -> CodeFacts:
    """The code of this process: version with the digest of its sources, git commit where there is one, libraries."""
    commit = _git("rev-parse", "HEAD")
    return CodeFacts(
        version=f"{version('lungline')}+{_sources_digest()[:12]}",
        commit=commit,
        dirty=bool(_git("status", "--porcelain")) if commit else None,
        packages=_libraries(),
    )


def code_version() -> str:
    """What identifies the code and the libraries that decide results, for the cache of pipeline steps."""
    facts = code_facts()
    libraries = ",".join(f"{name}={number}" for name, number in sorted(facts.packages.items()))
    return f"{facts.version}.{hashlib.sha256(libraries.encode()).hexdigest()[:12]}"


def _sources_digest() -> str:
    digest = hashlib.sha256()
    for package in SOURCES:
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _libraries() -> dict[str, str]:
    versions: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _git(*arguments: str) -> str | None:
    """What git says; None in an image or a wheel, where there is no repository."""
    # Only our own repository counts: an installed package may lie inside somebody else's.
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
