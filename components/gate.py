"""Hold the model against the floors and the champion, and complete the run's page in MLflow."""

from typing import Any

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gate(
    *,
    prepared: dsl.Input[dsl.Dataset],
    record: dsl.Input[dsl.Artifact],
    evaluation: dsl.Input[dsl.Artifact],
    report: dsl.Input[dsl.HTML],
    images: dict[str, Any],
    gate: dict[str, Any],
    pipeline_run: str,
    pipeline_id: str,
    verdict: dsl.OutputPath(str),  # pyright: ignore[reportInvalidTypeForm, reportUnknownParameterType]
    mlflow_run: dsl.OutputPath(str),  # pyright: ignore[reportInvalidTypeForm, reportUnknownParameterType]
) -> bool:
    """Judge the model; a model that does not pass is no error: the run ends without registering it.

    Returns whether it passed. That is the one plain output, because kfp.local resolves no other in a condition.
    Never reused: the champion that it is held against may have changed since.
    """
    from pathlib import Path

    from components import step_events
    from components.blocks import settings_of
    from lungline.datasets.opening import Prepared
    from lungline.evaluation import gate as judging
    from lungline.evaluation.scoring import Scores
    from lungline.imaging.image import Limits
    from lungline.registry import tracking

    with step_events.step("gate") as step:
        settings = settings_of(gate=gate, images=images)
        data = Prepared.load(Path(prepared.path))
        scores = Scores.load(Path(evaluation.path))
        outcome = judging.evaluate_against_champion(scores, data, Limits.from_settings(settings), settings)
        # How long each step took when it ran; one that was reused ran earlier.
        steps = {"prepare": prepared, "train": record, "evaluate": evaluation}
        seconds = {f"seconds_{name}": float(one.metadata.get("seconds", 0.0)) for name, one in steps.items()}
        run = tracking.settle(settings, Path(record.path))
        tracking.note(
            settings,
            run,
            figures={f"test_{name}": value for name, value in scores.evaluation.figures().items()} | seconds,
            tags={
                "pipeline_run": f"{pipeline_run}/{pipeline_id}",
                "gate": "passed" if outcome.passed else "failed",
                "verdict": outcome.sentence,
            },
            artifacts={"evaluation": Path(evaluation.path)},
        )
        step.conclude(
            outcome.sentence,
            verdict=outcome.model_dump(mode="json"),
            evaluation=scores.evaluation.model_dump(mode="json"),
            data={"name": data.name, "digest": data.digest, "synthetic": data.synthetic, "notice": data.notice},
            mlflow_run=run,
            mlflow_url=tracking.run_url(settings, run),
            pipeline_run=pipeline_run,
            report=report.path,
        )
        Path(verdict).write_text(outcome.sentence)
        Path(mlflow_run).write_text(run)
    return outcome.passed
