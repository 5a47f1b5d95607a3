"""A bridge, and network namespaces on it: each controller has an address of its own, as its pod would have."""

import itertools
import subprocess

BRIDGE = "lungline0"
SUBNET = "10.244.0"
HOST = f"{SUBNET}.1"
"""The address of the API server, reachable from every namespace; Kubernetes refuses 127.0.0.1 as an endpoint."""
SERVICES = "10.96.0.0/16"


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


class Bridge:
    """The bridge of one isolated namespace; it goes with the namespace."""

    def __init__(self) -> None:
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("address", "add", f"{HOST}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        self._free = itertools.count(10)

    def attach(self, name: str) -> str:
        """Make a network namespace called `name` with one address on the bridge; returns the address."""
        number = next(self._free)
        assert number < 255, "the subnet is used up"
        address, device = f"{SUBNET}.{number}", f"veth{number}"
        _ip("netns", "add", name)
        _ip("link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", device, "master", BRIDGE, "up")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "route", "add", "default", "via", HOST)
        return address
