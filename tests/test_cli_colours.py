"""The colour of a result in the terminal follows the task of the result."""

import pytest

from cli import result_output
from lungline.task.terms import TaskTerms
from tests.support.task_records import MANY, several
from tests.support.worklist_site import record


@pytest.mark.parametrize(
    ("chances", "label", "style"),
    [({"EFFUSION": 0.9}, "Effusion", "bold red"), ({"OPACITY": 0.9}, "Opacity", "yellow"), ({}, "Clear", "green")],
)
def test_a_finding_has_the_style_of_its_urgency(chances: dict[str, float], label: str, style: str) -> None:
    shown = result_output.label_of(several(1, chances))
    assert (shown.plain, str(shown.style)) == (label, style)


def test_the_same_label_may_be_urgent_in_another_task() -> None:
    body = MANY.model_dump()
    body["findings"][2]["urgency"] = "urgent"
    urgent = TaskTerms.model_validate(body | {"name": "trauma"})
    styles = [str(result_output.label_of(several(1, {"OPACITY": 0.9}, terms)).style) for terms in (MANY, urgent)]
    assert styles == ["yellow", "bold red"]


def test_results_of_the_default_task_look_as_before() -> None:
    assert [str(result_output.label_of(record(1, risk)).style) for risk in (0.9, 0.5, 0.1)] == [
        "bold red",
        "yellow",
        "green",
    ]


def test_results_of_several_tasks_are_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    result_output.results([record(1, 0.9), several(2, {"EFFUSION": 0.9})])
    shown = capsys.readouterr().out
    assert "Pneumonia" in shown
    assert "Effusion" in shown


def test_a_result_shows_what_it_warns_of(capsys: pytest.CaptureFixture[str]) -> None:
    """Else `Unsure` beside a risk of 99.9 % is a riddle."""
    doubtful = record(1, 0.999).model_copy(update={"label": "Unsure", "warnings": ("the image is unlike the others",)})
    result_output.result(doubtful)
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[0] == "Unsure"
    assert second.strip() == "the image is unlike the others"
