"""Task files: what a task is, those that come with the package, and what is wrong in a bad one."""

import json
from importlib import resources
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from lungline.errors import TaskError
from lungline.settings_blocks import GateSettings
from lungline.task.reading import default_task, load_task, packaged, parse_task
from lungline.task.task import Kind, Task
from lungline.task.writing import begin, new_task, render

KINDS: tuple[Kind, ...] = ("binary", "one-of-several", "many-at-once")
GOOD = begin("rib-fracture", "one-of-several")


@pytest.mark.parametrize("name", packaged())
def test_a_packaged_task_has_the_comments_of_today(name: str) -> None:
    text = resources.files("lungline.task").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    assert render(load_task(name)) == text
    assert load_task(name).name == name


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_task_is_read_as_it_was_written(kind: Kind) -> None:
    assert parse_task(begin("rib-fracture", kind), "new") == new_task("rib-fracture", kind)


def test_the_default_task_has_the_floors_of_the_settings() -> None:
    assert default_task().gate == GateSettings()
    assert default_task().names == ("NORMAL", "PNEUMONIA")


def test_a_label_stands_for_findings() -> None:
    many, several = new_task("device", "many-at-once"), new_task("device", "one-of-several")
    assert [many.present(label) for label in range(4)] == [(0,), (1,), (2,), (1, 2)]
    assert [many.label_for(many.present(label)) for label in range(4)] == [0, 1, 2, 3]
    assert [several.present(label) for label in range(3)] == [(0,), (1,), (2,)]
    assert [several.label_for(several.present(label)) for label in range(3)] == [0, 1, 2]
    assert many.called(3) == "FIRST+SECOND"
    assert [len(new_task("device", kind).outputs) for kind in KINDS] == [1, 3, 2]


# What to replace in a good file, by what; the key in the line that is named; where, what was expected, what is there.
BAD = {
    "no TOML": ('kind = "', "kind = ", "", "is not valid TOML"),
    "an unknown field": ("title =", "titel =", "titel", "titel: is no field of a task; did you mean title?"),
    "no title": ("title =", "# title =", "", "title: expected a value; found none"),
    "an empty title": ('title = "Rib fracture"', 'title = " "', "title", "title: expected a text; found ' '"),
    "capitals in the name": (
        'name = "rib-',
        'name = "Rib-',
        "name",
        "letters, digits and hyphens, such as rib-fracture",
    ),
    "another kind": ('"one-of-several"', '"several"', "kind", "or 'many-at-once'; found 'several'"),
    "a kind for two": (
        '"one-of-several"',
        '"binary"',
        "kind",
        "kind: expected two findings where kind is binary; found 3",
    ),
    "no findings": (
        "[[finding]]",
        "[[findings]]",
        "findings",
        "findings: is no field of a task; did you mean finding?",
    ),
    "no negative": (
        "negative = true",
        "negative = false",
        "finding",
        "negative = true in the first finding only; found none",
    ),
    "a label twice": (
        'label = "Second"',
        'label = "first"',
        "label",
        "finding SECOND, label: expected another than FIRST",
    ),
    "a label of ours": ('label = "Second"', 'label = "Unsure"', "label", "label that the system does not use itself"),
    "a key twice": ('key = "3"', 'key = "2"', "key", "finding SECOND, key: expected another than FIRST has; found '2'"),
    "a key of two digits": (
        'key = "3"',
        'key = "13"',
        "key",
        "expected a digit from 1 to 9, such as \"2\"; found '13'",
    ),
    "another shape": ('"square"', '"heart"', "shape", "'star' or 'plus'; found 'heart'"),
    "a colour's name": ('"#1d4f91"', '"blue"', "colour", "expected # and six digits 0 to f"),
    "one colour": ('["#1d4f91", "#8ab8ff"]', '["#1d4f91"]', "colour", "colour.1: expected a value; found none"),
    "a floor of percents": ("auc = 0.95", "auc = 95", "auc", "gate.auc: expected less than or equal to 1; found 95"),
    "an unknown floor": ("auc = 0.95", "acu = 0.95", "acu", "gate.acu: is no field of a task; did you mean auc?"),
    "a prevalence of 0": ("# prevalence = 0.05", "prevalence = 0", "prevalence", "expected greater than 0; found 0"),
    "folders as text": ('folders = ["second"]', 'folders = "second"', "folders", 'expected a list, such as ["second"]'),
    "a folder twice": (
        'folders = ["second"]',
        'folders = ["First"]',
        "folders",
        "`files` in both findings of a folder",
    ),
    "a column twice": (
        'columns = ["Second"]',
        'columns = ["first"]',
        "columns",
        "expected one finding for each; found 'first'",
    ),
    "a code without scheme": (
        'columns = ["Second"]',
        'columns = ["Second"]\ncode = { value = "1", meaning = "x" }',
        "code",
        "code.scheme: expected a value; found none",
    ),
    "a floor that is no number": ("auc = 0.95", "auc = nan", "auc", "gate.auc: expected"),
    "a prevalence without bounds": ("# prevalence = 0.05", "prevalence = inf", "prevalence", "found inf"),
    "a colour that is hard to read": (
        'colour = ["#1d4f91", "#8ab8ff"]',
        'colour = ["#ffef9f", "#8ab8ff"]',
        "colour",
        "finding SECOND, colour: expected a contrast of 4.5 or more with the light page; found '#ffef9f' with 1.",
    ),
    "a way out in the name": (
        'name = "rib-fracture"',
        'name = "../rib"',
        "name",
        "such as rib-fracture; found '../rib'",
    ),
    "a title of two lines": ('title = "Rib fracture"', 'title = "Rib\\nfracture"', "title", "expected one line"),
    "a title without end": ('title = "Rib fracture"', f'title = "{"Rib" * 999}"', "title", "of up to 400 characters"),
    "a field twice": ('kind = "', 'kind = "binary"\nkind = "', "", "Cannot overwrite a value"),
    "a finding as text": ("[[finding]]", 'finding = "FIRST"\n[[others]]', "", "is"),
    "a number without end": (
        "# number = 0",
        f"number = {'9' * 5000}",
        "",
        "expected numbers and lists of a usual size",
    ),
    "lists within lists": (
        "prefixes = []",
        f"prefixes = {'[' * 5000}",
        "",
        "expected numbers and lists of a usual size",
    ),
    "an empty folder": ('folders = ["second"]', 'folders = [""]', "folders", "folders.0: expected a text; found ''"),
    "a second negative": (
        'name = "SECOND"\nlabel = "Second"\nnegative = false',
        'name = "SECOND"\nlabel = "Second"\nnegative = true',
        "finding",
        "in the first finding only; found NORMAL, SECOND",
    ),
    "lower-case name": (
        'name = "SECOND"',
        'name = "second"',
        "name",
        "capital letters, digits and _, such as EFFUSION",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_file_is_explained_in_a_sentence(bad: str) -> None:
    before, after, key, sentence = BAD[bad]
    assert GOOD.count(before) >= 1
    text = GOOD.replace(before, after) if bad == "no findings" else GOOD.replace(before, after, 1)
    with pytest.raises(TaskError) as refusal:
        parse_task(text, "my.toml")
    message = str(refusal.value)
    assert message.startswith("The task my.toml is ")
    assert sentence in message
    assert message.endswith((".", "?"))
    assert "\n" not in message
    if key:
        line = int(message.partition("in line ")[2].partition(":")[0])
        assert key in text.splitlines()[line - 1]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'name = "x"\ntitle = "R\xf6ntgen"\n')
    with pytest.raises(TaskError, match=r"latin\.toml is wrong in line 2: expected UTF-8"):
        load_task(str(tmp_path / "latin.toml"))
    with pytest.raises(TaskError, match=r"gone\.toml cannot be read: No such file"):
        load_task(str(tmp_path / "gone.toml"))
    with pytest.raises(TaskError, match=r"There is no task 'pneumona'; did you mean pneumonia\?"):
        load_task("pneumona")
    (tmp_path / "huge.toml").write_bytes(b"#" * 1_000_001)
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "wide.toml").write_bytes(GOOD.encode("utf-16"))
    for name, reason in (
        ("huge.toml", "more than 1,000,000 bytes"),
        ("loop.toml", r"loop\.toml cannot be read: Too many levels of symbolic links"),
        ("folder.toml", r"folder\.toml cannot be read: Is a directory"),
        ("wide.toml", r"wide\.toml is wrong in line 1: expected UTF-8"),
        ("a" * 300 + ".toml", "cannot be read: File name too long"),
        ("zero\0.toml", "cannot be read: it is no name of a file"),
    ):
        with pytest.raises(TaskError, match=reason):
            load_task(str(tmp_path / name))
    for spec in ("a" * 300, "~nobody-of-this-name/task.toml"):
        with pytest.raises(TaskError, match=r"There is no task '[a~][^']{1,70}\W*[;:]"):
            load_task(spec)


def test_a_file_from_another_system_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "windows.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_task(str(tmp_path / "windows.toml")) == parse_task(GOOD, "good")


def test_more_findings_than_keys_are_refused() -> None:
    """A reader presses a digit for each, so ten are too many; a thousand are refused by their number."""
    labels = [f"Finding {number}" for number in range(10)]
    assert len(new_task("many", "many-at-once", labels[:9]).findings) == 9
    with pytest.raises(TaskError, match="the label 'Finding 9': expected a digit from 1 to 9"):
        begin("many", "many-at-once", labels)
    head, table = GOOD.split("[[finding]]", 1)
    with pytest.raises(TaskError, match=r"finding: .*at most 30 items"):
        parse_task(head + f"[[finding]]{table}" * 334, "thousand.toml")


def test_a_new_task_has_the_findings_that_it_is_given() -> None:
    text = begin("chest", "many-at-once", ("Clear", "Pleural effusion", "Device"))
    task = parse_task(text, "new")
    assert (task.names, task.labels) == (
        ("CLEAR", "PLEURAL_EFFUSION", "DEVICE"),
        ("Clear", "Pleural effusion", "Device"),
    )
    assert task.positives[0].folders == ("pleural effusion",)
    for labels, reason in (
        (("Clear", "Unsure"), "label that the system does not use itself"),
        (("Clear", "1st"), "the label '1st': expected capital letters"),
        (("Clear", "A", "B"), "expected two findings where kind is binary; found 3"),
    ):
        with pytest.raises(TaskError, match=reason):
            begin("chest", "binary", labels)


def test_the_commands_begin_and_check_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rib-fracture.toml"
    begun = CliRunner().invoke(app, ["task", "new", "rib-fracture", "--kind", "many-at-once", "-o", str(file)])
    assert begun.exit_code == 0, begun.output
    checked = CliRunner().invoke(app, ["task", "check", str(file)])
    assert "rib-fracture is a task: Rib fracture (many-at-once: Normal, First, Second)." in checked.output
    shown = CliRunner().invoke(app, ["task", "check", str(file), "--json"])
    assert Task.model_validate(json.loads(shown.output)) == load_task(str(file))
    again = CliRunner().invoke(app, ["task", "new", "rib-fracture", "-o", str(file)])
    assert isinstance(again.exception, TaskError)
    assert "is there already" in str(again.exception)
    for name, reason in (("Rib Fracture", "lower-case letters"), ("pneumonia", "comes with Lungline")):
        refused = CliRunner().invoke(app, ["task", "new", name, "-o", str(tmp_path / "other.toml")])
        assert isinstance(refused.exception, TaskError)
        assert reason in str(refused.exception)
