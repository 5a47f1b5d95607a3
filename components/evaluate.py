"""Evaluate the package on the test split, on the path of serving and without TensorFlow."""

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
    metrics: dsl.Output[dsl.Metrics],
    classification: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Score the test split's original files.

    `evaluation` is a folder: metrics, the prediction for each image, plots, the report and the model card.
    """
    import json
    import shutil
    from dataclasses import replace
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
        on_progress = step_events.every(2, step.progress)
        scores = scoring.score_split(loaded, data, "test", limits, on_progress=on_progress)
        corrupted = robustness.measure(loaded, scoring.cases(data, "test"), limits, most=40, on_progress=on_progress)
        looks = scoring.with_looks(scores.evaluation, loaded, scoring.cases(data, "test"), limits)
        scores = replace(scores, evaluation=looks)
        folder = Path(evaluation.path)
        scores.save(folder)
        (folder / "robustness.json").write_text(corrupted.model_dump_json(indent=2))
        draw(folder, RunRecord.load(Path(record.path)), scores, loaded, data)
        images_of_cases = (file for _, file in data.originals("test"))
        page = write_report(
            folder, loaded, scores.evaluation, scores.scored, robustness=corrupted, images=images_of_cases
        )
        shutil.copyfile(page, report.path)
        for name, value in scores.evaluation.metrics().items():
            metrics.log_metric(name, value)
        classification.log_roc_curve(*scores.roc())
        classification.log_confusion_matrix(*scores.confusion_matrix())
        for artifact in (metrics, classification):
            # Their content is metadata, but kfp.local caches a step only while each of its artifacts is a file.
            Path(artifact.path).write_text(json.dumps(artifact.metadata))
        evaluation.metadata["seconds"] = step.seconds
        step.conclude(f"AUC {scores.evaluation.auc:.4f} on {scores.evaluation.n} images", **scores.evaluation.metrics())
