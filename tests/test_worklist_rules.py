"""Notice rules that cannot work are refused with their line and the nearest right word; addresses are not shown."""

from pathlib import Path

import pytest

from lungline.errors import SettingsError
from worklist.rules import load_rules

# Apprise's plug-in for mail looks for a module that Python 3.13 dropped; it has its own where there is none.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

TO = 'to = [["file"]]\n'
NAME = '[[rule]]\nname = "a"\n'
SECRET = "mailto://user:password@example.org"
REFUSED = {
    # tables
    "[[rules]]\n" + TO: (1, "did you mean [[rule]]?"),
    "\n[[Rule]]\n" + TO: (2, "did you mean [[rule]]?"),
    "[[notice]]\n" + TO: (1, "did you mean [[rule]]?"),
    '[rule]\nname = "a"\n' + TO: (1, "write [[rule]], with two brackets"),
    "rule = 5\n": (1, "write [[rule]] above its fields"),
    'name = "a"\n' + TO: (1, "fields belong below [[rule]]"),
    NAME + TO + "\n[other]\n": (5, "unknown name 'other'"),
    "": (1, "at least one [[rule]]"),
    "# nothing\n": (1, "at least one [[rule]]"),
    "\ufeff" + NAME + TO: (1, "byte order mark"),
    (NAME + TO) * 2: (5, "has the name 'a' already"),
    # fields
    NAME + 'lable = ["Pneumonia"]\n' + TO: (3, 'did you mean "label"?'),
    NAME + "threshold = 0.8\n" + TO: (3, 'did you mean "risk"?'),
    NAME + "Risk = 0.8\n" + TO: (3, 'did you mean "risk"?'),
    NAME + f'targets = [["{SECRET}"]]\n': (3, 'did you mean "to"?'),
    NAME: (1, "the rule has no to"),
    "[[rule]]\n" + TO: (1, "the rule has no name"),
    'rule = [{name = "a", lable = ["x"], to = [["file"]]}]\n': (1, 'did you mean "label"?'),
    # label
    NAME + 'label = ["pneumonia"]\n' + TO: (3, 'did you mean "Pneumonia"?'),
    NAME + 'label = ["Normal", "Pnuemonia"]\n' + TO: (3, 'did you mean "Pneumonia"?'),
    NAME + 'label = ["unsure "]\n' + TO: (3, 'did you mean "Unsure"?'),
    NAME + 'label = "Pneumonia"\n' + TO: (3, 'expected a list, such as ["Pneumonia"]'),
    NAME + "label = [1]\n" + TO: (3, "expected Normal, Pneumonia, Unsure, Refused"),
    # risk
    NAME + "risk = 80\n" + TO: (3, "write 0.8 for 80 percent"),
    NAME + 'risk = "80%"\n' + TO: (3, "a number from 0 to 1"),
    NAME + "risk = true\n" + TO: (3, "a number from 0 to 1"),
    NAME + "risk = nan\n" + TO: (3, "a number from 0 to 1"),
    NAME + "risk = -0.1\n" + TO: (3, "a number from 0 to 1"),
    NAME + 'label = ["Refused"]\nrisk = 0.5\n' + TO: (4, "a refused image has no risk"),
    # hours
    NAME + 'hours = "25:00-07:00"\n' + TO: (3, '"HH:MM-HH:MM"'),
    NAME + 'hours = "18:00-24:00"\n' + TO: (3, '"HH:MM-HH:MM"'),
    NAME + 'hours = "18-7"\n' + TO: (3, '"HH:MM-HH:MM"'),
    NAME + 'hours = "18:00–07:00"\n' + TO: (3, '"HH:MM-HH:MM"'),
    NAME + "hours = 18:00:00\n" + TO: (3, '"HH:MM-HH:MM"'),
    NAME + 'hours = "18:00-18:00"\n' + TO: (3, "leave hours out for all day"),
    # prefix
    NAME + 'prefix = "/emergency"\n' + TO: (3, "a slash"),
    NAME + 'prefix = "s3://xray-uploads/emergency/"\n' + TO: (3, "neither the bucket"),
    NAME + 'prefix = "emergency/*"\n' + TO: (3, "without wildcards"),
    NAME + "prefix = 'emergency\\'\n" + TO: (3, "forward slashes"),
    # to
    NAME + f'to = ["{SECRET}"]\n': (3, "a list of groups"),
    NAME + "to = []\n": (3, "a list of groups"),
    NAME + "to = [[]]\n": (3, "a list of groups"),
    NAME + 'to = [["file", 5]]\n': (3, "a list of groups"),
    NAME + 'to = [["maito://user:password@example.org"]]\n': (3, 'did you mean "mailto"?'),
    NAME + 'to = [["mailto://"]]\n': (3, "an address of mailto:// is incomplete"),
    NAME + 'to = [["password"]]\n': (3, "neither an Apprise address"),
    NAME + 'to = [["File"]]\n': (3, 'did you mean "file"?'),
    # escalation, name
    NAME + 'escalate_minutes = 0\nto = [["file"], ["file"]]\n': (3, "above 0"),
    NAME + 'escalate_minutes = "15"\nto = [["file"], ["file"]]\n': (3, "above 0"),
    NAME + "escalate_minutes = 5\n" + TO: (3, "a second group"),
    '[[rule]]\nname = "a/b"\n' + TO: (2, "up to 64 letters"),
    NAME + TO + '\n# and\n[[rule]]\nname = "b"\nrisk = 3\n' + TO: (8, "a number from 0 to 1"),
}


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "rules.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("text", REFUSED)
def test_wrong_rule_is_refused_with_line_and_hint(tmp_path: Path, text: str) -> None:
    line, hint = REFUSED[text]
    with pytest.raises(SettingsError) as caught:
        load_rules(written(tmp_path, text))
    assert f"wrong in line {line}:" in str(caught.value)
    assert hint in str(caught.value)
    assert "password" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"not toml", "line 1"),
        (NAME.encode() + b'name = "again"\n', "line 3"),
        (NAME.encode("utf-16"), "byte order mark"),
        (NAME.encode() + "# für".encode("latin-1"), "line 3: the text is not UTF-8"),
    ],
)
def test_file_that_is_not_toml_is_refused_with_its_line(tmp_path: Path, data: bytes, hint: str) -> None:
    with pytest.raises(SettingsError, match=hint):
        load_rules(written(tmp_path, data))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load_rules(tmp_path / "none.toml")


def test_all_fields_of_a_right_file_are_read(tmp_path: Path) -> None:
    text = """
        [[rule]]
        name = "urgent at night"
        label = ["Pneumonia", "Unsure"]
        risk = 0.8
        prefix = "emergency/"
        hours = "18:00-07:00"
        to = [
            ["mailto://user:password@example.org", "file"],
            ["json://example.org/hook"],
        ]
        escalate_minutes = 15

        [[rule]]
        name = "all"
        to = [["file"]]
    """
    first, second = load_rules(written(tmp_path, text))
    assert (first.label, first.risk, first.prefix) == (("Pneumonia", "Unsure"), 0.8, "emergency/")
    assert first.hours
    assert (first.hours[0].hour, first.hours[1].hour) == (18, 7)
    assert [len(group) for group in first.to] == [2, 1]
    assert (second.label, second.to) == ((), (("file",),))
