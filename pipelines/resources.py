"""What each step of the training pipeline gets on a cluster: memory, time, another try, addresses and credentials.

None of it is in the pipeline itself, which is the same on a laptop: there a step runs once, in this machine's memory,
with the settings of the process that started it.
"""

# kfp types a pipeline as the function that it was.
# pyright: reportArgumentType=false, reportFunctionMemberAccess=false, reportOptionalMemberAccess=false

import functools
from dataclasses import dataclass
from typing import Any

from lungline.settings import variable

SETTINGS_MAP, SECRET, SERVICE_ACCOUNT = "settings", "s3-pipeline", "lungline-pipeline"
"""Names that manifests/ gives to the config map, the secret and the account of runs, all in Kubeflow's namespace."""

ADDRESSES = (
    "s3_endpoint",
    "s3_region",
    "uploads_bucket",
    "results_bucket",
    "models_bucket",
    "mlflow_bucket",
    "mlflow_uri",
    "experiment",
    "model_name",
    "deployment",
)
"""Settings that a step is told by the config map; what a run is asked comes by its parameters."""

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "s3_access_key", "AWS_SECRET_ACCESS_KEY": "s3_secret_key"}
"""Settings by the keys of the secret that hold them."""

USER = 65532
MINUTE = 60


@dataclass(frozen=True, slots=True)
class Share:
    """What a step asks for and may take at most; `seconds` is the time of one try."""

    cpu: tuple[str, str]
    memory: tuple[str, str]
    seconds: int
    tries_again: int = 2


SHARES = {
    "prepare": Share(("1", "2"), ("1Gi", "3Gi"), 120 * MINUTE),
    "validate-data": Share(("500m", "1"), ("1Gi", "3Gi"), 30 * MINUTE),
    # A training that failed after hours has used up what a cluster lends without asking; one more try, for lost nodes.
    "train": Share(("2", "4"), ("2Gi", "6Gi"), 480 * MINUTE, tries_again=1),
    "evaluate": Share(("1", "2"), ("1Gi", "3Gi"), 60 * MINUTE),
    "gate": Share(("500m", "2"), ("1Gi", "2Gi"), 60 * MINUTE),
    "register": Share(("200m", "1"), ("512Mi", "1Gi"), 15 * MINUTE),
    # Longer than a promotion waits for its predictor, with room for the lease of one that broke off.
    "promote": Share(("200m", "1"), ("512Mi", "1Gi"), 20 * MINUTE),
}


def cluster_pipeline() -> Any:
    """The training pipeline with a share for each step, ready for kfp's compiler."""
    from kfp import dsl
    from kfp.dsl.pipeline_context import Pipeline

    from pipelines.training import pneumonia_training

    traced = pneumonia_training.pipeline_func

    @functools.wraps(traced)
    def equipped(*args: Any, **kwargs: Any) -> None:
        traced(*args, **kwargs)
        for name, task in Pipeline.get_default_pipeline().tasks.items():
            equip(task, SHARES[name])

    spec = pneumonia_training.pipeline_spec.pipeline_info
    return dsl.pipeline(name=spec.name, description=pneumonia_training.description)(equipped)


def equip(task: Any, share: Share) -> None:
    """Give a share to a task, and the addresses and credentials that every step may need."""
    from kfp import kubernetes

    task.set_cpu_request(share.cpu[0]).set_cpu_limit(share.cpu[1])
    task.set_memory_request(share.memory[0]).set_memory_limit(share.memory[1])
    task.set_retry(share.tries_again, backoff_duration="30s", backoff_factor=2, backoff_max_duration="10m")
    kubernetes.set_timeout(task, share.seconds)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.use_config_map_as_env(
        task, config_map_name=SETTINGS_MAP, config_map_key_to_env={variable(name): variable(name) for name in ADDRESSES}
    )
    kubernetes.use_secret_as_env(
        task, secret_name=SECRET, secret_key_to_env={key: variable(name) for key, name in CREDENTIALS.items()}
    )
