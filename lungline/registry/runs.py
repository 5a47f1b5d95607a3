"""A training run as MLflow has it, for those who trace a model back to where it came from."""

# MLflow's own types are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from lungline.registry.mlflow_client import connect, translated
from lungline.settings import Settings


class RunFacts(BaseModel):
    """A training run: when it ran and ended, what it was asked, and what came of it."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    status: str
    started: datetime | None
    ended: datetime | None
    params: dict[str, str] = {}
    metrics: dict[str, float] = {}
    tags: dict[str, str] = {}
    address: str = ""


def run_facts(settings: Settings, run_id: str) -> RunFacts | None:
    """The run with an id; None where MLflow has none, or no longer. Raises RegistryUnavailable."""
    from mlflow.exceptions import MlflowException

    with translated(settings):
        try:
            run = connect(settings).get_run(run_id)
        except MlflowException as exc:
            if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
    return RunFacts(
        id=run_id,
        name=run.info.run_name or "",
        status=run.info.status,
        started=_moment(run.info.start_time),
        ended=_moment(run.info.end_time),
        params=dict(run.data.params),
        metrics={name: float(value) for name, value in run.data.metrics.items()},
        tags={name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")},
        address=f"{settings.mlflow_uri}/#/experiments/{run.info.experiment_id}/runs/{run_id}",
    )


def _moment(milliseconds: Any) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
