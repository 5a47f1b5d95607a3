"""The dashboards as JSON for Grafana."""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.model import model
from dashboards.platform import platform
from dashboards.reading_room import reading_room

FOLDER = Path(__file__).parent.parent / "manifests/base/monitoring/dashboards"


def rendered() -> dict[str, str]:
    """The JSON of each dashboard by its name."""
    boards = {"reading-room": reading_room(), "model": model(), "platform": platform()}
    encode = JSONEncoder(sort_keys=True, indent=1).encode
    return {name: json.dumps(json.loads(encode(board.build())), indent=1) + "\n" for name, board in boards.items()}


def queries(text: str) -> list[str]:
    """All PromQL expressions of a dashboard's JSON."""
    return [target["expr"] for panel in json.loads(text)["panels"] for target in panel.get("targets", [])]
