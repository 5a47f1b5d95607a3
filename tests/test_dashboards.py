"""The dashboards in the repository are those of the code, and their panels are complete."""

import json
from typing import Any

import pytest

from dashboards.rendering import FOLDER, queries, rendered

NAMES = ("reading-room", "model", "platform")


@pytest.fixture(scope="module")
def boards() -> dict[str, str]:
    return rendered()


def test_the_checked_in_json_is_what_the_code_renders(boards: dict[str, str]) -> None:
    assert {path.stem: path.read_text() for path in FOLDER.glob("*.json")} == boards, "run `make dashboards`"


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_is_complete_and_overlaps_no_other(name: str, boards: dict[str, str]) -> None:
    """It has a title, a description and a data source."""
    board: dict[str, Any] = json.loads(boards[name])
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len(queries(boards[name])) >= len(panels) > 8
    occupied: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["title"], panel
        assert panel["description"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        position = panel["gridPos"]
        columns = range(position["x"], position["x"] + position["w"])
        lines = range(position["y"], position["y"] + position["h"])
        cells = {(x, y) for x in columns for y in lines}
        assert not cells & occupied, panel["title"]
        occupied |= cells
    assert max(x for x, _ in occupied) < 24


def test_the_platform_shows_the_rate_of_all_requests(boards: dict[str, str]) -> None:
    assert "rate(http_requests_total[5m])" in queries(boards["platform"])
