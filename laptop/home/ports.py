"""Addresses of the services: free ports of the loopback interface, chosen once and kept, so that they stay the same."""

import random
from dataclasses import asdict, dataclass, fields

from lungline.errors import StackError
from lungline.home import Home, read_json, write_json
from lungline.network import HOST, is_free

# Below the ports that Linux (32768) and macOS (49152) give to outgoing connections: one of those could sit on a
# service's port just when that service restarts.
LOWEST, HIGHEST = 20_000, 32_000
# The store's admin server takes its gRPC port from an option, its worker looks for it here.
ADMIN_GRPC_ABOVE = 10_000


@dataclass(frozen=True, slots=True)
class Ports:
    """One port for each listener; the store has five, with gRPC beside each (the admin server's 10,000 above it)."""

    s3: int
    s3_grpc: int
    master: int
    master_grpc: int
    volume: int
    volume_grpc: int
    filer: int
    filer_grpc: int
    admin: int
    broker: int
    mlflow: int
    predictor: int
    worklist: int
    bridge_metrics: int
    trigger_metrics: int
    worklist_metrics: int
    supervisor_metrics: int
    prometheus: int

    @classmethod
    def choose(cls, kept: "Ports | None" = None) -> "Ports":
        """Free ports: of the kept ones those that are still free, new ones for the others."""
        chosen: dict[str, int] = {}
        for field in fields(cls):
            above = ADMIN_GRPC_ABOVE if field.name == "admin" else 0
            taken = {*chosen.values(), chosen.get("admin", 0) + ADMIN_GRPC_ABOVE}
            before = getattr(kept, field.name, None)
            if not (before and before not in taken and is_free(before) and is_free(before + above)):
                before = _free(taken, above)
            chosen[field.name] = before
        return cls(**chosen)


def load_ports(home: Home) -> Ports | None:
    """The ports that this home has; None before its first start."""
    kept = read_json(home.file("ports.json"))
    try:
        return Ports(**kept) if isinstance(kept, dict) else None
    except TypeError:  # written by a version with other services
        return None


def claim_ports(home: Home) -> Ports:
    """The home's ports, new ones in place of those that somebody else holds now."""
    ports = Ports.choose(load_ports(home))
    write_json(home.file("ports.json"), asdict(ports))
    return ports


def _free(taken: set[int], above: int) -> int:
    for _ in range(1000):
        port = random.randrange(LOWEST, HIGHEST - above)  # noqa: S311 - nothing rests on a port being secret
        if not taken & {port, port + above} and is_free(port) and is_free(port + above):
            return port
    raise StackError(f"No free port between {LOWEST} and {HIGHEST} on {HOST}.")


def targets(ports: Ports) -> dict[str, str]:
    """Host and port of the metrics of each service that has some."""
    found = {
        "predictor": ports.predictor,
        "bridge": ports.bridge_metrics,
        "trigger": ports.trigger_metrics,
        "worklist": ports.worklist_metrics,
        "supervisor": ports.supervisor_metrics,
    }
    return {service: f"{HOST}:{port}" for service, port in found.items()}
