"""The notebooks run on phantoms without changes, define nothing, and have no outputs in git."""

import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from laptop import stack
from lungline.settings import load_settings

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LOOK, TRAIN, FOLLOW, OWN = NOTEBOOKS
CELL_SECONDS = 240
# All of them take a minute and a half on two free cores, and several on a busy machine.
pytestmark = pytest.mark.timeout(480)
# Enough to run, and far too little to learn anything.
SMALL = {"DATA": "phantom:120", "OFFLINE": "true", "MODEL__SIZE": "32", "MODEL__WIDTH": "8", "TRAIN__EPOCHS": "2"}
# MLflow takes longer to start than the notebooks take to run, and none of them uses it.
NO_MLFLOW = {"MLFLOW_URI": "http://127.0.0.1:9"}

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def run(path: Path, home: Path) -> Any:
    """The executed notebook; its kernel runs on this interpreter, with small settings only."""
    home.mkdir(exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LUNGLINE_", "MPL"))}
    small = {f"LUNGLINE_{name}": value for name, value in (SMALL | NO_MLFLOW | {"HOME": str(home)}).items()}
    resources = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(read(path), timeout=CELL_SECONDS, startup_timeout=120, resources=resources)
    # The client owns the kernel manager that it creates, and shuts it down.
    specification = client.create_kernel_manager().kernel_spec
    assert specification
    specification.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    return client.execute(env=inherited | small | {"IPYTHONDIR": str(home / "ipython")})


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def text(notebook: Any) -> str:
    """The text and the tables in the outputs of a notebook."""
    shown = (output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs(notebook))
    return "".join(shown)


def images(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def warnings_in(notebook: Any) -> str:
    """The text on standard error of Python code; what TensorFlow writes on each import does not pass through Python."""
    return "".join(output.text for output in outputs(notebook) if output.get("name") == "stderr")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of the notebooks; Jupyter's own files go there as well, not to the user's home."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RUNTIME", "CONFIG", "DATA"):
            patch.setenv(f"JUPYTER_{name}_DIR", str(home / "jupyter"))
        yield home


@pytest.fixture(scope="module")
def trained(home: Path) -> Any:
    """The second notebook, executed; the third uses its model."""
    return run(TRAIN, home)


def test_the_readme_lists_all_notebooks() -> None:
    named = re.findall(r"\[(\w+)\]\((\w+\.ipynb)\)", (ROOT / "notebooks/README.md").read_text())
    assert named == [(path.stem, path.name) for path in NOTEBOOKS]


@every_notebook
def test_a_notebook_defines_nothing(path: Path) -> None:
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
    for cell in code(path):
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, definitions), f"{path.name} defines something: {ast.unparse(node)}"


@every_notebook
def test_a_notebook_uses_the_core(path: Path) -> None:
    assert any(re.search(r"^from lungline\.", cell.source, re.MULTILINE) for cell in code(path))


@every_notebook
def test_a_notebook_has_no_outputs_and_no_local_paths(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in code(path):
        assert (cell.outputs, cell.execution_count) == ([], None)
    assert all(not cell.metadata for cell in notebook.cells)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert notebook.metadata.language_info == {"name": "python"}
    assert not re.search(r"/(home|Users|tmp|root|work)/|[A-Z]:\\", path.read_text())


@every_notebook
def test_a_notebook_explains_itself(path: Path) -> None:
    prose = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
    assert prose[0].startswith("# ")
    assert "Research use only" in prose[0]
    assert len(prose) >= len(code(path)) / 2


def test_the_first_notebook_shows_the_data(home: Path) -> None:
    notebook = run(LOOK, home)
    assert warnings_in(notebook) == ""
    assert "phantom:120: 120 images." in text(notebook)
    assert "0 of 120 images could not be read." in text(notebook)
    assert images(notebook) == 4
    assert (home / "notebooks/data/contract/index.html").exists()


def test_the_second_notebook_trains_and_compares_two_models(home: Path, trained: Any) -> None:
    assert warnings_in(trained) == ""
    assert "as set: " in text(trained)
    assert "drawn phantoms" in text(trained)
    assert images(trained) == 4
    assert (home / "notebooks/models/as-set/card.json").exists()


@pytest.mark.stack
@pytest.mark.usefixtures("trained")
def test_the_third_notebook_follows_an_upload(home: Path) -> None:
    """And it leaves nothing running."""
    notebook = run(FOLLOW, home)
    assert warnings_in(notebook) == ""
    assert "s3:ObjectCreated:Put" in text(notebook)
    assert "the same record: True" in text(notebook)
    assert "DOE^JANE" not in re.findall(r"^Upload\(.*", text(notebook), re.MULTILINE)[0]
    assert images(notebook) == 3
    assert "The stack was stopped." in text(notebook)
    assert not stack.status(load_settings({"home": str(home)})).running


def test_the_fourth_notebook_follows_a_task_of_several_findings(home: Path) -> None:
    notebook = run(OWN, home)
    assert warnings_in(notebook) == ""
    assert "Findings on drawn chest X-rays: many-at-once." in text(notebook)
    assert text(notebook).count("The task my-task.toml is wrong in line") == 3
    assert "auc_effusion" in text(notebook)
    assert images(notebook) == 2
    assert (home / "notebooks/own-task/package/card.json").exists()
