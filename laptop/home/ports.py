"""Ports of the services on the loopback interface: free ones, chosen once and kept."""

import random
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields

from lungline.errors import StackError
from lungline.home import Home, read_json, write_json
from lungline.network import HOST, is_free

# Below the ports that Linux (32768) and macOS (49152) give to outgoing connections, which could take a service's port
# while that service restarts.
LOWEST, HIGHEST = 20_000, 32_000
# The store's admin server takes its gRPC port from an option, but its worker expects this distance.
ADMIN_GRPC_ABOVE = 10_000
# The ports that people and their programs know, and whose they are.
_CLIENTS = {"s3": "store", "gateway_web": "gateway"} | {
    name: name for name in ("broker", "mlflow", "predictor", "worklist", "gateway", "prometheus")
}


@dataclass(frozen=True, slots=True)
class Ports:
    """One port for each listener; the store has five, each with a gRPC port (the admin server's is 10,000 higher)."""

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
    # Homes of earlier versions have none: 0 until the next start, which chooses them and keeps the others.
    gateway: int = 0
    gateway_metrics: int = 0
    gateway_web: int = 0

    @classmethod
    def choose(cls, previous: "Ports | None" = None) -> "Ports":
        """Free ports: the previous ones where they are still free, else new ones."""
        chosen: dict[str, int] = {}
        for field in fields(cls):
            above = ADMIN_GRPC_ABOVE if field.name == "admin" else 0
            taken = {*chosen.values(), chosen.get("admin", 0) + ADMIN_GRPC_ABOVE}
            port = getattr(previous, field.name, None)
            if not (port and port not in taken and is_free(port) and is_free(port + above)):
                port = free_port(taken, above)
            chosen[field.name] = port
        return cls(**chosen)


def load_ports(home: Home) -> Ports | None:
    """The ports of this home; None before its first start."""
    stored = read_json(home.file("ports.json"))
    try:
        return Ports(**stored) if isinstance(stored, dict) else None
    except TypeError:  # written by a version with other services
        return None


def claim_ports(home: Home) -> Ports:
    """The home's ports, with new ones in place of those that another program uses now."""
    ports = Ports.choose(load_ports(home))
    write_json(home.file("ports.json"), asdict(ports), durable=True)  # clients are set up with them
    return ports


def exchanged(before: Ports | None, after: Ports | None) -> dict[str, str]:
    """A sentence for each service whose port another program has taken since the last start."""
    if before is None or after is None:
        return {}
    ports = {service: (getattr(before, name), getattr(after, name)) for name, service in _CLIENTS.items()}
    return {
        service: f"Port {old} is used by another program: it has port {new} now. Who still uses {old} meets a stranger."
        for service, (old, new) in ports.items()
        if old and old != new
    }


def free_port(taken: Collection[int] = (), above: int = 0) -> int:
    """A port that no program uses, and none of those that are taken; nor is the one `above` it. Raises StackError."""
    for _ in range(1000):
        port = random.randrange(LOWEST, HIGHEST - above)  # noqa: S311 - a port is no secret
        if not {*taken} & {port, port + above} and is_free(port) and is_free(port + above):
            return port
    raise StackError(f"No free port between {LOWEST} and {HIGHEST} on {HOST}.")


def targets(ports: Ports) -> dict[str, str]:
    """Host and port of the metrics of each service that has metrics."""
    metrics_ports = {
        "predictor": ports.predictor,
        "bridge": ports.bridge_metrics,
        "trigger": ports.trigger_metrics,
        "worklist": ports.worklist_metrics,
        "gateway": ports.gateway_metrics,
        "supervisor": ports.supervisor_metrics,
    }
    return {service: f"{HOST}:{port}" for service, port in metrics_ports.items()}
