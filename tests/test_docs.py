"""The documents are under test: tables are generated, links and paths lead somewhere, commands and settings exist."""

import re
from pathlib import Path

import pytest
from typer import BadParameter

from lungline.settings import setting_names, variable
from tests.support import write_generated
from tests.support.command_lines import ENDS, lungline_commands, options_of, parse

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("data/*.md"), *ROOT.glob("notebooks/*.md")]
)
# The changelog's older sections tell of files and names as they were.
CURRENT = [name for name in DOCUMENTS if name != "CHANGELOG.md"]
FOLDERS = sorted(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
POINTERS = [
    (document, *match.groups())
    for document in ("README.md", "docs/architecture.md")
    for match in re.finditer(
        r"^\| [^|]+ \| \[([^]]+)\]\([^)]+\) \| `([^`]+)` \|$", (ROOT / document).read_text(), re.MULTILINE
    )
]


def text_of(document: str) -> str:
    return (ROOT / document).read_text()


def blocks(document: str) -> str:
    """The shell blocks of a document, with the program's name as it stands on a PATH."""
    fenced = re.findall(r"^```(?:sh|bash)\n(.*?)^```", text_of(document), flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^ {4}[^ ].*\n)+", text_of(document), flags=re.MULTILINE)
    return "\n".join((*fenced, *map(_dedented, indented))).replace(".venv/bin/lungline", "lungline")


def _dedented(block: str) -> str:
    lines = (line[4:] for line in block.splitlines())
    return "\n".join(line for line in lines if line.startswith((".venv/bin/lungline ", "lungline ")))


@pytest.mark.parametrize("path", write_generated.generated())
def test_generated_parts_are_up_to_date(path: Path) -> None:
    assert (ROOT / path).read_text() == write_generated.generated()[path], "`make docs` writes them again"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    anchors = {name: _anchors(ROOT / name) for name in DOCUMENTS}
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if target.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / document).parent / name if name else ROOT / document
        assert path.exists(), target
        if anchor:
            assert anchor in anchors[str(path.resolve().relative_to(ROOT))], target


def _anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", CURRENT)
def test_paths_in_the_text_exist(document: str) -> None:
    named = re.findall(rf"(?<![\w./-])((?:{'|'.join(FOLDERS)})/[\w./-]*)", text_of(document))
    here = (ROOT / document).parent
    missing = [path for path in named if not (ROOT / path).exists() and not (here / path).exists()]
    # What runs make, what others' addresses end with, and names within buckets.
    theirs = re.compile(r"manifests/kustomize/|components/(seaweedfs|pod-seccomp|destinations|commitment|viewers)")
    assert [path for path in missing if not theirs.match(path) and not (ROOT / path.rstrip("./")).exists()] == []


@pytest.mark.parametrize(("document", "file", "symbol"), POINTERS)
def test_what_a_pointer_names_is_in_its_file(document: str, file: str, symbol: str) -> None:
    source = text_of(file)
    defined = rf"^\s*(?:async )?(?:def|class) {symbol}\b|^{symbol}\b.* ?=|^ *- {symbol}: "
    assert re.search(defined, source, flags=re.MULTILINE), f"{document} looks for {symbol} in {file}"


def test_the_readme_says_where_the_five_things_are() -> None:
    assert len([pointer for pointer in POINTERS if pointer[0] == "README.md"]) >= 5


@pytest.mark.parametrize("document", CURRENT)
def test_commands_are_ones_that_the_program_takes(document: str) -> None:
    for arguments in lungline_commands(blocks(document)):
        try:
            parse(arguments)
        except BadParameter as exc:
            assert "does not exist" in exc.message, "files of the reader's own are not here"  # noqa: PT017
    # Within a sentence a command stands without what it needs: its name and its options must be there.
    for text in re.findall(r"`lungline ([^`]+)`", text_of(document)):
        words = text.split()
        words = words[: next((place for place, word in enumerate(words) if word in ENDS), len(words))]
        valid = options_of([word for word in words if re.fullmatch(r"[a-z-]+", word) and not word.startswith("-")])
        assert {word for word in words if word.startswith("--")} <= valid | {"--help", "--version"}, f"lungline {text}"


@pytest.mark.parametrize("document", CURRENT)
def test_make_targets_exist(document: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", text_of("Makefile"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^ {0,4})make ([a-z]+(?:-[a-z]+)*)", text_of(document), re.MULTILINE)) <= targets


@pytest.mark.parametrize("document", CURRENT)
def test_settings_exist(document: str) -> None:
    named = set(re.findall(r"\bLUNGLINE_[A-Z0-9_]+\b(?!\*)", text_of(document)))
    assert {name for name in named if not name.endswith("_")} <= {variable(name) for name in setting_names()} | {
        "LUNGLINE_TEST_POSTGRES",
    }


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_table_is_cut_in_two(document: str) -> None:
    assert re.findall(r"^\|.*\|\n\n\|.*\|\n(?!\|[-:| ]+\|)", text_of(document), flags=re.MULTILINE) == []
