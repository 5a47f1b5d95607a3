"""docs/cluster.md says what is true of the manifests."""

import re

import pytest

from lungline.settings import setting_names, variable
from tests.support.command_lines import lungline_commands, options_of, parse
from tests.support.manifests_of import EXTERNAL_SECRETS, ROOT, generated_secrets, pods

TEXT = (ROOT / "docs/cluster.md").read_text()


def test_every_secret_is_listed_with_its_keys() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| `")]
    for secret in generated_secrets():
        name = secret["metadata"]["name"]
        (row,) = [row for row in rows if f"`{name}`" in row.split("|")[1]]
        if name not in {"s3-predictor", "s3-pipeline"}:  # "the same" as the row above
            assert all(f"`{key}`" in row for key in secret["stringData"]), row
    for name, key in EXTERNAL_SECRETS:
        assert key is None or [row for row in rows if f"`{name}`" in row and f"`{key}`" in row]


def test_every_path_that_it_names_exists() -> None:
    named = set(re.findall(r"(manifests/[\w./-]+\w)", TEXT)) | set(re.findall(r"-k (manifests/[\w/-]+)", TEXT))
    ours = {path for path in named if not path.startswith("manifests/kustomize")}
    assert len(ours) > 5
    assert [path for path in ours if not (ROOT / path).exists()] == []


def test_the_images_that_it_builds_are_those_that_minikube_runs() -> None:
    built = set(re.findall(r"docker build --target \w+ -t (\S+) \.", TEXT))
    used = {container["image"] for pod in pods("minikube-seaweedfs") for container in pod.containers}
    ours = {image for image in used if "lungline/" in image}
    assert built == ours
    targets = set(re.findall(r"docker build --target (\w+)", TEXT))
    assert targets == {"predictor", "worklist", "pipeline", "tools"}


def test_every_command_is_one_that_the_program_takes() -> None:
    blocks = "\n".join(re.findall(r"^```bash\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL))
    lines = lungline_commands(blocks)
    assert len(lines) > 6
    for arguments in lines:
        parse(arguments)
    # Within a sentence a command stands without what it needs: its name and its options must be there.
    for text in re.findall(r"`lungline ([^`]+)`", TEXT):
        options = {word for word in text.split() if word.startswith("--")}
        names = [word for word in text.split() if re.fullmatch(r"[a-z]+", word)]
        valid = options_of(names)
        assert options <= valid, f"lungline {text}"


def test_every_setting_that_it_names_is_one() -> None:
    valid = {variable(name) for name in setting_names()}
    named = set(re.findall(r"\bLUNGLINE_[A-Z0-9_]+", TEXT))
    assert named
    assert named <= valid


@pytest.mark.parametrize(("package", "layer"), [("kfp", "pipeline")])
def test_the_server_is_of_the_version_that_the_client_is(package: str, layer: str) -> None:
    locked = re.search(rf"^{package}==(\S+)", (ROOT / f"requirements/{layer}.txt").read_text(), flags=re.MULTILINE)
    assert locked
    assert f"export PIPELINE_VERSION={locked.group(1)}\n" in TEXT
