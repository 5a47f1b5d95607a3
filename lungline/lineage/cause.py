"""Why a training run was started: a tag of its MLflow run, for whoever asks later."""

from lungline.lineage.tracking import connect, translated
from lungline.settings import Settings

TAG = "cause"


def name_cause(settings: Settings, run_id: str, cause: str) -> None:
    """Write the cause, a sentence, into a run. Raises RegistryUnavailable when MLflow does not answer."""
    with translated(settings):
        connect(settings).set_tag(run_id, TAG, cause)
