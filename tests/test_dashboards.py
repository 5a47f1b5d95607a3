"""The dashboards in the repository are those of the code, and Grafana can lay them out."""

import json
from typing import Any

import pytest

from dashboards.rendering import FOLDER, queries, rendered

NAMES = ("reading-room", "model", "platform")


@pytest.fixture(scope="module")
def boards() -> dict[str, str]:
    return rendered()


def test_the_json_that_is_checked_in_is_what_the_code_renders(boards: dict[str, str]) -> None:
    assert {path.stem: path.read_text() for path in FOLDER.glob("*.json")} == boards, "run `make dashboards`"


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_has_a_title_an_explanation_a_unit_and_a_place_of_its_own(
    name: str, boards: dict[str, str]
) -> None:
    board: dict[str, Any] = json.loads(boards[name])
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len(queries(boards[name])) >= len(panels) > 8
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["title"], panel
        assert panel["description"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        place = panel["gridPos"]
        columns, lines = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        cells = {(x, y) for x in columns for y in lines}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert max(x for x, _ in taken) < 24


def test_the_platform_shows_the_rate_of_all_requests(boards: dict[str, str]) -> None:
    assert "rate(http_requests_total[5m])" in queries(boards["platform"])
