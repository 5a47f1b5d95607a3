"""Write what is generated into the files that hold it: `python -m tests.support.write_generated`, or `make docs`.

The tables of commands (README) and settings (docs/settings.md) come from the code, the version in image tags from
pyproject.toml. A test compares the files with what is generated here.
"""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import typer.main

from cli.main import app
from lungline.settings import setting_descriptions, variable

ROOT = Path(__file__).parents[2]
COMMANDS, SETTINGS = Path("README.md"), Path("docs/settings.md")
# Image tags and the tag that Argo CD follows.
WITH_VERSION = tuple(
    map(
        Path,
        (
            "Dockerfile",
            "docs/cluster.md",
            "manifests/base/kustomization.yaml",
            "manifests/components/seaweedfs/kustomization.yaml",
            "manifests/overlays/minikube/kustomization.yaml",
            "manifests/argocd/production.yaml",
        ),
    )
)
VERSION = re.compile(r"(lungline/[a-z-]+:|lungline/[a-z-]+\n +newTag: |ARG VERSION=|targetRevision: v)\d+\.\d+\.\d+\S*")
# Titles of docs/settings.md, and what the names of their settings match; a setting stands under the first that fits.
TOPICS = {
    "Home and data": r"home|retention_rules|data|task|further_tasks|feedback|offline|hang_seconds",
    "Object store": r"s3_.*|.*_bucket|research_secret",
    "Kafka and events": r"kafka_.*|.*_topic|event_key",
    "Registry and deployment": (
        r"mlflow_.*|site_key|site_public_key|package_sha256|predictor_uri|experiment|model_name|deployment|kube_context|prometheus_uri|policy|purpose"
    ),
    "Kubeflow Pipelines": r"kfp_.*|training_pod\..*",
    "Logs, traces, metrics": r"log_format|otlp_endpoint|prometheus",
    "Images": r"image_.*",
    "Network": r"model\..*",
    "Training": r"train\..*",
    "Gate": r"gate\..*",
    "DICOM gateway": r"gateway\..*",
    "Worklist": r"worklist\..*",
    "Monitoring": r"monitor\..*",
    "Retraining": r"retrain\..*",
}


def version() -> str:
    """The version of the project, which stands in pyproject.toml alone."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def commands_table() -> str:
    """Every command with its first sentence."""
    commands = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]  # a group has them
    rows = (f"| `lungline {name}` | {command.get_short_help_str(200)} |" for name, command in commands.items())
    return "\n".join(("| command | what it does |", "|---|---|", *rows))


def settings_tables() -> str:
    """Every setting with its default and meaning, by topic."""
    rows: dict[str, list[str]] = {topic: [] for topic in TOPICS}
    for name, default, text in setting_descriptions():
        topic = next(topic for topic, pattern in TOPICS.items() if re.fullmatch(pattern, name))
        shown = "" if default is None else f"`{default}`"
        rows[topic].append(f"| `{variable(name)}` | {shown} | {text} |")
    tables = (
        "\n".join((f"## {topic}\n", "| variable | default | meaning |", "|---|---|---|", *rows[topic]))
        for topic in rows
    )
    return "\n\n".join(tables)


def generated() -> dict[Path, str]:
    """What each file with generated parts holds when it is up to date, by its path in the repository."""
    texts = {path: VERSION.sub(rf"\g<1>{version()}", (ROOT / path).read_text()) for path in WITH_VERSION}
    marked: tuple[tuple[Path, str, Callable[[], str]], ...] = (
        (COMMANDS, "commands", commands_table),
        (SETTINGS, "settings", settings_tables),
    )
    for path, mark, table in marked:
        before, start, rest = (ROOT / path).read_text().partition(f"<!-- {mark} -->\n")
        _, end, after = rest.partition(f"<!-- /{mark} -->")
        texts[path] = f"{before}{start}{table()}\n{end}{after}"
    return texts


def main() -> None:
    """Write the files again."""
    for path, text in generated().items():
        (ROOT / path).write_text(text)


if __name__ == "__main__":
    main()
