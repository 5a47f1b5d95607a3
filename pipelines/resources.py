"""Resources of the training pipeline's steps on a cluster: memory, time, retries, addresses and credentials.

They are not part of the pipeline itself, which also runs on a laptop: there a step runs once, with the settings of the
process that started it.
"""

# kfp types a pipeline as its function.
# pyright: reportArgumentType=false, reportFunctionMemberAccess=false, reportOptionalMemberAccess=false

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lungline.settings import Settings, TrainingPodSettings, variable
from lungline.task.reading import DEFAULT
from pipelines.arguments import arguments, pipeline_name

SETTINGS_MAP, SECRET, SERVICE_ACCOUNT = "settings", "s3-pipeline", "lungline-pipeline"
"""Names in manifests/ of the config map, the secret and the service account of runs, all in Kubeflow's namespace."""

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
"""Settings that a step gets from the config map; the others are parameters of the run."""

OF_TASK = ("experiment", "model_name")
"""Those of them that belong to the default task; the pipeline of another task states its own."""

SITE_SECRET, SITE_KEY = "site-key", "private"
"""The secret with the key that signs packages and promotion history."""

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "s3_access_key", "AWS_SECRET_ACCESS_KEY": "s3_secret_key"}
"""Settings by their keys in the secret."""

MLFLOW_SECRET = "mlflow-pipeline"  # noqa: S105 - a name
MLFLOW_LOGIN = {"username": "mlflow_username", "password": "mlflow_password"}

USER = 65532
MINUTE = 60


@dataclass(frozen=True, slots=True)
class Share:
    """CPU and memory as (request, limit); `seconds` is the timeout of one attempt."""

    cpu: tuple[str, str]
    memory: tuple[str, str]
    seconds: int
    retries: int = 2


FIXED = {
    "prepare": Share(("1", "2"), ("1Gi", "3Gi"), 120 * MINUTE),
    "validate-data": Share(("500m", "1"), ("1Gi", "3Gi"), 30 * MINUTE),
    "evaluate": Share(("1", "2"), ("1Gi", "3Gi"), 60 * MINUTE),
    "gate": Share(("500m", "2"), ("1Gi", "2Gi"), 60 * MINUTE),
    "register": Share(("200m", "1"), ("512Mi", "1Gi"), 15 * MINUTE),
    # Longer than a promotion waits for its predictor, plus the lease of one that was interrupted.
    "promote": Share(("200m", "1"), ("512Mi", "1Gi"), 20 * MINUTE),
}


def shares(pod: TrainingPodSettings) -> dict[str, Share]:
    """The resources of every step by its name in the pipeline; the training step's are settings."""
    cpu, memory = (pod.cpu_request, pod.cpu_limit), (pod.memory_request, pod.memory_limit)
    # A training that failed after hours is expensive to repeat; one retry, for lost nodes.
    return {**FIXED, "train": Share(cpu, memory, 480 * MINUTE, retries=1)}


def cluster_pipeline(settings: Settings) -> Any:
    """The training pipeline with the resources of each step, ready for kfp's compiler."""
    from kfp import dsl
    from kfp.dsl.pipeline_context import Pipeline

    from pipelines.training import training

    traced = training.pipeline_func
    of_step = shares(settings.training_pod)
    own = {} if settings.task == DEFAULT else {name: str(getattr(settings, name)) for name in OF_TASK}

    @functools.wraps(traced)
    def equipped(*args: Any, **kwargs: Any) -> None:
        traced(*args, **kwargs)
        for name, task in Pipeline.get_default_pipeline().tasks.items():
            equip(task, of_step[name], own)
            if name == "train":
                place(task, settings.training_pod)

    if own:
        equipped.__signature__ = _with_defaults(traced, settings)  # pyright: ignore[reportAttributeAccessIssue]
    return dsl.pipeline(name=pipeline_name(settings), description=training.description)(equipped)


def _with_defaults(traced: Any, settings: Settings) -> inspect.Signature:
    """The signature with the defaults of another task: a run from the server's page must not train the default task."""
    signature = inspect.signature(traced)
    values = arguments(settings, data=settings.data, data_digest="", code_version="")
    parameters = [
        parameter.replace(default=values[name]) if name in {"task", "gate", "train"} else parameter
        for name, parameter in signature.parameters.items()
    ]
    return signature.replace(parameters=parameters)


def equip(task: Any, share: Share, own: Mapping[str, str]) -> None:
    """Set a step's resources, and the addresses and credentials that every step may need.

    `own` are settings by their names that the pipeline states itself, instead of the config map.
    """
    from kfp import kubernetes

    task.set_cpu_request(share.cpu[0]).set_cpu_limit(share.cpu[1])
    task.set_memory_request(share.memory[0]).set_memory_limit(share.memory[1])
    task.set_retry(share.retries, backoff_duration="30s", backoff_factor=2, backoff_max_duration="10m")
    kubernetes.set_timeout(task, share.seconds)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.use_config_map_as_env(
        task,
        config_map_name=SETTINGS_MAP,
        config_map_key_to_env={variable(name): variable(name) for name in ADDRESSES if name not in own},
    )
    for name, value in own.items():
        task.set_env_variable(variable(name), value)
    for secret, names in ((SECRET, CREDENTIALS), (MLFLOW_SECRET, MLFLOW_LOGIN)):
        variables = {key: variable(name) for key, name in names.items()}
        kubernetes.use_secret_as_env(task, secret_name=secret, secret_key_to_env=variables)
    # Optional: without it the step says what is missing and where it comes from; Kubernetes would only wait.
    kubernetes.use_secret_as_env(
        task, secret_name=SITE_SECRET, secret_key_to_env={SITE_KEY: variable("site_key")}, optional=True
    )


def place(task: Any, pod: TrainingPodSettings) -> None:
    """Set the GPUs of the training step, and the nodes on which it may run."""
    from kfp import kubernetes

    for key, value in pod.labels.items():
        kubernetes.add_node_selector(task, key, value)
    if pod.gpus:
        task.set_accelerator_type(pod.gpu_type).set_accelerator_limit(pod.gpus)
        # Nodes with GPUs are mostly tainted by this name, so that other pods stay away.
        kubernetes.add_toleration(task, key=pod.gpu_type, operator="Exists", effect="NoSchedule")
