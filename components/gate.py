"""Gate the model, and complete the run in MLflow. The rules are in lungline.evaluation.gate."""

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
    """Gate the model; returns whether it passed. If not, the run ends without registering it, which is no error.

    The return value is the only plain output, because kfp.local resolves no other in a condition.
    Never cached: the champion may have changed since.
    """
    from pathlib import Path

    from components import step_events
    from components.blocks import settings_of
    from lungline.datasets.opening import Prepared
    from lungline.evaluation.gate import evaluate_against_champion, lowered_limits
    from lungline.evaluation.scoring import Scores
    from lungline.imaging.image import Limits
    from lungline.registry import tracking

    with step_events.step("gate") as step:
        settings = settings_of(gate=gate, images=images)
        data = Prepared.load(Path(prepared.path))
        scores = Scores.load(Path(evaluation.path))
        outcome = evaluate_against_champion(scores, data, Limits.from_settings(settings), settings)
        # Seconds of each step when it ran; a cached step ran earlier.
        steps = {"prepare": prepared, "train": record, "evaluate": evaluation}
        seconds = {f"seconds_{name}": float(artifact.metadata.get("seconds", 0.0)) for name, artifact in steps.items()}
        run = tracking.settle(settings, Path(record.path))
        tracking.note(
            settings,
            run,
            metrics={f"test_{name}": value for name, value in scores.evaluation.metrics().items()} | seconds,
            tags={
                "pipeline_run": f"{pipeline_run}/{pipeline_id}",
                tracking.GATE: "passed" if outcome.passed else "failed",
                tracking.VERDICT: outcome.sentence,
                tracking.LOWERED: "; ".join(lowered_limits(settings.gate, data.task.gate)),
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
