"""The registered model in MLflow, made on first use, with its aliases."""

# MLflow's own types are incomplete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from typing import TYPE_CHECKING, Any

from lungline.task.reading import load_task, packaged

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"


def registered_model(client: "MlflowClient", name: str) -> Any:
    """The registered model of a name; raises MlflowException."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    try:
        title = load_task(name).title if name in packaged() else name
        return client.create_registered_model(name, description=f"{title}. Research use only.")
    except MlflowException as exc:
        # Another registration made it at the same moment.
        if exc.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return client.get_registered_model(name)


def aliases(client: "MlflowClient", name: str) -> dict[str, str]:
    """The version that each alias names; raises MlflowException."""
    return {alias: str(version) for alias, version in registered_model(client, name).aliases.items()}
