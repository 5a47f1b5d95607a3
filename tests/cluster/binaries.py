"""The programs of a cluster, built from Go's module proxy by name and version, and kept between runs.

One folder of `go/` is one family with its own go.mod, because Knative and KServe need different versions of Kubernetes'
libraries. `python -m tests.cluster.binaries` builds what the control plane needs, `--all` what a node needs as well;
`--minutes` limits the time (exit code 1 when it does not suffice; the next run continues from Go's own cache).
"""

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "go"
KUBERNETES = "1.34.4"
OLDEST_GO = (1, 26)
# Without a version in the program, the API server says v0.0.0 and Knative refuses it as older than 1.34.
_SET = "-X k8s.io/component-base/version.git"
_MAJOR, _MINOR, _ = KUBERNETES.split(".")
FLAGS = {
    "kubernetes": f"{_SET}Version=v{KUBERNETES} {_SET}Major={_MAJOR} {_SET}Minor={_MINOR}",
}


@dataclass(frozen=True)
class Program:
    """A program, the family whose go.mod names its version, and the Go package of its main function."""

    name: str
    family: str
    package: str
    control_plane: bool = True

    @property
    def path(self) -> Path:
        return cache_folder() / f"{self.family}-{digest(self.family)}" / self.name

    def command(self, target: Path) -> list[str]:
        flags = f"-s -w {FLAGS.get(self.family, '')}".strip()
        return ["go", "build", "-trimpath", "-mod=readonly", f"-ldflags={flags}", f"-o={target}", self.package]


def _programs() -> Iterator[Program]:
    yield Program("etcd", "etcd", "go.etcd.io/etcd/server/v3")
    for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"):
        needed = name in {"kube-apiserver", "kube-controller-manager"}
        yield Program(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", needed)
    for name in ("controller", "webhook", "autoscaler", "activator", "queue"):
        needed = name not in {"activator", "queue"}
        yield Program(f"serving-{name}", "serving", f"knative.dev/serving/cmd/{name}", needed)
    yield Program("coredns", "coredns", ".", control_plane=False)
    yield Program("victoria-logs", "victoria-logs", "github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs")
    kube_router = "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"
    yield Program("kube-router", "kube-router", kube_router, control_plane=False)
    yield Program("kserve-manager", "kserve", "github.com/kserve/kserve/cmd/manager")
    for name in ("controller", "webhook"):
        yield Program(f"eventing-{name}", "eventing", f"knative.dev/eventing/cmd/{name}")
    for name, package in (
        ("mtchannel-broker", "mtchannel_broker"),
        ("broker-filter", "broker/filter"),
        ("broker-ingress", "broker/ingress"),
        ("imc-controller", "in_memory/channel_controller"),
        ("imc-dispatcher", "in_memory/channel_dispatcher"),
    ):
        yield Program(f"eventing-{name}", "eventing", f"knative.dev/eventing/cmd/{package}", control_plane=False)


PROGRAMS = {program.name: program for program in _programs()}
CONTROL_PLANE = tuple(name for name, program in PROGRAMS.items() if program.control_plane)


def cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "lungline" / "cluster"


def _sources(family: str) -> list[Path]:
    """The versions of a family, and the main function where it is our own."""
    folder = FOLDER / family
    return [folder / "go.mod", folder / "go.sum", *sorted(folder.glob("*.go"))]


@cache
def digest(family: str) -> str:
    """What a build depends on: the family's versions, the compiler and its flags."""
    parts = [path.read_bytes() for path in _sources(family)]
    seen = b"\0".join([*parts, go_version().encode(), FLAGS.get(family, "").encode()])
    return hashlib.sha256(seen).hexdigest()[:16]


@cache
def go_version() -> str:
    """Such as `go1.26.8`; empty without Go. GOTOOLCHAIN stays as the machine has it."""
    if not shutil.which("go"):
        return ""
    done = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def missing(names: tuple[str, ...] = CONTROL_PLANE) -> list[str]:
    """The programs that are not built yet."""
    return [name for name in names if not PROGRAMS[name].path.exists()]


def why_not_buildable() -> str | None:
    """One sentence about the Go compiler, None when it will do."""
    version = go_version()
    if not version:
        return "The control plane is built with Go 1.26 or newer, and `go` is not on the PATH."
    numbers = version.removeprefix("go").split(".")
    if tuple(map(int, numbers[:2])) < OLDEST_GO:
        return f"The control plane is built with Go 1.26 or newer; this machine has {version}."
    return None


def build(name: str, deadline: float) -> bool:
    """Build one program; False when it is not done in time. Raises BuildFailed with the compiler's words."""
    program = PROGRAMS[name]
    program.path.parent.mkdir(parents=True, exist_ok=True)
    for path in _sources(program.family):  # a build takes minutes, in which git may move the checkout's files
        shutil.copy(path, program.path.parent)
    target = program.path.with_name(f".{name}.{os.getpid()}")
    process = subprocess.Popen(
        program.command(target),
        cwd=program.path.parent,
        env=os.environ | {"CGO_ENABLED": "0"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that the compilers stop with it
    )
    try:
        _, errors = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except BaseException as exc:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        target.unlink(missing_ok=True)
        if isinstance(exc, subprocess.TimeoutExpired):
            return False
        raise
    if process.returncode:
        raise BuildFailed(f"Building {name} failed: {errors.strip()[-2000:]}")
    if program.family == "kserve":
        _keep_gateway_crds()
    target.replace(program.path)
    return True


def gateway_crds() -> list[Path]:
    """The CRDs of the Gateway API in the version that KServe is built with, out of Go's module cache."""
    return sorted(_gateway_folder().glob("*.yaml"))


def _gateway_folder() -> Path:
    return PROGRAMS["kserve-manager"].path.parent / "gateway-api"


def _keep_gateway_crds() -> None:
    """Keep them beside the program, because a later run may have no module cache."""
    find = ["go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api"]
    done = subprocess.run(find, cwd=FOLDER / "kserve", capture_output=True, text=True, check=True, timeout=120)
    _gateway_folder().mkdir(parents=True, exist_ok=True)
    for path in (Path(done.stdout.strip()) / "config" / "crd" / "standard").glob("gateway.networking.k8s.io_*.yaml"):
        if "vap_" not in path.name:
            shutil.copyfile(path, _gateway_folder() / path.name)


class BuildFailed(Exception):
    """The compiler, or the module proxy, refused."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="also the programs of a node")
    parser.add_argument("--minutes", type=float, default=90, help="give up after this time")
    options = parser.parse_args(arguments)
    rest = [name for name in PROGRAMS if options.all and name not in CONTROL_PLANE]
    wanted = missing((*CONTROL_PLANE, *rest))
    if wanted and (reason := why_not_buildable()):
        print(reason, file=sys.stderr)
        return 1
    deadline = time.monotonic() + options.minutes * 60
    failures = 0
    for name in wanted:
        started = time.monotonic()
        try:
            if not build(name, deadline):
                print(f"{name} is not built within {options.minutes:g} minutes.", file=sys.stderr)
                return 1
        except BuildFailed as exc:
            failures += 1
            print(exc, file=sys.stderr)
            continue
        print(f"{name}: built in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
