"""The training pipeline: one object, run by kfp.local on a laptop and compiled for a Kubeflow Pipelines server."""

# kfp types a component as its function, not as the task that calling it returns.
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false

from typing import Any

from kfp import dsl

from components.blocks import block
from components.evaluate import evaluate
from components.gate import gate as evaluate_gate
from components.prepare import prepare
from components.promote import promote
from components.register import register
from components.train import train as fit
from components.validate_data import validate_data
from lungline.settings import Settings
from pipelines.arguments import pipeline_name

# The defaults of this release, whatever the environment says: they fill the form on the pipeline's page.
DEFAULTS = Settings.model_construct()
NAME = pipeline_name(DEFAULTS)
MODEL, IMAGES, TRAIN, GATE = (block(DEFAULTS, name) for name in ("model", "images", "train", "gate"))


@dsl.pipeline(name=NAME, description="Train, evaluate, register and promote a classifier for chest X-rays.")
def training(  # noqa: PLR0917 - kfp itself calls it with positions
    data: str = DEFAULTS.data,
    data_digest: str = "",
    feedback: str = "",
    code_version: str = "",
    model: dict[str, Any] = MODEL,
    images: dict[str, Any] = IMAGES,
    train: dict[str, Any] = TRAIN,
    gate: dict[str, Any] = GATE,
    policy: str = DEFAULTS.policy,
    task: dict[str, Any] = {},  # noqa: B006 - kfp copies it into the pipeline's description
) -> None:
    """Addresses and secrets come from the environment of the steps, never from parameters."""
    run = {"pipeline_run": dsl.PIPELINE_JOB_NAME_PLACEHOLDER, "pipeline_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER}

    preparing = prepare(
        data=data,
        data_digest=data_digest,
        feedback=feedback,
        code_version=code_version,
        model=model,
        images=images,
        task=task,
    )
    prepared = preparing.outputs["prepared"]
    validating = validate_data(prepared=prepared)
    fitting = fit(prepared=prepared, model=model, train=train).after(validating)
    package, record = fitting.outputs["package"], fitting.outputs["record"]
    evaluating = evaluate(prepared=prepared, package=package, record=record, images=images)
    evaluation, report = evaluating.outputs["evaluation"], evaluating.outputs["report"]
    # The following steps depend on the registry, which changes between runs: never cached.
    gating = evaluate_gate(
        prepared=prepared, record=record, evaluation=evaluation, report=report, images=images, gate=gate, **run
    ).set_caching_options(enable_caching=False)
    with dsl.If(gating.outputs["Output"] == True, name="passed"):  # noqa: E712 - builds a condition, compares nothing
        registering = register(
            package=package, evaluation=evaluation, mlflow_run=gating.outputs["mlflow_run"], **run
        ).set_caching_options(enable_caching=False)
        with dsl.If(policy == "auto", name="auto"):
            promote(version=registering.output, verdict=gating.outputs["verdict"]).set_caching_options(
                enable_caching=False
            )


def named(name: str) -> Any:
    """The pipeline under the name of another task's."""
    if name == NAME:
        return training
    traced: Any = training
    return dsl.pipeline(name=name, description=traced.description)(traced.pipeline_func)
