import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from kfp import dsl

from components import IMAGE
from components.blocks import block, settings_of
from components.evaluate import evaluate
from components.gate import gate
from components.prepare import prepare
from components.promote import promote
from components.register import register
from components.step_events import Event, read, step
from components.train import train
from components.validate_data import validate_data
from lungline.errors import ContractBreached, DataError, SettingsError
from lungline.evaluation.scoring import Scores
from lungline.package.package import Package
from lungline.registry.tracking import RunRecord
from lungline.settings import load_settings
from tests.support.small_datasets import folder_of, small_set

# Keras saves its variables in a way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

COMPONENTS = (prepare, validate_data, train, evaluate, gate, register, promote)
BLOCKS = {
    "model": {"size": 32.0, "width": 4.0},  # a cluster's parameters have no integers: all numbers arrive as floats
    "images": {"min_side": 32.0},
    "train": {"epochs": 1.0, "batch": 16.0},
}


def plain(component: Any) -> Callable[..., Any]:
    """A component as the function that it was; kfp types it as something else than it is."""
    return component.python_func


def artifact(kind: type[dsl.Artifact], folder: Path, name: str) -> dsl.Artifact:
    return kind(name=name, uri=str(folder / name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("components")


@pytest.fixture(scope="module")
def prepared(folder: Path) -> dsl.Artifact:
    made = artifact(dsl.Dataset, folder, "prepared")
    plain(prepare)(
        data="phantom:220",
        data_digest="",
        code_version="test",
        model=BLOCKS["model"],
        images=BLOCKS["images"],
        prepared=made,
    )
    return made


@pytest.fixture(scope="module")
def trained(folder: Path, prepared: dsl.Artifact) -> tuple[dsl.Artifact, dsl.Artifact]:
    package, record = artifact(dsl.Model, folder, "package"), artifact(dsl.Artifact, folder, "record")
    plain(train)(prepared=prepared, model=BLOCKS["model"], train=BLOCKS["train"], package=package, record=record)
    return package, record


def events(text: str) -> Iterator[Event]:
    return filter(None, map(read, text.splitlines()))


def test_every_component_names_our_image_and_ships_no_installation() -> None:
    for component in COMPONENTS:
        container = cast("Any", component).component_spec.implementation.container
        assert container.image == IMAGE
        assert "pip install" not in " ".join(container.command)
        assert plain(component).__doc__


def test_preparing_tells_what_the_data_are(prepared: dsl.Artifact) -> None:
    facts = json.loads((Path(prepared.path) / "dataset.json").read_text())
    assert prepared.metadata["digest"] == facts["digest"]
    assert prepared.metadata["synthetic"] is True
    assert prepared.metadata["code"] == "test"


def test_preparing_shows_what_was_left_out_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path / "set", small_set() | {"train/COVID/x.png": b"", "test/NORMAL/masks/x.png": b""})
    blocks = {"model": BLOCKS["model"], "images": BLOCKS["images"]}
    made = artifact(dsl.Dataset, tmp_path, "prepared")
    plain(prepare)(data=str(folder), data_digest="", code_version="", prepared=made, **blocks)
    first = next(event for event in events(capsys.readouterr().out) if event.kind == "progress")
    assert first.text == (
        "set: left out COVID (1 file): neither NORMAL nor PNEUMONIA; left out masks: test/NORMAL/masks (1 file)."
    )


def test_data_that_changed_since_the_run_was_started_are_refused(tmp_path: Path) -> None:
    blocks = {"model": BLOCKS["model"], "images": BLOCKS["images"]}
    made = artifact(dsl.Dataset, tmp_path, "prepared")
    with pytest.raises(DataError, match="has changed since the run was started: expected digest 0123"):
        plain(prepare)(data="phantom:220", data_digest="0123", code_version="", prepared=made, **blocks)


def test_data_that_keep_the_contract_pass_with_a_page(prepared: dsl.Artifact, tmp_path: Path) -> None:
    docs = artifact(dsl.HTML, tmp_path, "docs")
    plain(validate_data)(prepared=prepared, docs=docs)
    assert "<html" in Path(docs.path).read_text()


def test_data_that_break_the_contract_stop_the_run(
    prepared: dsl.Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page with the breaches is still written."""
    broken = dsl.Dataset(uri=str(shutil.copytree(prepared.path, tmp_path / "broken")))
    index = Path(broken.path) / "index.csv"
    lines = index.read_text().splitlines()
    lines[1] = lines[1].replace(",train,", ",exam,")
    index.write_text("\n".join(lines) + "\n")
    docs = artifact(dsl.HTML, tmp_path, "docs")
    name = lines[1].split(",")[0]
    with pytest.raises(ContractBreached, match="every split must be known; found 1 image that breaks it") as breach:
        plain(validate_data)(prepared=broken, docs=docs)
    assert name in str(breach.value)
    assert Path(docs.path).exists()
    *_, failed = events(capsys.readouterr().out)
    assert (failed.step, failed.kind, failed.text, failed.ours) == ("validate_data", "failed", str(breach.value), True)


def test_training_writes_a_package_and_its_record(trained: tuple[dsl.Artifact, dsl.Artifact]) -> None:
    package, record = trained
    card = Package.load(Path(package.path)).card
    assert card.data.synthetic
    assert card.preparation.size == 32
    assert card.version is None
    kept = RunRecord.load(Path(record.path))
    assert [epoch["number"] for epoch in kept.epochs] == [1]
    assert kept.params["train.epochs"] == "1"
    assert kept.params["library.numpy"]
    assert (Path(record.path) / "network.keras").stat().st_size > 10_000


def test_evaluating_writes_metrics_curves_and_images(
    prepared: dsl.Artifact, trained: tuple[dsl.Artifact, dsl.Artifact], tmp_path: Path
) -> None:
    package, record = trained
    evaluation, report = artifact(dsl.Artifact, tmp_path, "evaluation"), artifact(dsl.HTML, tmp_path, "report")
    metrics, curves = dsl.Metrics(uri=str(tmp_path / "metrics")), dsl.ClassificationMetrics(uri=str(tmp_path / "c"))
    plain(evaluate)(
        prepared=prepared,
        package=package,
        record=record,
        images=BLOCKS["images"],
        evaluation=evaluation,
        metrics=metrics,
        classification=curves,
        report=report,
    )
    scores = Scores.load(Path(evaluation.path))
    assert metrics.metadata == pytest.approx(scores.evaluation.metrics())
    points = curves.metadata["confidenceMetrics"]
    assert points[0] == pytest.approx({"falsePositiveRate": 0, "recall": 0, "confidenceThreshold": 1}, abs=0.5)
    assert points[-1]["recall"] == points[-1]["falsePositiveRate"] == 1
    rows = curves.metadata["confusionMatrix"]["rows"]
    assert sum(sum(row["row"]) for row in rows) == scores.evaluation.n
    for plot in ("learning_curve", "roc", "precision_recall", "reliability", "confusion_matrix", "samples"):
        assert (Path(evaluation.path) / f"{plot}.png").read_bytes().startswith(b"\x89PNG")
    page = Path(report.path).read_text()
    assert "data:image/png;base64" in page
    assert "Robustness" in page
    assert (Path(evaluation.path) / "model_card.md").read_text().startswith("# pneumonia")
    spoilt = json.loads((Path(evaluation.path) / "robustness.json").read_text())
    assert len(spoilt["rows"]) == 20


def test_a_step_reports_its_start_progress_and_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = artifact(dsl.Dataset, tmp_path, "prepared")
    blocks = {"model": BLOCKS["model"], "images": BLOCKS["images"]}
    plain(prepare)(data="phantom:220", data_digest="", code_version="", prepared=made, **blocks)
    reported = list(events(capsys.readouterr().out))
    assert {event.kind for event in reported[1:-1]} == {"progress"}
    assert (reported[0].kind, reported[-2].text, reported[-1].kind) == ("started", "220 of 220", "done")
    assert reported[-1].text == "220 images of phantom:220"
    assert reported[-1].seconds is not None


def test_a_foreign_failure_is_reported_with_its_type(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), step("train"):
        {}["nothing"]
    *_, failed = events(capsys.readouterr().out)
    assert (failed.text, failed.ours) == ("KeyError: 'nothing'", False)


def test_text_that_is_not_unicode_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with step("prepare") as speaker:
        speaker.progress("ward \udcff.jpeg")
    texts = [event.text for event in events(capsys.readouterr().out)]
    assert texts[1] == "ward \\udcff.jpeg"


def test_numpy_values_and_nan_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with step("train") as speaker:
        speaker.progress("epoch 1", loss=np.float32(0.5), val_auc=float("nan"))
    _, progress, _ = events(capsys.readouterr().out)
    assert progress.values["loss"] == 0.5
    assert np.isnan(progress.values["val_auc"])


def test_blocks_of_settings_survive_the_way_through_a_pipeline() -> None:
    settings = load_settings({"model.size": 96, "train.epochs": 3, "image_max_bytes": 1000})
    blocks = {name: block(settings, name) for name in ("model", "images", "train", "gate")}
    arrived = {name: {key: as_struct(value) for key, value in values.items()} for name, values in blocks.items()}
    back = settings_of(**arrived)
    assert (back.model, back.train, back.gate) == (settings.model, settings.train, settings.gate)
    assert back.image_max_bytes == 1000


def as_struct(value: object) -> object:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def test_an_unknown_name_in_a_block_is_refused() -> None:
    """The error names the nearest known setting."""
    with pytest.raises(SettingsError, match=r"train\.epoch\b.*train\.epochs"):
        settings_of(train={"epoch": 3})
