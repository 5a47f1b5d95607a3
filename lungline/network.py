"""The network on one machine: loopback ports, and calls to our own servers without proxies or others' variables.

A server on this machine is called directly, whatever proxies the environment names; for other addresses the
environment's proxies apply. `shield_environment` does this for libraries that read the environment themselves; each of
our processes calls it when it starts. `open_url` and `proxies_for` do it for our own calls.
"""

import os
import socket
import urllib.request
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit

HOST = "127.0.0.1"
LOOPBACK = ("127.0.0.1", "localhost", "::1")

# Addresses, credentials, plugins and run ids of other MLflow servers and OpenTelemetry collectors; Lungline has its own
# settings for both.
_FOREIGN = ("MLFLOW_", "OTEL_")
# The way to log in to an MLflow server outside: kept where the settings name one.
_MLFLOW_LOGIN = {
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
    *("MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_CLIENT_CERT_PATH", "MLFLOW_TRACKING_INSECURE_TLS"),
}
_NO_PROXY = ("no_proxy", "NO_PROXY")


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        # As servers do: a lingering connection of the last run does not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def answers(port: int) -> bool:
    """Whether a server accepts connections on the port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def is_local(url: str | None) -> bool:
    """Whether a URL, or `host:port`, names this machine.

    >>> is_local("http://[::1]:9000/bucket"), is_local("localhost:9092"), is_local("https://s3.amazonaws.com")
    (True, True, False)
    """
    if not url:
        return False
    try:
        host = urlsplit(url if "//" in url else f"//{url}").hostname or ""
    except ValueError:
        return False
    return host == "localhost" or host.endswith(".localhost") or host == "::1" or _is_loopback_v4(host)


def _is_loopback_v4(host: str) -> bool:
    parts = host.split(".")
    return len(parts) == 4 and parts[0] == "127" and all(part.isdigit() for part in parts)


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for a URL; None for a server on this machine."""
    address = urlsplit(url)
    if is_local(url) or urllib.request.proxy_bypass(address.hostname or ""):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(address.scheme) or proxies.get("all")


def proxies_for(url: str | None) -> dict[str, str] | None:
    """The `proxies` argument of botocore for a URL: none for this machine, None (the environment's) for any other."""
    return {} if is_local(url) else None


def open_url(request: str | urllib.request.Request, timeout: float) -> Any:
    """`urllib.request.urlopen`, which asks servers on this machine without a proxy; raises what it raises."""
    url = request if isinstance(request, str) else request.full_url
    handlers = [urllib.request.ProxyHandler({})] if is_local(url) else []
    return urllib.request.build_opener(*handlers).open(request, timeout=timeout)


def without_proxies(environment: MutableMapping[str, str]) -> None:
    """Add this machine to the addresses that an environment exempts from proxies.

    Both spellings get the same value: where only one is set, libraries that prefer the other would lose its hosts.
    """
    hosts: list[str] = []
    for name in (*_NO_PROXY, "no_grpc_proxy"):
        # Brackets make httpx fail; without them the entry means the same to everybody who reads it.
        listed = (host.strip().replace("[", "").replace("]", "") for host in environment.get(name, "").split(","))
        hosts += [host for host in listed if host and host not in hosts]
    exempt = "*" if "*" in hosts else ",".join([*hosts, *(host for host in LOOPBACK if host not in hosts)])
    for name in (*_NO_PROXY, *(("no_grpc_proxy",) if "no_grpc_proxy" in environment else ())):
        environment[name] = exempt


def shield_environment(environment: MutableMapping[str, str] = os.environ, *, mlflow_uri: str | None = None) -> None:
    """Remove variables that would divert our process to other servers; called once, when the process starts.

    Servers on this machine are exempt from proxies. Variables of MLflow and OpenTelemetry go; the login to an MLflow
    server outside stays where `mlflow_uri` names one. Certificates and proxies for addresses outside stay as they are.
    """
    without_proxies(environment)
    kept = _MLFLOW_LOGIN if mlflow_uri and not is_local(mlflow_uri) else set[str]()
    for name in [name for name in environment if name.startswith(_FOREIGN) and name not in kept]:
        del environment[name]
