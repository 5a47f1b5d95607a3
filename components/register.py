"""Register the package as the challenger."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register(
    package: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    mlflow_run: str,
    pipeline_run: str,
    pipeline_id: str,
) -> str:
    """Register the package of a run; returns the version. Never cached: the registry itself finds a duplicate."""
    from pathlib import Path

    from components import step_events
    from lungline.evaluation.scoring import Scores
    from lungline.registry.registration import register as register_package
    from lungline.registry.versions import Registry
    from lungline.settings import load_settings

    with step_events.step("register") as step:
        tested = Scores.load(Path(evaluation.path)).evaluation
        registered = register_package(
            Registry(load_settings()),
            Path(package.path),
            run_id=mlflow_run,
            pipeline_run=f"{pipeline_run}/{pipeline_id}",
            metrics=tested.metrics(),
            confusion=tested.confusion,
        )
        before = "" if registered.new else " (registered before)"
        step.conclude(f"version {registered.version}{before}", version=registered.version, package=registered.package)
    return registered.version
