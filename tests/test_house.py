"""The rules of the house: who may import whom, and what may lie in the repository."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support import import_graph, order

ROOT = Path(__file__).parent.parent
HEAVY = {"tensorflow", "keras", "kserve", "mlflow", "kfp", "pandas", "sklearn", "matplotlib", "great_expectations"}


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run when the module is imported: not those inside functions, nor under TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from at_import(node)


def sources(package: str) -> list[Path]:
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths
    return paths


def test_every_room_has_its_place_in_the_house() -> None:
    folders = {path.parts[0] for path in (path.relative_to(ROOT) for path in tracked()) if path.suffix == ".py"}
    assert folders <= {room.split(".")[0] for room in import_graph.ROOMS}
    assert import_graph.unnamed() == []
    rooms = {import_graph.room_of(module) for module in import_graph.files()}
    assert set(import_graph.ROOMS) - rooms == set(), "rooms that are no more"


def test_the_tests_that_begin_first_are_there() -> None:
    assert [name for name in order.LONGEST if not (ROOT / f"tests/{name}.py").exists()] == []
    assert len(set(order.LONGEST)) == len(order.LONGEST)


def test_imports_run_downward_only() -> None:
    assert import_graph.upward(import_graph.between_rooms(import_graph.arrows())) == []


def test_no_rooms_import_each_other_in_a_circle() -> None:
    assert import_graph.circles(import_graph.graph_of(import_graph.between_rooms(import_graph.arrows()))) == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert import_graph.circles(import_graph.graph_of(import_graph.arrows())) == []


def test_only_tests_import_the_command_line() -> None:
    importers = {import_graph.room_of(module) for module, target in import_graph.arrows() if target.startswith("cli")}
    assert importers == {"cli", "tests"}


def test_only_the_registry_stands_behind_the_old_loader() -> None:
    """Models registered by earlier versions name `lungline.lineage.flavour`; nothing of ours imports it."""
    arrows = [arrow for arrow in import_graph.arrows() if "lungline.lineage.flavour" in arrow]
    assert arrows == [("lungline.lineage.flavour", "lungline.registry.mlflow_flavor")]


def test_commits_are_checked_as_make_check_does() -> None:
    recipe = re.search(r"^check:.*\n((?:\t@.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert recipe
    commands = [line.removeprefix("\t@").replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local", "hooks from elsewhere would be fetched"
    assert [hook["entry"] for hook in repository["hooks"]] == commands


def test_ci_runs_on_every_python_that_is_supported() -> None:
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())["jobs"].values()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [text.rpartition(" ")[2] for text in project["classifiers"] if "Python :: 3." in text]
    assert job["strategy"]["matrix"]["python"] == names
    assert ".ci/run" in [step.get("run") for step in job["steps"]]


def test_a_circle_and_an_upward_arrow_are_seen() -> None:
    assert import_graph.circles({"a": ["b"], "b": ["c"], "c": ["b", "d"], "d": []}) == [["b", "c"]]
    assert import_graph.circles({"a": ["b"], "b": ["a"], "c": ["a"]}) == [["a", "b"]]
    assert import_graph.upward([("lungline.errors", "lungline.settings")]) == [("lungline.errors", "lungline.settings")]
    assert import_graph.upward([("worklist.web", "serving")]) == [("worklist.web", "serving")]
    assert import_graph.upward([("laptop.stack", "lungline.errors")]) == []


def test_the_import_graph_can_be_printed() -> None:
    command = [sys.executable, "-m", "tests.support.import_graph"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.endswith("Upward arrows: 0\nCircles between rooms: 0\nCircles between files: 0\n")


def test_commands_import_other_packages_when_they_run() -> None:
    ours = {room.split(".")[0] for room in import_graph.ROOMS} - {"lungline", "cli"}
    for path in sources("cli"):
        assert not (ours | HEAVY) & set(imported(at_import(ast.parse(path.read_text())))), path


def test_importing_the_core_imports_no_heavy_library() -> None:
    for path in sources("lungline"):
        assert not HEAVY & set(imported(at_import(ast.parse(path.read_text())))), f"{path} imports a heavy library"


def test_help_imports_no_heavy_library() -> None:
    script = (
        "import sys, time\n"
        "from cli.main import main\n"
        "sys.argv = ['lungline', '--help']\n"
        "try: main()\n"
        "except SystemExit as exit: assert not exit.code\n"
        f"heavy = {sorted(HEAVY | {'boto3', 'confluent_kafka'})!r}\n"
        "print('imported:', [name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert "Usage: lungline" in done.stdout
    assert done.stdout.rstrip().endswith("imported: []")


def test_starting_a_stack_imports_no_arrays() -> None:
    """Numpy and Pillow are a third of what `lungline up` and the supervisor would import."""
    script = (
        "import sys, laptop.stack, laptop.supervision.supervisor\n"
        "print('imported:', [name for name in ('numpy', 'PIL', 'boto3') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "imported: []\n"


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout: the files of the repository cannot be listed")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_blob_over_200_kb_is_tracked() -> None:
    assert [path for path in tracked() if path.stat().st_size > 200_000] == []


def test_no_secret_and_no_registry_address_is_tracked() -> None:
    secret = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY-----|^--(extra-)?index-url", re.MULTILINE)
    assert [path for path in tracked() if secret.search(path.read_text(errors="ignore"))] == []


def test_the_wheel_installs_and_every_package_imports(tmp_path: Path) -> None:
    """In a clean environment: an editable install would also see what the wheel has forgotten."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    manifests = {f"lungline/deployment/{name}.yaml" for name in ("inference_service", "triggers")}
    assert {"lungline/py.typed", *manifests} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "notebooks/"))]
    clean = tmp_path / "clean"
    # The locked dependencies are already on this machine: a path file lends them, the wheel itself is installed clean.
    venv.create(clean, with_pip=False)
    python = clean / "bin/python"
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "pip", "install", "-q", "--no-deps", "--python", python, wheel], check=True, timeout=120)
    (site,) = clean.glob("lib/python*/site-packages")
    dependencies = Path(pytest.__file__).parent.parent
    modules = [
        name[:-3].replace("/", ".") for name in names if name.endswith(".py") and not name.endswith("__main__.py")
    ]
    script = (
        f"import sys; sys.path.append({str(dependencies)!r})\n"
        "import importlib, pathlib, lungline\n"
        f"assert pathlib.Path(lungline.__file__).is_relative_to({str(site)!r}), lungline.__file__\n"
        f"for name in {modules!r}: importlib.import_module(name.removesuffix('.__init__'))\n"
        "print('imported')"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = [python, "-c", script]
    done = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == "imported", done.stderr


def test_attacks_name_tests_that_exist() -> None:
    """A test that was renamed would leave its line in the table out."""
    from tests.support.attacks import ATTACKS, TESTS

    for _, _, file, name in ATTACKS:
        text = (TESTS / file).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in text or f"class {name}" in text, f"{file}::{name}"
