"""Open the data set, decode every image once, and write the arrays that later steps read."""

from typing import Any

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prepare(
    *,
    data: str,
    data_digest: str,
    code_version: str,
    model: dict[str, Any],
    images: dict[str, Any],
    feedback: str = "",
    task: dict[str, Any] = {},  # noqa: B006 - kfp copies it into the pipeline's description
    prepared: dsl.Output[dsl.Dataset],
) -> None:
    """Prepare a data set.

    `data_digest`, if given, is the digest that the data must have: it pins the data of the run and invalidates cached
    steps when the data change. `code_version` does the same for the code. `feedback`, a folder of readers' labels, is
    merged into the data. `task` is the task in full; without one, it is that of the settings.
    """
    from pathlib import Path

    from components import step_events
    from components.blocks import settings_of
    from lungline.datasets import opening
    from lungline.errors import DataError
    from lungline.imaging.image import Limits
    from lungline.task.task import Task
    from lungline.training.train import preparation_of

    with step_events.step("prepare") as step:
        settings = settings_of(model=model, images=images)
        opened = opening.open_dataset(
            data, settings=settings, feedback=feedback, task=Task.model_validate(task) if task else None
        )
        if opened.notice and not data_digest:  # with a digest, the data were opened before the run
            step.progress(opened.notice)
        done = opening.prepare(
            opened,
            preparation_of(settings.model),
            Path(prepared.path),
            limits=Limits.from_settings(settings),
            on_progress=step_events.every(2, step.progress),
        )
        if data_digest and done.digest != data_digest:
            raise DataError(
                f"{done.name} has changed since the run was started: "
                f"expected digest {data_digest[:12]}, found {done.digest[:12]}."
            )
        prepared.metadata.update(
            seconds=step.seconds,
            name=done.name,
            digest=done.digest,
            synthetic=done.synthetic,
            counts=done.counts,
            code=code_version,
        )
        step.conclude(f"{len(done.index)} images of {done.name}", digest=done.digest)
