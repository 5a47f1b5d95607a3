"""The README is under test: its tables are what the code says, its commands exist, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from cli.main import app
from lungline.settings import setting_descriptions, variable

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def commands() -> dict[str, str]:
    found = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]  # a group has them
    return {name: command.get_short_help_str(200) for name, command in found.items()}


def settings_table() -> str:
    rows = (
        f"| `{variable(name)}` | {'' if default is None else f'`{default}`'} | {text} |"
        for name, default, text in setting_descriptions()
    )
    return "\n".join(("| variable | default | meaning |", "|---|---|---|", *rows))


def commands_table() -> str:
    rows = (f"| `lungline {name}` | {text} |" for name, text in commands().items())
    return "\n".join(("| command | what it does |", "|---|---|", *rows))


def between(mark: str) -> str:
    return README.partition(f"<!-- {mark} -->")[2].partition(f"<!-- /{mark} -->")[0].strip()


def test_every_setting_is_in_the_readme() -> None:
    assert between("settings") == settings_table()


def test_every_command_is_in_the_readme() -> None:
    assert between("commands") == commands_table()


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_every_link_leads_somewhere(target: str) -> None:
    assert target.startswith("https://") or (ROOT / target).exists()


@pytest.mark.parametrize("line", re.findall(r"^\.venv/bin/lungline .*$", README, re.MULTILINE))
def test_every_command_line_is_one_that_the_program_takes(line: str) -> None:
    name, *arguments = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(app).commands[name]  # pyright: ignore[reportAttributeAccessIssue]  # as above
    options = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
    assert {word for word in arguments if word.startswith("-")} <= options


def test_every_make_target_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^(\w+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake (\w+)", README)) - {"it"} <= targets
