"""Run the training pipeline on a Kubeflow Pipelines server, once or on a schedule."""

import hashlib
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.step_events import Event
from lungline.errors import DataError, SettingsError
from lungline.registry.provenance import code_version
from lungline.settings import Settings
from pipelines.arguments import arguments, pipeline_name
from pipelines.compile import compile_pipeline
from pipelines.following import follow
from pipelines.server import KfpServer, connected, pages, quiet

POLL_SECONDS = 5.0
REMOTE = re.compile(r"auto$|medmnist:\d+$|phantom(:\d+)?$|s3://.+")


@dataclass(frozen=True, slots=True)
class Submitted:
    """A run on the server; `state` is SUCCEEDED, or its state at the start without waiting."""

    run: str
    link: str
    version: str
    uploaded: bool
    state: str


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A recurring run on the server; `replaced` counts the earlier schedules that it replaced."""

    schedule: str
    link: str
    version: str
    cron: str
    replaced: int


def submit(
    settings: Settings,
    server: KfpServer,
    on_event: Callable[[Event], None] = lambda _: None,
    *,
    wait: bool = True,
    reuse: bool = True,
    poll_seconds: float = POLL_SECONDS,
) -> Submitted:
    """Compile, upload if changed, run, and follow the run to its end unless `wait` is False.

    Raises PipelinesUnavailable, DataError for data that a cluster cannot read, and PipelineFailed with the step and
    its cause.
    """
    parameters = _arguments(settings)
    with connected(server) as client:
        with quiet():
            version = _version(client, settings, server)
            run = client.run_pipeline(
                experiment_id=_experiment(client, settings, server),
                job_name=f"{pipeline_name(settings)} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
                params=parameters,
                pipeline_id=version.pipeline,
                version_id=version.id,
                enable_caching=None if reuse else False,
                service_account=server.service_account,
            )
        link = f"{server.host.rstrip('/')}/#/runs/details/{run.run_id}"
        on_event(Event(step="run", kind="started", text=link))
        if wait:
            follow(client, run.run_id, link, on_event, poll_seconds)
    state = "SUCCEEDED" if wait else str(run.state or "PENDING")
    return Submitted(run.run_id, link, version.name, version.uploaded, state)


def schedule(settings: Settings, server: KfpServer, cron: str) -> Scheduled:
    """Run the pipeline on a cron schedule (minute hour day month weekday, UTC); raises what `submit` raises.

    Each task has a single schedule: a new one replaces it.
    """
    expression, name = _six_fields(cron), pipeline_name(settings)
    parameters = _arguments(settings)
    with connected(server) as client, quiet():
        version = _version(client, settings, server)
        experiment = _experiment(client, settings, server)
        earlier = [run.recurring_run_id for run in _schedules(client, experiment) if run.display_name == name]
        made = client.create_recurring_run(
            experiment_id=experiment,
            job_name=name,
            description=f"{cron} (UTC), by lungline train --schedule",
            cron_expression=expression,
            max_concurrency=1,
            no_catchup=True,  # after a week of downtime, do not catch up on seven trainings
            params=parameters,
            pipeline_id=version.pipeline,
            version_id=version.id,
            service_account=server.service_account,
        )
        for run_id in earlier:
            client.delete_recurring_run(run_id)
    link = f"{server.host.rstrip('/')}/#/recurringrun/details/{made.recurring_run_id}"
    return Scheduled(made.recurring_run_id, link, version.name, expression, len(earlier))


@dataclass(frozen=True, slots=True)
class _Version:
    pipeline: str
    id: str
    name: str
    uploaded: bool


def _arguments(settings: Settings) -> dict[str, Any]:
    if not REMOTE.match(settings.data):
        raise DataError(
            f"A cluster cannot read {settings.data}: put the data into a bucket and name it as s3://bucket/prefix."
        )
    if settings.feedback and not settings.feedback.startswith("s3://"):
        raise DataError(
            f"A cluster cannot read {settings.feedback}: put the labels into a bucket as s3://bucket/prefix."
        )
    return arguments(settings, data=settings.data, data_digest="", code_version=code_version())


def _six_fields(cron: str) -> str:
    """Kubeflow's cron lines begin with seconds."""
    fields = cron.split()
    if len(fields) != 5 or not all(re.fullmatch(r"[\dA-Za-z*/,\-?]+", field) for field in fields):
        raise SettingsError(f'Expected a schedule of five fields, such as "0 3 * * 1"; found {cron!r}.')
    return f"0 {cron}"


def _experiment(client: Any, settings: Settings, server: KfpServer) -> str:
    return client.create_experiment(settings.experiment, namespace=server.namespace).experiment_id


def _version(client: Any, settings: Settings, server: KfpServer) -> _Version:
    """The version on the server with the same content; uploaded if there is none."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "pipeline.yaml"
        compile_pipeline(path, settings)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        name = f"{code_version()[:40]}-{digest[:12]}"
        ours = pipeline_name(settings)
        pipeline = _pipeline(client, server, ours)
        if pipeline is None:
            # The first upload creates the pipeline and a version with the same name and description.
            made = client.upload_pipeline(str(path), ours, description=f"sha256 {digest}", namespace=server.namespace)
            (version, *_) = _versions(client, made.pipeline_id)
            return _Version(made.pipeline_id, version.pipeline_version_id, version.display_name, uploaded=True)
        for version in _versions(client, pipeline.pipeline_id):
            first = version.display_name == ours and f"sha256 {digest}" in (pipeline.description or "")
            if first or version.display_name.endswith(digest[:12]):
                return _Version(pipeline.pipeline_id, version.pipeline_version_id, version.display_name, uploaded=False)
        made = client.upload_pipeline_version(
            str(path), name, pipeline_id=pipeline.pipeline_id, description=f"sha256 {digest}"
        )
        return _Version(pipeline.pipeline_id, made.pipeline_version_id, name, uploaded=True)


def _pipeline(client: Any, server: KfpServer, name: str) -> Any | None:
    def page(token: str) -> Any:
        return client.list_pipelines(page_token=token, page_size=100, namespace=server.namespace)

    return next((pipeline for pipeline in pages(page, "pipelines") if pipeline.display_name == name), None)


def _versions(client: Any, pipeline: str) -> list[Any]:
    def page(token: str) -> Any:
        return client.list_pipeline_versions(pipeline, page_token=token, page_size=100, sort_by="created_at desc")

    return list(pages(page, "pipeline_versions"))


def _schedules(client: Any, experiment: str) -> list[Any]:
    def page(token: str) -> Any:
        return client.list_recurring_runs(page_token=token, page_size=100, experiment_id=experiment)

    return list(pages(page, "recurring_runs"))
