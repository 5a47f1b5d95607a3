"""What a real node needs before its tests run: programs and images, built while the network is still there."""

import sys

from tests.cluster import binaries
from tests.cluster.images import build_missing, kourier, missing_tools

PACKAGES = "containerd runc containernetworking-plugins buildah debootstrap iptables conntrack gcc libc6-dev"


def prepare() -> str | None:
    """Build what is missing; one sentence about what cannot be had."""
    if tools := missing_tools():
        return f"A real node needs {', '.join(tools)} (Debian: {PACKAGES})."
    if not kourier().exists():
        return f"A real node needs Kourier, which the module proxy has not: its cmd/kourier (v0.50.0) as {kourier()}."
    binaries.main(["--all"])
    if binaries.missing(tuple(name for name in binaries.PROGRAMS if name != "kube-router")):  # its test is skipped then
        return "Not every program of a real node could be built."
    for name in build_missing():
        print(f"{name}: built", file=sys.stderr)
    return None
