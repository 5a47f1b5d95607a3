"""All settings of Lungline.

`load_settings()` reads `LUNGLINE_*` from the environment; nested blocks use two underscores (`LUNGLINE_TRAIN__EPOCHS`).
An unknown name is refused with the nearest valid one, so that a typing error is noticed.
"""

import difflib
import logging
import os
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from lungline.errors import SettingsError
from lungline.settings_blocks import (
    GateSettings,
    GatewaySettings,
    ModelSettings,
    MonitorSettings,
    RetrainSettings,
    TrainingPodSettings,
    TrainSettings,
    WorklistSettings,
)
from lungline.task.overrides import overrides_of
from lungline.task.reading import DEFAULT

PREFIX = "LUNGLINE_"

RENAMED = {
    "model.start": "model.weights",
    "train.average": "train.ema_decay",
    "train.unsure": "train.unsure_rate",
    "gate.refused": "gate.refused_rate",
    "monitor.days": "monitor.lookback_days",
    "monitor.minutes": "monitor.interval_minutes",
}
"""Names of version 0.1, which still work in version 0.2, with a warning. Where both are set, the new name wins."""

_log = logging.getLogger("lungline.settings")


class _Environment(EnvSettingsSource):
    """The environment, with the new names of renamed settings."""

    def _load_env_vars(self) -> dict[str, str | None]:
        variables = dict(super()._load_env_vars())
        for old, new in RENAMED.items():
            value = variables.pop(variable(old).lower(), None)
            if value is not None:
                variables.setdefault(variable(new).lower(), value)
        return variables


class Settings(BaseSettings):
    """Every setting with its default; frozen."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
    )

    home: Path = Field(default=Path(".lungline"), description="Folder that holds all state of the laptop stack.")
    data: str = Field(
        default="auto",
        description="Training data: a folder, a zip, an .npz, medmnist:SIZE, s3://bucket/prefix, phantom[:N], or auto.",
    )
    task: str = Field(
        default=DEFAULT, description="What is looked for: a task that comes with Lungline, or a task file."
    )
    further_tasks: Path | None = Field(
        default=None,
        description="Folder of the files of tasks that other predictors of a cluster serve: the one that is called as "
        "model_name says hands their uploads on.",
    )
    feedback: str | None = Field(
        default=None,
        description="Labels from readers to merge into the training data: a folder, a zip, s3://, or worklist.",
    )
    offline: bool = Field(default=False, description="Never download data; `auto` then falls back to phantoms.")

    s3_endpoint: str | None = Field(
        default=None, description="Address of the object store; empty starts the embedded one."
    )
    s3_region: str = Field(default="us-east-1", description="Region used to sign requests to the object store.")
    s3_access_key: SecretStr | None = Field(default=None, description="S3 access key; empty uses boto3's lookup.")
    s3_secret_key: SecretStr | None = Field(default=None, description="S3 secret key; empty uses boto3's lookup.")
    uploads_bucket: str = Field(default="xray-uploads", description="Bucket that imaging equipment uploads to.")
    results_bucket: str = Field(default="lungline-results", description="Bucket of result records and heatmaps.")
    models_bucket: str = Field(default="lungline-models", description="Bucket of model packages and promotion history.")
    mlflow_bucket: str = Field(default="lungline-mlflow", description="Bucket of MLflow artifacts.")
    patients_bucket: str = Field(
        default="lungline-patients", description="Bucket that names the patients of DICOM uploads, apart from results."
    )
    research_bucket: str = Field(default="lungline-research", description="Bucket of de-identified unsure images.")
    research_secret: SecretStr | None = Field(
        default=None,
        description="Key of the pseudonyms in the research bucket; empty generates one in the home folder.",
    )

    kafka_bootstrap: str | None = Field(
        default=None, description="Kafka bootstrap servers; empty starts the embedded broker."
    )
    kafka_username: str | None = Field(
        default=None, description="Kafka user (SCRAM over TLS); empty connects without authentication."
    )
    kafka_password: SecretStr | None = Field(default=None, description="Password of the Kafka user.")
    kafka_ca: Path | None = Field(
        default=None, description="CA certificate file of the Kafka brokers; empty trusts the system's CAs."
    )
    event_key: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="Key with which sender and receivers of events prove themselves; empty requires no proofs, "
        "which Knative cannot give. The laptop stack generates one.",
    )
    uploads_topic: str = Field(default="xray-uploads", description="Topic of upload events.")
    results_topic: str = Field(default="xray-results", description="Topic of result events.")
    dead_letters_topic: str = Field(
        default="xray-dead-letters", description="Topic of events that could not be processed."
    )
    shadow_topic: str = Field(
        default="xray-shadow", description="Topic of second opinions on live uploads, of a version in the shadow."
    )
    rejudge_topic: str = Field(
        default="xray-rejudge", description="Topic of events of old uploads that a version is to judge."
    )
    rejudged_topic: str = Field(default="xray-rejudged", description="Topic of second opinions on old uploads.")

    mlflow_uri: str | None = Field(default=None, description="Address of the MLflow server; empty starts one.")
    mlflow_username: str | None = Field(
        default=None, description="User of the MLflow server; empty uses MLflow's own variables, or no login."
    )
    mlflow_password: SecretStr | None = Field(default=None, description="Password of the MLflow user.")
    predictor_uri: str | None = Field(
        default=None, description="Address of the predictor that promotions wait for; empty starts one."
    )
    experiment: str = Field(default=DEFAULT, description="MLflow experiment of training runs.")
    site_key: SecretStr | None = Field(
        default=None,
        description="Private key (PEM, P-256) that signs packages and history; empty generates one in the home folder.",
    )
    site_public_key: str | None = Field(
        default=None, description="Public keys (PEM) that signatures are verified with; empty reads the home folder."
    )
    package_sha256: str | None = Field(
        default=None, description="Digest of the only package that the predictor may serve; a promotion sets it."
    )
    model_name: str = Field(default=DEFAULT, description="Name of the model in MLflow, KServe and the models bucket.")

    purpose: Literal["answer", "shadow", "rejudged"] = Field(
        default="answer",
        description="What the predictor's results are: answers, or second opinions on live or on old uploads.",
    )

    log_format: Literal["text", "json"] = Field(
        default="text", description="Format of log lines; both include the identity of the upload."
    )
    otlp_endpoint: str | None = Field(
        default=None,
        description="Address of an OpenTelemetry collector (OTLP over HTTP, port 4318); empty exports no traces.",
    )
    prometheus: bool = Field(
        default=False, description="Start Prometheus with the laptop stack, if the program is installed."
    )
    hang_seconds: float = Field(
        default=30.0,
        ge=0,
        description="Seconds without any sign after which a service of the laptop stack is killed and started again: "
        "longer than a load peak, shorter than people wait; 0 never.",
    )
    image_max_bytes: int = Field(default=64 * 2**20, ge=1, description="Largest accepted image file, in bytes.")
    image_max_pixels: int = Field(default=64_000_000, ge=1, description="Largest accepted image, in pixels.")
    image_min_side: int = Field(default=28, ge=1, description="Smallest accepted side of an image, in pixels.")
    image_rules: Path | None = Field(
        default=None,
        description="TOML file of rules on DICOM headers that say which images are judged; empty sets aside what is no "
        "frontal chest X-ray.",
    )

    retention_rules: Path | None = Field(
        default=None,
        description="TOML file of rules that say what is erased by itself, and when; empty erases nothing.",
    )

    deployment: Literal["laptop", "cluster"] = Field(
        default="laptop", description="Where models serve: in the laptop stack, or as a KServe InferenceService."
    )
    kube_context: str | None = Field(
        default=None,
        description="Kubeconfig context of the cluster; empty uses the pod's own account, else the current one.",
    )
    prometheus_uri: str | None = Field(
        default=None, description="Address of the Prometheus that supplies a canary's metrics."
    )
    policy: Literal["auto", "manual"] = Field(
        default="auto", description="Promotion policy: automatically after the gate, or manually by a named person."
    )
    kfp_image: str = Field(
        default=f"ghcr.io/lungline/pipeline-python:{version('lungline')}",
        description="Image of all pipeline steps on a cluster.",
    )
    kfp_host: str | None = Field(default=None, description="Address of the Kubeflow Pipelines server.")
    kfp_namespace: str | None = Field(
        default=None, description="Namespace of runs on a multi-user Kubeflow Pipelines server."
    )
    kfp_token: SecretStr | None = Field(
        default=None, description="Bearer token for a multi-user Kubeflow Pipelines server."
    )

    model: ModelSettings = Field(default_factory=ModelSettings, description="The network.")
    train: TrainSettings = Field(default_factory=TrainSettings, description="One training run.")
    training_pod: TrainingPodSettings = Field(
        default_factory=TrainingPodSettings, description="The pod of the training step on a cluster."
    )
    gate: GateSettings = Field(default_factory=GateSettings, description="What a model must reach.")
    worklist: WorklistSettings = Field(default_factory=WorklistSettings, description="The web page for readers.")
    gateway: GatewaySettings = Field(default_factory=GatewaySettings, description="The DICOM gateway.")
    monitor: MonitorSettings = Field(default_factory=MonitorSettings, description="Drift monitoring.")
    retrain: RetrainSettings = Field(default_factory=RetrainSettings, description="Automatic training runs.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings passes all sources
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments first, then the environment."""
        return init_settings, _Environment(settings_cls)


def setting_names() -> Iterator[str]:
    """Dotted names of all settings, such as `home` and `train.epochs`."""
    return (name for name, _ in _fields(Settings))


def setting_descriptions() -> Iterator[tuple[str, Any, str]]:
    """Dotted name, default and description of every setting."""
    return ((name, field.get_default(), str(field.description)) for name, field in _fields(Settings))


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def variable(name: str) -> str:
    """The environment variable of a dotted setting name: `train.epochs` is `LUNGLINE_TRAIN__EPOCHS`."""
    return PREFIX + name.replace(".", "__").upper()


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read settings from the environment, then apply `overrides` by dotted name.

    Raises SettingsError, which names the setting, for an unknown name or a value out of range.

    >>> load_settings({"train.epochs": 5}).train.epochs
    5
    """
    values = dict(overrides or {})
    variables = [name for name in os.environ if name.startswith(PREFIX)]
    names = list(setting_names())
    _warn_of_renamed(variables, values)
    _refuse_unknown(variables, [variable(name) for name in (*names, *RENAMED)])
    _refuse_unknown(list(values), [*names, *RENAMED])
    for old in RENAMED.keys() & values.keys():
        values.setdefault(RENAMED[old], values.pop(old))
    try:
        settings = Settings(**_nested(values))
        return settings.model_copy(update=overrides_of(settings))
    except ValidationError as exc:
        # The value itself stays out of the message: it may be a secret.
        problems = (f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors())
        raise SettingsError(f"Setting refused: {'; '.join(problems)}.") from exc


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in values.items():
        block, _, leaf = name.rpartition(".")
        (nested.setdefault(block, {}) if block else nested)[leaf] = value
    return nested


def _warn_of_renamed(variables: list[str], overrides: Mapping[str, Any]) -> None:
    for old, new in RENAMED.items():
        if variable(old) in variables:
            _log.warning("The setting %s is now %s; the old name works until 0.3.", variable(old), variable(new))
        if old in overrides:
            _log.warning("The setting %s is now %s; the old name works until 0.3.", old, new)


def _refuse_unknown(names: list[str], valid: list[str]) -> None:
    for name in names:
        if name not in valid:
            near = difflib.get_close_matches(name, valid, n=1)
            hint = f" Did you mean {near[0]}?" if near else " `lungline env --settings` lists all settings."
            raise SettingsError(f"Unknown setting {name}.{hint}")
