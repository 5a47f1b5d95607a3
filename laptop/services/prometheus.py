"""A Prometheus beside the stack, where the program is installed; it scrapes every service and evaluates the alerts."""

import json
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path

from laptop.home.ports import Ports, targets
from laptop.services.mlflow import answers_with
from laptop.services.service import Command, base_environment
from lungline.errors import StackError
from lungline.home import Home
from lungline.network import HOST
from lungline.service_state import State
from lungline.settings import Settings

SCRAPE_SECONDS = 5
KEPT = "15d"


@dataclass(frozen=True)
class Prometheus:
    """Prometheus as a service of the stack; `scraped` are the names of those it scrapes."""

    home: Home
    settings: Settings
    ports: Ports
    scraped: tuple[str, ...]

    name = "prometheus"
    after = ()
    stop_timeout = 5.0
    notice_seconds = 0.0

    @property
    def address(self) -> str:
        """Its page and its API."""
        return f"http://{HOST}:{self.ports.prometheus}"

    @property
    def listens(self) -> tuple[int, ...]:
        """None: its port cannot be handed on, because it opens its socket itself."""
        return ()

    def command(self) -> Command:
        """Write its configuration and say how to start it."""
        folder = self.home.file("prometheus")
        folder.mkdir(mode=0o700, exist_ok=True)
        config = folder / "prometheus.yml"
        (folder / "rules.yml").write_text(rules(), encoding="utf-8")
        # JSON is YAML.
        config.write_text(json.dumps(self._configuration(folder / "rules.yml"), indent=2), encoding="utf-8")
        argv = (
            find_prometheus(),
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--storage.tsdb.retention.time={KEPT}",
            f"--web.listen-address={HOST}:{self.ports.prometheus}",
            "--log.level=warn",
        )
        return Command(argv, base_environment(), folder)

    def probe(self, pid: int) -> State:  # noqa: ARG002 - its response tells the state
        """Ready once it answers queries."""
        return "ready" if answers_with(self.ports.prometheus, "/-/ready") == 200 else "starting"

    def maintain(self) -> None:
        """Nothing to do."""

    def _configuration(self, rule_file: Path) -> dict[str, object]:
        jobs = [
            {"job_name": service, "static_configs": [{"targets": [at]}]}
            for service, at in targets(self.ports).items()
            if service in self.scraped
        ]
        every = f"{SCRAPE_SECONDS}s"
        return {
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "rule_files": [str(rule_file)],
            "scrape_configs": jobs,
        }


def find_prometheus() -> str:
    """The program. Raises StackError, which says how to get it."""
    program = shutil.which("prometheus")
    if program is None:
        raise StackError(
            "Prometheus is not installed: `apt-get install prometheus` (Debian, Ubuntu) or `brew install prometheus` "
            "(macOS) installs it; for other systems see https://prometheus.io/download."
        )
    return program


def rules() -> str:
    """The alerts of the cluster's manifests, as a rule file of Prometheus."""
    here = Path(__file__)
    packed = here.with_name("rules.yaml")  # in the wheel
    path = packed if packed.exists() else here.parents[2] / "manifests/base/monitoring/rules.yaml"
    _, _, specification = path.read_text(encoding="utf-8").partition("\nspec:\n")
    return textwrap.dedent(specification)
