"""The folder of further tasks, as a config map fills it while a predictor runs."""

import logging
from pathlib import Path

import pytest

from lungline.task.folder import TaskFolder
from lungline.task.writing import begin


def names(folder: TaskFolder) -> list[str]:
    return [task.name for task in folder.tasks()]


def test_files_that_come_go_and_change_are_followed(tmp_path: Path) -> None:
    folder = TaskFolder(tmp_path / "tasks")
    assert names(folder) == []
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "about").write_text("not a task")
    file = tmp_path / "tasks" / "rib-fracture.toml"
    file.write_text(begin("rib-fracture", "binary"))
    (tmp_path / "tasks" / "effusion.toml").write_text(begin("effusion", "binary"))
    assert names(folder) == ["effusion", "rib-fracture"]
    draft = tmp_path / "draft"
    draft.write_text(begin("rib-fracture", "binary").replace("prefixes = []", 'prefixes = ["trauma/"]'))
    draft.replace(file)
    assert [task.prefixes for task in folder.tasks()] == [(), ("trauma/",)]
    file.unlink()
    assert names(folder) == ["effusion"]


def test_a_wrong_file_is_told_and_the_last_good_one_holds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, file = TaskFolder(tmp_path), tmp_path / "effusion.toml"
    file.write_text(begin("effusion", "binary"))
    assert names(folder) == ["effusion"]
    file.write_text("kind = 7")
    (tmp_path / "new.toml").write_text("")
    with caplog.at_level(logging.ERROR):
        assert names(folder) == ["effusion"]
        assert names(folder) == ["effusion"]
    assert len(caplog.messages) == 2
    assert all("is wrong in line" in message for message in caplog.messages)
