"""Command lines of ours, read by the real command line without running anything."""

import shlex
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from cli.main import app

ENDS = {"&", "&&", "|", "||", ";"}


def parse(arguments: Sequence[str]) -> str:
    """Read the arguments after `lungline`, give the command's name; raises typer's UsageError for what is unknown."""
    context: Any = typer.main.get_command(app).make_context("lungline", list(arguments))
    while isinstance(context.command, TyperGroup):
        left = [*context._protected_args, *context.args]  # noqa: SLF001 - where it keeps what is not read yet
        name, command, rest = context.command.resolve_command(context, left)
        assert command is not None
        context = command.make_context(name, rest, parent=context)
    return str(context.command.name)


def options_of(names: Sequence[str]) -> set[str]:
    """The options that a command takes; what follows its name among `names` are values. Fails when it is unknown."""
    command: Any = typer.main.get_command(app)
    for name in names:
        if not isinstance(command, TyperGroup):
            break
        found = command.commands.get(name)
        assert found is not None, f"lungline {' '.join(names)}"
        command = found
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


def of_ours(text: str) -> list[list[str]]:
    """The arguments of each `lungline ...` in lines of shell, without what stands before and after it."""
    found: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for at, word in enumerate(words):
            # Not the namespace of that name: a command stands first, or after what hands over to it.
            if word == "lungline" and (at == 0 or words[at - 1] in ENDS | {"--"}):
                rest = words[at + 1 :]
                found.append(rest[: next((end for end, one in enumerate(rest) if one in ENDS), len(rest))])
    return found
