"""Measure the package on the test split, on the path that serving takes and without TensorFlow."""

from typing import Any

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    *,
    prepared: dsl.Input[dsl.Dataset],
    package: dsl.Input[dsl.Model],
    record: dsl.Input[dsl.Artifact],
    images: dict[str, Any],
    evaluation: dsl.Output[dsl.Artifact],
    figures: dsl.Output[dsl.Metrics],
    classification: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Judge the test split's original files.

    `evaluation` is a folder: figures, what became of each picture, plots, the report and the model card.
    """
    import json
    import shutil
    from pathlib import Path

    from components import step_events
    from components.blocks import settings_of
    from lungline.datasets.opening import Prepared
    from lungline.evaluation import robustness, scoring
    from lungline.evaluation.plots import draw
    from lungline.evaluation.report import write_report
    from lungline.imaging.image import Limits
    from lungline.package.package import Package
    from lungline.registry.tracking import RunRecord

    with step_events.step("evaluate") as step:
        data = Prepared.load(Path(prepared.path))
        loaded = Package.load(Path(package.path))
        limits = Limits.from_settings(settings_of(images=images))
        heard = step_events.every(2, step.progress)
        scored = scoring.score_split(loaded, data, "test", limits, on_progress=heard)
        spoilt = robustness.measure(loaded, scoring.cases(data, "test"), limits, most=40, on_progress=heard)
        folder = Path(evaluation.path)
        scored.save(folder)
        (folder / "robustness.json").write_text(spoilt.model_dump_json(indent=2))
        draw(folder, RunRecord.load(Path(record.path)), scored, loaded, data)
        pictures = (file for _, file in data.originals("test"))
        page = write_report(folder, loaded, scored.evaluation, scored.scored, robustness=spoilt, pictures=pictures)
        shutil.copyfile(page, report.path)
        for name, value in scored.evaluation.figures().items():
            figures.log_metric(name, value)
        classification.log_roc_curve(*scored.roc())
        classification.log_confusion_matrix(*scored.confusion_matrix())
        for artifact in (figures, classification):
            # Their content is metadata, but kfp.local reuses a step only while each of its artifacts is a file.
            Path(artifact.path).write_text(json.dumps(artifact.metadata))
        evaluation.metadata["seconds"] = step.seconds
        step.conclude(
            f"AUC {scored.evaluation.auc:.4f} on {scored.evaluation.n} pictures", **scored.evaluation.figures()
        )
