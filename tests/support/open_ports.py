"""Where processes listen, and their descendants, from /proc."""

import socket
import struct
from pathlib import Path


def listening(pid: int) -> set[str]:
    """Addresses, without ports, of the TCP sockets that a process listens on."""
    inodes = {_inode(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    addresses: set[str] = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                words = bytes.fromhex(fields[1].partition(":")[0])
                packed = b"".join(
                    struct.pack(">I", *struct.unpack_from("<I", words, at)) for at in range(0, len(words), 4)
                )
                addresses.add(socket.inet_ntop(family, packed))
    return addresses


def family(pid: int) -> set[int]:
    """A process and all its descendants."""
    parents = {int(path.name): _parent(path) for path in Path("/proc").iterdir() if path.name.isdigit()}
    pids = {pid}
    while children := {child for child, parent in parents.items() if parent in pids} - pids:
        pids |= children
    return pids


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def _inode(link: Path) -> str:
    try:
        return str(link.readlink()).removeprefix("socket:[").removesuffix("]")
    except OSError:
        return ""


def _parent(path: Path) -> int:
    try:
        return int((path / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
