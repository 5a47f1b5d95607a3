"""Runs on a Kubeflow Pipelines server: kfp's real client against a server made small."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from cli import main
from components.step_events import Event
from lungline.errors import DataError, LunglineError, PipelineFailed, SettingsError
from lungline.settings import Settings, load_settings, variable
from lungline.task.reading import load_task
from lungline.task.task import Task
from lungline.task.writing import begin
from pipelines.arguments import STEPS
from pipelines.compile import compile_pipeline
from pipelines.resources import ADDRESSES, MLFLOW_SECRET, SECRET, SERVICE_ACCOUNT, SETTINGS_MAP, SITE_SECRET, shares
from pipelines.server import KfpServer, PipelinesUnavailable
from pipelines.submit import schedule, submit
from tests.support.manifests_of import MANIFESTS, generated_secrets
from tests.support.pipelines_server import PipelinesServer, running_pipelines_server

# kfp-server-api leaves its thread pool's sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def kubeflow() -> Iterator[PipelinesServer]:
    with running_pipelines_server() as running:
        yield running


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline and what it asks of Kubernetes, as they are uploaded."""
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    in_thread(lambda: compile_pipeline(path, load_settings()))
    pipeline, platform = yaml.safe_load_all(path.read_text())
    return pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def in_thread(call: Callable[[], Any]) -> Any:
    """Call it on a short stack: kfp reads the source of every frame at each property of a step, and pytest has many."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()


def settings(**overrides: Any) -> Settings:
    return load_settings({"data": "medmnist:28", **overrides})


def run(kubeflow: PipelinesServer, chosen: Settings | None = None, **options: Any) -> Any:
    server = KfpServer(kubeflow.host)
    return in_thread(lambda: submit(chosen or settings(), server, poll_seconds=0.01, **options))


# ---------------------------------------------------------------------------------------------------- what is uploaded


def test_every_step_has_its_image_memory_time_and_another_try(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    pipeline, platform = compiled
    executors = pipeline["deploymentSpec"]["executors"]
    of_step = shares(load_settings().training_pod)
    assert set(executors) == {f"exec-{name}" for name in of_step}
    assert {name.replace("-", "_") for name in of_step} == set(STEPS)
    for name, executor in executors.items():
        container, share = executor["container"], of_step[name.removeprefix("exec-")]
        assert container["image"] == load_settings().kfp_image
        assert container["resources"]["resourceMemoryLimit"] == share.memory[1]
        assert container["resources"]["resourceCpuRequest"] == share.cpu[0]
        assert platform[name]["activeDeadlineSeconds"] == str(share.seconds)
        assert platform[name]["securityContext"]["runAsNonRoot"] is True
    tasks = {name: task for dag in _dags(pipeline) for name, task in dag["tasks"].items() if name in of_step}
    assert {name: task["retryPolicy"]["maxRetryCount"] for name, task in tasks.items()} == {
        name: share.retries for name, share in of_step.items()
    }


def compiled_step(path: Path, **pod: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Resources of the training step's container, and what it asks of Kubernetes, with settings of its pod."""
    chosen = load_settings({f"training_pod.{name}": value for name, value in pod.items()})
    in_thread(lambda: compile_pipeline(path, chosen))
    pipeline, platform = yaml.safe_load_all(path.read_text())
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    container = pipeline["deploymentSpec"]["executors"]["exec-train"]["container"]
    others = [step for name, step in kubernetes.items() if name != "exec-train"]
    assert not any({"nodeSelector", "tolerations"} & set(step) for step in others)
    return container["resources"], kubernetes["exec-train"]


def test_the_training_step_asks_for_what_its_settings_say(tmp_path: Path) -> None:
    """Requests, limits, a GPU, and nodes; only the training step."""
    resources, kubernetes = compiled_step(
        tmp_path / "gpu.yaml",
        cpu_request="500m",
        cpu_limit="8",
        memory_request="1Gi",
        memory_limit="16Gi",
        gpus=1,
        node_selector="pool=training,topology.kubernetes.io/zone=a",
    )
    assert (resources["resourceCpuRequest"], resources["resourceCpuLimit"]) == ("500m", "8")
    assert (resources["resourceMemoryRequest"], resources["resourceMemoryLimit"]) == ("1Gi", "16Gi")
    assert resources["accelerator"].items() >= {"resourceType": "nvidia.com/gpu", "resourceCount": "1"}.items()
    assert kubernetes["nodeSelector"]["labels"] == {"pool": "training", "topology.kubernetes.io/zone": "a"}
    assert kubernetes["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_without_settings_the_training_step_takes_any_node(tmp_path: Path) -> None:
    resources, kubernetes = compiled_step(tmp_path / "plain.yaml")
    assert "accelerator" not in resources
    assert not {"nodeSelector", "tolerations"} & set(kubernetes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cpu_request", "5"),
        ("memory_request", "7Gi"),
        ("cpu_limit", "many"),
        ("memory_limit", "6"),
        ("node_selector", "a"),
    ],
)
def test_resources_that_kubernetes_would_refuse_are_refused(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match="training_pod"):
        load_settings({f"training_pod.{name}": value})


def test_every_step_gets_its_addresses_and_credentials(
    compiled: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    """They come from the config map and the secret that the manifests create."""
    secrets = {
        item["metadata"]["name"]: set(item["stringData"])
        for item in generated_secrets()
        if item["metadata"]["namespace"] == "kubeflow"
    }
    provided = {line.partition("=")[0] for line in (MANIFESTS / "base/settings.env").read_text().split()}
    assert {variable(name) for name in ADDRESSES} <= provided
    for step in compiled[1].values():
        (from_map,), from_secrets = step["configMapAsEnv"], step["secretAsEnv"]
        assert from_map["configMapName"] == SETTINGS_MAP
        assert [source["secretName"] for source in from_secrets if source.get("optional")] == [SITE_SECRET]
        assert {source["secretName"] for source in from_secrets} == {SECRET, MLFLOW_SECRET, SITE_SECRET}
        for source in from_secrets:
            assert {entry["secretKey"] for entry in source["keyToEnv"]} <= secrets[source["secretName"]]
        names = {entry["envVar"] for source in (from_map, *from_secrets) for entry in source["keyToEnv"]}
        logins = ("s3_access_key", "s3_secret_key", "mlflow_username", "mlflow_password", "site_key")
        assert names == {variable(name) for name in (*ADDRESSES, *logins)}


def test_no_secret_is_in_what_is_uploaded(kubeflow: PipelinesServer) -> None:
    run(kubeflow, settings(s3_secret_key="c2VjcmV0LXZhbHVl", s3_access_key="QUNDRVNT"), wait=False)
    sent = kubeflow.uploads[0] + str(kubeflow.runs)
    assert "c2VjcmV0LXZhbHVl" not in sent
    assert "QUNDRVNT" not in sent


def test_a_pipeline_that_has_not_changed_is_not_uploaded_again(kubeflow: PipelinesServer) -> None:
    first, second = run(kubeflow, wait=False), run(kubeflow, wait=False)
    assert (first.uploaded, second.uploaded) == (True, False)
    assert first.version == second.version
    changed = settings(kfp_image="registry.example.org/pipeline-python:2")
    third, fourth = run(kubeflow, changed, wait=False), run(kubeflow, changed, wait=False)
    assert (third.uploaded, fourth.uploaded) == (True, False)
    assert third.version not in {first.version, ""}
    assert len(kubeflow.uploads) == 2
    assert len(kubeflow.pipelines) == 1
    assert "registry.example.org/pipeline-python:2" in kubeflow.uploads[1]


# --------------------------------------------------------------------------------------------------------------- a run


def test_a_run_is_followed_step_by_step_to_its_end(kubeflow: PipelinesServer) -> None:
    events: list[Event] = []
    done = run(kubeflow, on_event=events.append)
    assert done.state == "SUCCEEDED"
    assert done.link == f"{kubeflow.host}/#/runs/details/{done.run}"
    assert events[0].text == done.link
    assert [event.step for event in events if event.kind == "done"] == list(STEPS)
    assert [event.step for event in events if event.kind == "started"] == ["run", *STEPS]
    assert {event.seconds for event in events if event.kind == "done"} == {30.0}


def test_a_run_gets_the_settings_and_our_service_account(kubeflow: PipelinesServer) -> None:
    run(kubeflow, settings(policy="manual", **{"train.epochs": 3}), wait=False, reuse=False)
    (request,) = kubeflow.runs.values()
    parameters = request["runtime_config"]["parameters"]
    assert parameters["data"] == "medmnist:28"
    assert parameters["policy"] == "manual"
    assert parameters["train"]["epochs"] == 3
    assert request["service_account"] == SERVICE_ACCOUNT
    assert request["pipeline_version_reference"]["pipeline_version_id"] == kubeflow.versions[-1]["pipeline_version_id"]


def test_a_step_that_fails_is_named_with_its_cause(kubeflow: PipelinesServer) -> None:
    kubeflow.fails = "train"
    events: list[Event] = []
    with pytest.raises(PipelineFailed, match=r"^Step train failed: the data has changed\. Its log is at http://"):
        run(kubeflow, on_event=events.append)
    assert events[-1].kind == "failed"


def test_a_short_outage_of_the_server_is_survived(kubeflow: PipelinesServer) -> None:
    def away(event: Event) -> None:
        if event.step == "train" and event.kind == "started":
            kubeflow.refusals = 3

    assert run(kubeflow, on_event=away).state == "SUCCEEDED"


def test_events_may_be_printed(kubeflow: PipelinesServer, capsys: pytest.CaptureFixture[str]) -> None:
    run(kubeflow, on_event=lambda event: print(event.step, event.kind))
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "run started"
    assert not [line for line in shown if "details" in line], "kfp's own links stay out"


# ---------------------------------------------------------------------------------------------------------- a schedule


def test_a_schedule_takes_the_place_of_the_one_before(kubeflow: PipelinesServer) -> None:
    first = schedule(settings(), KfpServer(kubeflow.host), "0 3 * * 1")
    assert first.cron == "0 0 3 * * 1", "Kubeflow's cron begins with seconds"
    assert first.replaced == 0
    second = schedule(settings(), KfpServer(kubeflow.host), "30 2 * * *")
    assert second.replaced == 1
    (kept,) = kubeflow.schedules
    assert kept["recurring_run_id"] == second.schedule
    assert kept["trigger"]["cron_schedule"]["cron"] == "0 30 2 * * *"
    assert int(kept["max_concurrency"]) == 1
    assert kept["no_catchup"] is True


@pytest.mark.parametrize("cron", ["", "hourly", "0 3 * *", "0 0 3 * * 1", "0 3 * * $(id)"])
def test_what_is_no_schedule_is_refused(kubeflow: PipelinesServer, cron: str) -> None:
    with pytest.raises(SettingsError, match="five fields"):
        schedule(settings(), KfpServer(kubeflow.host), cron)
    assert kubeflow.uploads == []


# -------------------------------------------------------------------------------------------------------- another task


@pytest.fixture
def rib_fracture(tmp_path: Path) -> Settings:
    file = tmp_path / "rib-fracture.toml"
    file.write_text(begin("rib-fracture", "binary"))
    return settings(task=str(file))


def test_another_task_has_a_pipeline_and_a_model_of_its_own(kubeflow: PipelinesServer, rib_fracture: Settings) -> None:
    """Its steps need no task file, and never the names that the config map has for the default task."""
    run(kubeflow, wait=False)
    run(kubeflow, rib_fracture, wait=False)
    assert [pipeline["display_name"] for pipeline in kubeflow.pipelines] == [
        "pneumonia-training",
        "rib-fracture-training",
    ]
    assert [experiment["display_name"] for experiment in kubeflow.experiments] == ["pneumonia", "rib-fracture"]
    pipeline, platform = yaml.safe_load_all(kubeflow.uploads[1])
    own = {"LUNGLINE_MODEL_NAME": "rib-fracture", "LUNGLINE_EXPERIMENT": "rib-fracture"}
    for executor in pipeline["deploymentSpec"]["executors"].values():
        assert {entry["name"]: entry["value"] for entry in executor["container"]["env"]} == own
    for step in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        (from_map,) = step["configMapAsEnv"]
        names = {entry["envVar"] for entry in from_map["keyToEnv"]}
        assert names == {variable(name) for name in ADDRESSES} - set(own)
    *_, request = kubeflow.runs.values()
    assert Task.model_validate(request["runtime_config"]["parameters"]["task"]) == load_task(rib_fracture.task)
    # A run that somebody starts on the server's page trains the same task.
    defaults = pipeline["root"]["inputDefinitions"]["parameters"]
    assert Task.model_validate(defaults["task"]["defaultValue"]) == load_task(rib_fracture.task)
    assert pipeline["pipelineInfo"]["name"] == "rib-fracture-training"


def test_each_task_has_a_schedule_of_its_own(kubeflow: PipelinesServer, rib_fracture: Settings) -> None:
    for chosen in (settings(), rib_fracture, rib_fracture):
        schedule(chosen, KfpServer(kubeflow.host), "0 3 * * 1")
    assert sorted(kept["display_name"] for kept in kubeflow.schedules) == [
        "pneumonia-training",
        "rib-fracture-training",
    ]


# ---------------------------------------------------------------------------------------------------- the command line


def lungline(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["lungline", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return int(ended.value.code or 0)


def test_a_person_trains_on_the_server_of_several_users(
    kubeflow: PipelinesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kubeflow.token = "of-the-user"
    (tmp_path / "token").write_text("of-the-user\n")
    where = ("--on", "kfp", "--host", kubeflow.host, "--kfp-token-file", str(tmp_path / "token"))
    what = ("--kfp-namespace", "radiology", "--service-account", "trainer", "--data", "medmnist:28", "--json")
    assert lungline(monkeypatch, "train", *where, *what, "--no-wait") == 0
    output = json.loads(capsys.readouterr().out)
    assert output["link"] == f"{kubeflow.host}/#/runs/details/{output['run']}"
    (request,) = kubeflow.runs.values()
    assert request["service_account"] == "trainer"
    assert kubeflow.experiments[0]["namespace"] == "radiology"
    assert lungline(monkeypatch, "train", *where, *what, "--schedule", "0 3 * * 1") == 0
    assert json.loads(capsys.readouterr().out)["cron"] == "0 0 3 * * 1"


def test_server_and_token_may_be_settings(
    kubeflow: PipelinesServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kubeflow.token = "of-the-user"
    monkeypatch.setenv("LUNGLINE_KFP_HOST", kubeflow.host)
    monkeypatch.setenv("LUNGLINE_KFP_TOKEN", "of-the-user")
    assert lungline(monkeypatch, "train", "--on", "kfp", "--data", "medmnist:28", "--no-wait") == 0
    assert "continues on the server" in capsys.readouterr().out


def test_what_compile_writes_is_what_is_uploaded(
    kubeflow: PipelinesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lungline(monkeypatch, "compile", "-o", str(tmp_path / "pipeline.yaml")) == 0
    assert (
        lungline(monkeypatch, "train", "--on", "kfp", "--host", kubeflow.host, "--data", "medmnist:28", "--no-wait")
        == 0
    )
    assert (tmp_path / "pipeline.yaml").read_text() in kubeflow.uploads[0]


@pytest.mark.parametrize(
    ("arguments", "why"), [(["--on", "kfp"], "needs --host"), (["--schedule", "0 3 * * 1"], "add --on kfp")]
)
def test_a_missing_option_is_named(
    arguments: list[str], why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lungline(monkeypatch, "train", *arguments) == 2
    assert why in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("data", ["/home/me/xrays", "chest_xray.zip", "~/x.npz"])
def test_data_unreadable_for_a_cluster_are_refused(kubeflow: PipelinesServer, data: str) -> None:
    """Nothing is uploaded."""
    with pytest.raises(DataError, match="s3://bucket/prefix"):
        run(kubeflow, settings(data=data))
    assert kubeflow.uploads == []


def test_a_server_of_several_users_gets_token_and_namespace(kubeflow: PipelinesServer) -> None:
    kubeflow.token = "of-the-user"
    server = KfpServer(kubeflow.host, namespace="radiology", token=SecretStr("of-the-user"))
    assert submit(settings(), server, wait=False).uploaded
    assert kubeflow.experiments[0]["namespace"] == "radiology"
    with pytest.raises(LunglineError, match="check the token and the namespace") as refused:
        submit(settings(), KfpServer(kubeflow.host, token=SecretStr("wrong-one")), wait=False)
    assert "wrong-one" not in str(refused.value)


def test_a_server_that_is_not_there_is_unavailable_at_once() -> None:
    with pytest.raises(PipelinesUnavailable, match="port-forward"):
        submit(settings(), KfpServer("http://127.0.0.1:9"))
    with pytest.raises(SettingsError, match="http:// or https://"):
        submit(settings(), KfpServer("ml-pipeline:8888"))


@pytest.mark.parametrize(("status", "error"), [(503, PipelinesUnavailable), (400, LunglineError)])
def test_the_error_repeats_the_servers_message(kubeflow: PipelinesServer, status: int, error: type[Exception]) -> None:
    kubeflow.refuses, kubeflow.refusals = status, 1
    with pytest.raises(error, match="the stand-in is set to refuse"):
        run(kubeflow)


def _dags(pipeline: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield pipeline["root"]["dag"]
    yield from (component["dag"] for component in pipeline["components"].values() if "dag" in component)


def test_the_account_of_runs_is_the_one_that_may_promote() -> None:
    access = list(yaml.safe_load_all(Path(MANIFESTS / "base/pipeline/access.yaml").read_text()))
    accounts = {document["metadata"]["name"] for document in access if document["kind"] == "ServiceAccount"}
    assert accounts == {SERVICE_ACCOUNT}
