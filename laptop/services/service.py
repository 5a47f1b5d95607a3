"""The interface of a service to the supervisor, and the environments that services are started with."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from lungline.listening import VARIABLE as LISTENING
from lungline.network import without_proxies
from lungline.service_state import State
from lungline.settings import PREFIX, Settings, setting_names, variable


@dataclass(frozen=True, slots=True)
class Command:
    """A process to start. Secrets are in its environment, because every user can read command lines."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    folder: Path


class Service(Protocol):
    """A service of the stack: one process, possibly with children."""

    @property
    def name(self) -> str:
        """One word, for the status, the log and the command line."""
        ...

    @property
    def address(self) -> str | None:
        """Where it listens; None for a service without a port."""
        ...

    @property
    def listens(self) -> tuple[int, ...]:
        """The ports at which its process listens, on sockets that it inherits from the supervisor."""
        ...

    @property
    def after(self) -> tuple[str, ...]:
        """Services that must be ready before this one is started."""
        ...

    @property
    def stop_timeout(self) -> float:
        """Seconds to wait after SIGTERM before it is killed."""
        ...

    @property
    def notice_seconds(self) -> float:
        """How long it may give no sign before `probe` says so."""
        ...

    def command(self) -> Command:
        """How to start it; writes its configuration files."""
        ...

    def probe(self, pid: int) -> State:
        """Its state now, `starting` when it does not answer; at the first start it also makes buckets and topics.

        Called about once a second for as long as it runs.
        """
        ...

    def maintain(self) -> None:
        """Housekeeping; called every few seconds while it is ready."""
        ...


# Variables of the caller's shell that would lead services to other stores or servers.
_FOREIGN = ("AWS_", "MLFLOW_", "OTEL_", "KAFKA_", "TANSU_", LISTENING, PREFIX)


def base_environment() -> dict[str, str]:
    """This process's environment without variables that would lead a service to another server."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    without_proxies(env)
    # Logs are UTF-8, whatever the terminal is that the stack was started from.
    env.pop("PYTHONIOENCODING", None)
    # Python buffers its output to a pipe, and the last lines before a crash would be lost.
    return env | {"PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}


def priority_of(settings: Settings) -> tuple[str, ...]:
    """What a command line begins with: second opinions have the lowest priority, so that answers come first."""
    return () if settings.purpose == "answer" else ("nice", "-n", "19")


def settings_environment(settings: Settings) -> dict[str, str]:
    """The settings as environment variables, from which `Settings()` reads the same settings."""
    env: dict[str, str] = {}
    for name in setting_names():
        value: object = settings
        for leaf in name.split("."):
            value = getattr(value, leaf)
        if isinstance(value, Path):
            value = value.absolute()  # services run in folders of their own
        if value is not None:
            env[variable(name)] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return env


def s3_environment(settings: Settings) -> dict[str, str]:
    """The environment variables from which other S3 clients take address and credentials."""
    env = {"AWS_DEFAULT_REGION": settings.s3_region, "AWS_REGION": settings.s3_region}
    if settings.s3_endpoint:
        env |= {"AWS_ENDPOINT_URL": settings.s3_endpoint, "AWS_ENDPOINT_URL_S3": settings.s3_endpoint}
    if settings.s3_access_key and settings.s3_secret_key:
        env["AWS_ACCESS_KEY_ID"] = settings.s3_access_key.get_secret_value()
        env["AWS_SECRET_ACCESS_KEY"] = settings.s3_secret_key.get_secret_value()
    return env
