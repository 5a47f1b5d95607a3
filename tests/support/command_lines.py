"""Command lines, read by the real command line without running anything."""

import shlex
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from cli.main import app

ENDS = {"&", "&&", "|", "||", ";"}


def parse(arguments: Sequence[str]) -> str:
    """Read the arguments after `lungline` and return the command's name; raises typer's UsageError."""
    context: Any = typer.main.get_command(app).make_context("lungline", list(arguments))
    while isinstance(context.command, TyperGroup):
        left = [*context._protected_args, *context.args]  # noqa: SLF001 - where it keeps what is not read yet
        name, command, rest = context.command.resolve_command(context, left)
        assert command is not None
        context = command.make_context(name, rest, parent=context)
    return str(context.command.name)


def options_of(names: Sequence[str]) -> set[str]:
    """The options of a command; words after its name are values. Fails for an unknown command."""
    command: Any = typer.main.get_command(app)
    for name in names:
        if not isinstance(command, TyperGroup):
            break
        subcommand = command.commands.get(name)
        assert subcommand is not None, f"lungline {' '.join(names)}"
        command = subcommand
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


def lungline_commands(text: str) -> list[list[str]]:
    """The arguments of each `lungline ...` in lines of shell, without other commands of the line."""
    commands: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for index, word in enumerate(words):
            # Not the namespace of that name: a command comes first, or after what runs it.
            if word == "lungline" and (index == 0 or words[index - 1] in ENDS | {"--"}):
                rest = words[index + 1 :]
                commands.append(rest[: next((end for end, word in enumerate(rest) if word in ENDS), len(rest))])
    return commands
