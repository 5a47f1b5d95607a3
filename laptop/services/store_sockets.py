"""The sockets that SeaweedFS makes in /tmp beside each of its ports, whatever TMPDIR says, and leaves there.

Their names hold the port. A store that was killed leaves them too: the ports of each start are written down, and the
next start removes what they left.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

_OPTION = re.compile(r"-[a-z0-9]+\.port(?:\.grpc)?=(\d+)")
# Without an option of its own, a gRPC port is this much above the port of its server.
_GRPC_ABOVE = 10_000
FOLDER = Path("/tmp")  # noqa: S108 - SeaweedFS's choice


def ports_of(command: Sequence[str]) -> list[int]:
    """The ports that a store's command names, and those of gRPC that follow from them."""
    ports = {int(match[1]) for option in command if (match := _OPTION.fullmatch(option))} - {0}
    return sorted(ports | {port + _GRPC_ABOVE for port in ports})


def remove_sockets(ports: Iterable[int]) -> None:
    """Remove the sockets of a store that has ended; those that another user owns stay."""
    for path in [path for port in ports for path in FOLDER.glob(f"seaweedfs-*-{port}.sock")]:
        try:
            if path.is_socket():
                path.unlink(missing_ok=True)
        except OSError:
            continue
