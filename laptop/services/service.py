"""What the supervisor needs to know of a service: how it is started, whether it is ready, where it listens."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from eventing.state import State
from lungline.network import without_proxies
from lungline.settings import PREFIX, Settings, setting_names, variable


@dataclass(frozen=True, slots=True)
class Command:
    """A process to start. Secrets travel in its environment: anybody may read a command line."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    folder: Path


class Service(Protocol):
    """One service of the stack, which is one process (with children of its own, if it likes)."""

    @property
    def name(self) -> str:
        """One word, for status, log and command line."""
        ...

    @property
    def address(self) -> str | None:
        """Where it listens; None for a service that only calls others."""
        ...

    @property
    def after(self) -> tuple[str, ...]:
        """Services that must be ready before this one is started."""
        ...

    @property
    def stop_timeout(self) -> float:
        """Seconds that an orderly end may take."""
        ...

    @property
    def poll(self) -> bool:
        """Whether its state can change while it runs."""
        ...

    def command(self) -> Command:
        """How to start it; writes the configuration files that it reads."""
        ...

    def probe(self, pid: int) -> State:
        """Its state now, `starting` when it does not answer; first-time work such as buckets is done here."""
        ...

    def maintain(self) -> None:
        """Housekeeping while it is ready, every few seconds."""
        ...


# Whatever the caller's shell holds for other stores, servers and proxies must not reach the services.
_FOREIGN = ("AWS_", "MLFLOW_", "OTEL_", "KAFKA_", "TANSU_", PREFIX)


def base_environment() -> dict[str, str]:
    """This process's environment without anything that would lead a service to another server."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    without_proxies(env)
    # Python buffers its output to a file or pipe; a log should tell what happened before a crash.
    return env | {"PYTHONUNBUFFERED": "1"}


def settings_environment(settings: Settings) -> dict[str, str]:
    """The settings as variables: `Settings()` gives the same settings back where these are set."""
    env: dict[str, str] = {}
    for name in setting_names():
        value: object = settings
        for leaf in name.split("."):
            value = getattr(value, leaf)
        if value is not None:
            env[variable(name)] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return env


def s3_environment(settings: Settings) -> dict[str, str]:
    """The variables from which S3 clients other than ours take address and credentials."""
    env = {"AWS_DEFAULT_REGION": settings.s3_region, "AWS_REGION": settings.s3_region}
    if settings.s3_endpoint:
        env |= {"AWS_ENDPOINT_URL": settings.s3_endpoint, "AWS_ENDPOINT_URL_S3": settings.s3_endpoint}
    if settings.s3_access_key and settings.s3_secret_key:
        env["AWS_ACCESS_KEY_ID"] = settings.s3_access_key.get_secret_value()
        env["AWS_SECRET_ACCESS_KEY"] = settings.s3_secret_key.get_secret_value()
    return env
