"""The one place where Lungline is configured.

`Settings()` reads `LUNGLINE_*` from the environment; nested blocks use two underscores (`LUNGLINE_TRAIN__EPOCHS`).
An unknown name is refused with the nearest known one, so that a typing error cannot pass in silence.
"""

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from lungline.errors import SettingsError

PREFIX = "LUNGLINE_"


class Block(BaseModel):
    """A group of settings; frozen, and closed to unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelSettings(Block):
    """The network and what it sees."""

    size: int = Field(default=96, ge=32, le=512, description="Side of the square network input, in pixels.")
    geometry: Literal["stretch", "centre-crop"] = Field(
        default="stretch", description="How a picture that is not square becomes square."
    )
    normalisation: Literal["none", "equalise", "stretch-percentiles"] = Field(
        default="equalise", description="How grey levels are normalised, so that exposure matters less."
    )
    width: int = Field(default=64, ge=4, le=256, description="Channels of the last layer before the map of evidence.")
    start: Literal["imagenet", "random"] = Field(
        default="imagenet", description="Weights that training starts from; random needs many more epochs."
    )
    dropout: float = Field(
        default=0.3, ge=0, lt=1, description="Share of features dropped before the last layer in training."
    )


class TrainSettings(Block):
    """One training run."""

    epochs: int = Field(default=6, ge=1, le=1000, description="Passes over the training split.")
    batch: int = Field(default=32, ge=2, le=4096, description="Images in one step, half of them of each class.")
    learning_rate: float = Field(default=1e-3, gt=0, lt=1, description="Peak of the cosine schedule.")
    weight_decay: float = Field(default=1e-4, ge=0, lt=1, description="AdamW's weight decay.")
    smoothing: float = Field(default=0.05, ge=0, lt=0.5, description="Label smoothing of the loss.")
    average: float = Field(
        default=0.99, ge=0, lt=1, description="Decay a step of the running average of the weights that is kept."
    )
    augment: float = Field(default=1.0, ge=0, le=3, description="Strength of the augmentation; 0 turns it off.")
    seed: int = Field(default=7, ge=0, description="Seeds shuffling, augmentation and weights.")
    sensitivity: float = Field(
        default=0.97, gt=0, le=1, description="Sensitivity outside the Unsure band that the thresholds aim at."
    )
    specificity: float = Field(
        default=0.95, gt=0, le=1, description="Specificity outside the Unsure band that the thresholds aim at."
    )
    unsure: float = Field(default=0.15, ge=0, lt=1, description="Largest share of pictures in the Unsure band.")


class GateSettings(Block):
    """What a model must reach on the test split before it may be registered.

    The floors are below what every run of the default recipe has reached on X-rays and above what a broken one reaches:
    a wrong decoder, swapped labels or a training that diverged. Better than the champion is asked by `margin`.
    """

    auc: float = Field(default=0.95, ge=0, le=1, description="Least area under the ROC curve.")
    accuracy: float = Field(default=0.85, ge=0, le=1, description="Least accuracy at the operating point.")
    sensitivity: float = Field(
        default=0.80, ge=0, le=1, description="Least sensitivity at the operating point: a missed pneumonia harms most."
    )
    specificity: float = Field(
        default=0.75, ge=0, le=1, description="Least specificity at the operating point: too many alarms are not read."
    )
    ece: float = Field(
        default=0.08, ge=0, le=1, description="Largest expected calibration error; more, and a risk is no risk."
    )
    unsure_rate: float = Field(
        default=0.25, ge=0, le=1, description="Largest share of pictures in the Unsure band, which readers must judge."
    )
    refused: float = Field(default=0.02, ge=0, le=1, description="Largest share of pictures refused or doubted.")
    margin: float = Field(default=0.01, ge=0, le=1, description="AUC that a challenger may lose against the champion.")


class WorklistSettings(Block):
    """The page that readers keep open."""

    database: SecretStr | None = Field(
        default=None, description="SQLAlchemy address of the database; empty keeps SQLite in the home folder."
    )
    uri: str | None = Field(
        default=None, description="Address that people reach the worklist at; links in notices start with it."
    )
    hosts: str = Field(
        default="127.0.0.1,localhost,[::1]", description="Host names that requests may be addressed to, with commas."
    )
    event_token: SecretStr | None = Field(
        default=None, description="Bearer token that senders of events must show; empty asks for none."
    )
    secret: SecretStr | None = Field(
        default=None, description="What cookies are signed with; empty makes one in the home folder."
    )
    login: Literal["token", "oidc"] = Field(
        default="token", description="How people sign in: by a link that works once, or at an OpenID provider."
    )
    oidc_issuer: str | None = Field(default=None, description="Address of the OpenID provider.")
    oidc_client_id: str | None = Field(default=None, description="What the OpenID provider calls this worklist.")
    oidc_client_secret: SecretStr | None = Field(
        default=None, description="The secret that the OpenID provider gave this worklist."
    )
    oidc_role_claim: str = Field(default="groups", description="Claim of the identity that names a person's groups.")
    oidc_reader_group: str | None = Field(
        default=None, description="Group whose members may read; empty lets everybody in whom the provider knows."
    )
    oidc_admin_group: str | None = Field(
        default=None, description="Group whose members may also export and see the audit log; empty means nobody."
    )
    session_hours: float = Field(default=12, gt=0, le=168, description="Hours until a person must sign in again.")
    notice_rules: Path | None = Field(
        default=None, description="TOML file of the rules that send notices; empty writes to a file in the home folder."
    )
    notice_max_age: float = Field(
        default=60, gt=0, description="Minutes after which a late result sends no notice any more."
    )
    patient_pattern: str | None = Field(
        default=None,
        description="Regular expression whose first group is the patient in an object's key; empty takes its folder.",
    )
    retrain_labels: int = Field(
        default=50, ge=1, description="New labels from readers after which a training run is due."
    )


class MonitorSettings(Block):
    """Watching whether the field still looks like the validation pictures."""

    window: int = Field(
        default=200, ge=50, le=1000, description="Results that are compared with the reference at once."
    )
    alarm_rate: float = Field(
        default=0.01, ge=0.006, le=0.2, description="Share of windows of an unchanged world that may raise an alarm."
    )
    days: float = Field(default=7, gt=0, le=366, description="How many days back monitoring looks.")
    minutes: float = Field(
        default=60, ge=0, description="Minutes between two looks of the laptop stack at the field; 0 turns them off."
    )


class RetrainSettings(Block):
    """When monitoring starts a training run by itself."""

    rule: Literal["off", "drift", "feedback", "either"] = Field(
        default="off", description="What starts a training run: drift of the champion's field, new labels, or either."
    )
    windows: int = Field(default=2, ge=1, le=20, description="Windows in a row that must have an alarm.")
    cooldown_days: float = Field(default=7, gt=0, description="Days between two runs that the rule starts.")


class Settings(BaseSettings):
    """Everything that can be set, with its default; frozen."""

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
    feedback: str | None = Field(
        default=None,
        description="Labels of readers to merge into the training data: a folder, a zip, s3://, or worklist.",
    )
    offline: bool = Field(default=False, description="Never download data; `auto` then falls back to phantoms at once.")

    s3_endpoint: str | None = Field(
        default=None, description="Address of the object store; empty starts the embedded one."
    )
    s3_region: str = Field(default="us-east-1", description="Region that requests to the object store are signed for.")
    s3_access_key: SecretStr | None = Field(default=None, description="Access key; empty uses boto3's own search.")
    s3_secret_key: SecretStr | None = Field(default=None, description="Secret key; empty uses boto3's own search.")
    uploads_bucket: str = Field(default="xray-uploads", description="Bucket that imaging equipment uploads to.")
    results_bucket: str = Field(default="lungline-results", description="Bucket of result records and heatmaps.")
    models_bucket: str = Field(default="lungline-models", description="Bucket of model packages and promotion history.")
    mlflow_bucket: str = Field(default="lungline-mlflow", description="Bucket of MLflow's artifacts.")
    research_bucket: str = Field(
        default="lungline-research", description="Bucket of unsure images without whatever tells who was X-rayed."
    )
    research_secret: SecretStr | None = Field(
        default=None, description="What pseudonyms in the research bucket are keyed with; empty makes one in the home."
    )

    kafka_bootstrap: str | None = Field(
        default=None, description="Kafka bootstrap servers; empty starts the embedded broker."
    )
    kafka_username: str | None = Field(
        default=None, description="User that Kafka clients log in as, by SCRAM over TLS; empty logs nobody in."
    )
    kafka_password: SecretStr | None = Field(default=None, description="Password of the Kafka user.")
    kafka_ca: Path | None = Field(
        default=None,
        description="File of the authority that vouches for the Kafka brokers; empty trusts the system's.",
    )
    uploads_topic: str = Field(default="xray-uploads", description="Topic of upload events.")
    results_topic: str = Field(default="xray-results", description="Topic of result events.")
    dead_letters_topic: str = Field(
        default="xray-dead-letters", description="Topic of events that could not be handled."
    )

    mlflow_uri: str | None = Field(default=None, description="Address of the MLflow server; empty starts one.")
    predictor_uri: str | None = Field(
        default=None, description="Address of the predictor that a promotion waits for; empty starts one."
    )
    experiment: str = Field(default="pneumonia", description="MLflow experiment of training runs.")
    model_name: str = Field(
        default="pneumonia", description="Name of the model in MLflow, KServe and the models bucket."
    )

    log_format: Literal["text", "json"] = Field(
        default="text", description="Log lines for a person or for a machine; both carry the identity of the upload."
    )
    otlp_endpoint: str | None = Field(
        default=None,
        description="Address of an OpenTelemetry collector (OTLP over HTTP, port 4318) that traces go to; empty: none.",
    )
    prometheus: bool = Field(
        default=False, description="Start a Prometheus beside the laptop stack, where the program is installed."
    )
    image_max_bytes: int = Field(default=64 * 2**20, ge=1, description="Largest image file that is judged, in bytes.")
    image_max_pixels: int = Field(default=64_000_000, ge=1, description="Largest image that is judged, in pixels.")
    image_min_side: int = Field(default=28, ge=1, description="Shortest side of an image that is judged, in pixels.")

    deployment: Literal["laptop", "cluster"] = Field(
        default="laptop", description="Where models serve: the laptop stack's predictor, or an InferenceService."
    )
    kube_context: str | None = Field(
        default=None,
        description="Context of the kubeconfig that names the cluster; empty takes a pod's own, else the current.",
    )
    prometheus_uri: str | None = Field(
        default=None, description="Address of the Prometheus that a canary is watched through."
    )
    policy: Literal["auto", "manual"] = Field(
        default="auto", description="Who promotes: the gate alone, or a named person."
    )
    kfp_image: str = Field(
        default="ghcr.io/lungline/pipeline-python:0.1.0",
        description="Image that every pipeline step runs in on a cluster.",
    )
    kfp_host: str | None = Field(default=None, description="Address of the Kubeflow Pipelines server.")
    kfp_namespace: str | None = Field(
        default=None, description="Namespace of the runs on a Kubeflow Pipelines server of several users."
    )
    kfp_token: SecretStr | None = Field(
        default=None, description="Bearer token that a Kubeflow Pipelines server of several users asks for."
    )

    model: ModelSettings = Field(default_factory=ModelSettings, description="The network.")
    train: TrainSettings = Field(default_factory=TrainSettings, description="One training run.")
    gate: GateSettings = Field(default_factory=GateSettings, description="What a model must reach.")
    worklist: WorklistSettings = Field(default_factory=WorklistSettings, description="The page that readers keep open.")
    monitor: MonitorSettings = Field(default_factory=MonitorSettings, description="Watching for drift.")
    retrain: RetrainSettings = Field(default_factory=RetrainSettings, description="When training starts by itself.")


def known_names() -> Iterator[str]:
    """Dotted names of all settings, such as `home` and `train.epochs`."""
    return (name for name, _ in _fields(Settings))


def described() -> Iterator[tuple[str, Any, str]]:
    """Dotted name, default and description of every setting."""
    return ((name, field.get_default(), str(field.description)) for name, field in _fields(Settings))


def _fields(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{before}{name}.")
        else:
            yield before + name, field


def variable(name: str) -> str:
    """The environment variable of a dotted setting name: `train.epochs` is `LUNGLINE_TRAIN__EPOCHS`."""
    return PREFIX + name.replace(".", "__").upper()


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Settings from the environment, then `overrides` by dotted name (`{"train.epochs": 5}`).

    Raises SettingsError, which names the setting, for an unknown name or a value out of range.
    """
    names = list(known_names())
    _refuse_unknown([name for name in os.environ if name.startswith(PREFIX)], [variable(name) for name in names])
    _refuse_unknown(list(overrides or {}), names)
    values: dict[str, Any] = {}
    for name, value in (overrides or {}).items():
        block, _, leaf = name.rpartition(".")
        (values.setdefault(block, {}) if block else values)[leaf] = value
    try:
        return Settings(**values)
    except ValidationError as exc:
        # The value itself stays out of the message: it may be a secret.
        problems = (f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors())
        raise SettingsError(f"Setting refused: {'; '.join(problems)}.") from exc


def _refuse_unknown(given: list[str], known: list[str]) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else " `lungline env --settings` lists the known ones."
            raise SettingsError(f"Unknown setting {name}.{hint}")
