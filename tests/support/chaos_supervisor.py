"""The laptop's supervisor, with every service reaching the store through another port.

`python -m tests.support.chaos_supervisor PORT`, with the settings in the environment as the supervisor has them.
"""

import dataclasses
import sys
from functools import partial
from typing import Any

from laptop.supervision import supervisor
from laptop.supervision.assembly import Assembly, assemble
from lungline import program
from lungline.home import Home
from lungline.settings import Settings


def through(port: int, home: Home, settings: Settings) -> Assembly:
    """The usual stack, with another address of the store."""
    assembly = assemble(home, settings)
    address = {"s3_endpoint": f"http://127.0.0.1:{port}"}
    services: list[Any] = [
        service
        if service.name == "store"
        else dataclasses.replace(service, settings=service.settings.model_copy(update=address))
        for service in map(_any, assembly.services)
    ]
    return dataclasses.replace(
        assembly, services=tuple(services), settings=assembly.settings.model_copy(update=address)
    )


def _any(service: Any) -> Any:
    return service


if __name__ == "__main__":
    port = int(sys.argv.pop(1))
    program.run("supervisor", partial(supervisor.main, assemble=partial(through, port)))
