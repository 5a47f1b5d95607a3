"""A network of its own for a server that cannot ask its clients who they are.

On Linux the server runs in a network namespace, whose loopback interface only it can reach: for every other process of
this machine its port does not exist. Our own process reaches it through sockets that are made inside and handed out,
and listens inside for what the server needs in the same way. Entering such a namespace takes the rights of its owner.

Where the system has no namespaces (macOS) or allows none to ordinary users, the server shares the machine's network,
and `is_private` is false: then its port is open to every user of the machine.
"""

import array
import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lungline.network import HOST

_CLONE_NEWNET, _CLONE_NEWUSER = 0x40000000, 0x10000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_PR_SET_PDEATHSIG = 1
PATIENCE_SECONDS = 5.0
BACKLOG = 256


@dataclass(frozen=True, slots=True)
class Program:
    """A server to start: `port` is where it listens, `lent` where it expects our own process to listen, if anywhere."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    port: int
    lent: int | None = None


def free_port() -> int:
    """A port that is free on this machine, and so in every network of its own."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """So many different ones."""
    with contextlib.ExitStack() as probes:
        return [probes.enter_context(socket.create_server((HOST, 0))).getsockname()[1] for _ in range(count)]


class PrivateNetwork:
    """The network that a server runs in; open it in a process that has one thread."""

    def __init__(self, channel: socket.socket, pid: int, lent: socket.socket | None, *, is_private: bool) -> None:
        self._channel = channel
        self._using = threading.Lock()
        self.pid = pid
        """Of the process that ends when the server does."""
        self.lent = lent
        """The listening socket at the port lent, which the server reaches; None when nothing is lent."""
        self.is_private = is_private

    @classmethod
    def start(cls, program: Program) -> "PrivateNetwork":
        """Start a server in a network of its own, or in the machine's where there can be none."""
        return _fork(program, private=True) or _fork(program, private=False)  # pyright: ignore[reportReturnType] - the second cannot fail

    def socket(self) -> socket.socket:
        """A new socket, from which the server's port can be reached. Raises OSError when its process is gone."""
        if not self.is_private:
            return socket.socket()
        with self._using:
            self._channel.send(b"s")
            _, handles, _, _ = socket.recv_fds(self._channel, 1, 1)
        if not handles:
            raise ConnectionRefusedError
        return socket.socket(fileno=handles[0])

    def end(self) -> None:
        """Kill the server and leave its network."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self._channel.close()
        if self.lent:
            self.lent.close()


def _fork(program: Program, *, private: bool) -> PrivateNetwork | None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET if _has_packets() else socket.SOCK_DGRAM)
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        ours.close()
        _inside(program, theirs, parent, private=private)
    theirs.close()
    ours.settimeout(PATIENCE_SECONDS)
    answer, handles, _, _ = socket.recv_fds(ours, 1, 1)
    if answer in {b"p", b"m"}:
        lent = socket.socket(fileno=handles[0]) if handles else None
        return PrivateNetwork(ours, pid, lent, is_private=answer == b"p")
    ours.close()
    os.waitpid(pid, 0)
    return None


def _has_packets() -> bool:
    return hasattr(socket, "SOCK_SEQPACKET") and os.uname().sysname == "Linux"


def _inside(program: Program, channel: socket.socket, parent: int, *, private: bool) -> None:
    """The child's life: it starts the server, hands out sockets, and ends with its parent and with the server."""
    try:
        handles: list[int] = []
        if private:
            _leave_network()
        if program.lent:
            listener = socket.create_server((HOST, program.lent), backlog=BACKLOG)
            handles = [listener.fileno()]
        _end_with(parent)
        socket.send_fds(channel, [b"p" if private else b"m"], handles)
    except BaseException:  # noqa: BLE001 - a child must not return into its parent's code
        with contextlib.suppress(OSError):
            channel.send(b"n")
        os._exit(1)
    try:
        _serve(program, channel)
    finally:
        os._exit(1)


def _serve(program: Program, channel: socket.socket) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # it ends with the server, which gets the same signal
    here = os.getpid()
    server = subprocess.Popen(program.argv, env=dict(program.env), preexec_fn=lambda: _begin(here))  # noqa: PLW1509 - two system calls

    def end_with_server() -> None:
        code = server.wait()
        os._exit(code if code >= 0 else 128 - code)

    threading.Thread(target=end_with_server, daemon=True).start()
    channel.settimeout(None)
    while channel.recv(1):
        with socket.socket() as made:
            socket.send_fds(channel, [b"s"], [made.fileno()])
    server.kill()


def _begin(parent: int) -> None:
    """What the server's process does before it becomes the server."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    _end_with(parent)


def _leave_network() -> None:
    """Move to an empty network with a loopback interface. Raises OSError, or AttributeError where there is none."""
    libc = ctypes.CDLL(None, use_errno=True)
    # A user who may make no network namespace may make one inside a user namespace.
    if libc.unshare(_CLONE_NEWNET) and libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = array.array("b", struct.pack("16sh14x", b"lo", 0))
        fcntl.ioctl(control, _SIOCGIFFLAGS, request)
        flags = struct.unpack("16sh14x", request.tobytes())[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def _end_with(parent: int) -> None:
    """Be killed when the parent ends; set after the move, which clears it."""
    if os.uname().sysname != "Linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
