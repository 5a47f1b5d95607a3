"""The laptop's supervisor, with all parts but the store itself reaching the store through another port.

`python -m tests.support.chaos_supervisor PORT`, with the settings in the environment, as the supervisor has them.
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
    """The stack as it always is, but for the store's address."""
    made = assemble(home, settings)
    elsewhere = {"s3_endpoint": f"http://127.0.0.1:{port}"}
    parts: list[Any] = [
        part if part.name == "store" else dataclasses.replace(part, settings=part.settings.model_copy(update=elsewhere))
        for part in map(_any, made.services)
    ]
    return Assembly(tuple(parts), made.external, made.settings.model_copy(update=elsewhere))


def _any(part: Any) -> Any:
    return part


if __name__ == "__main__":
    port = int(sys.argv.pop(1))
    program.run("supervisor", partial(supervisor.main, assemble=partial(through, port)))
