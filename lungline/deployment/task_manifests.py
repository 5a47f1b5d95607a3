"""The manifests of another task: a kustomize component that puts it beside the default task.

The base serves the default task. Its predictor reads the files of the other tasks from the config map `tasks`, judges
its own uploads, and hands each other upload on to the broker, which delivers it to the one trigger of its task.
"""

from collections.abc import Mapping
from typing import Any

from lungline.deployment.inference_service import base_manifests, component_manifests, render
from lungline.deployment.kserve import NAMESPACE
from lungline.deployment.kubernetes_api import Json
from lungline.errors import TaskError
from lungline.events.handed_on import HANDED_ON_TYPE
from lungline.task.reading import DEFAULT, SUFFIX, parse_task, text_of

CONFIG_MAP, ROLE, JUDGE = "tasks", "promoter", "judge"
"""Names in manifests/base: the files of further tasks, who may promote, and the trigger of uploads."""
_COMPONENT: Json = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component"}
_HEAD = """\
# Written by `lungline task manifests`: write it again after a change of the task. Add to an overlay:
#
#   components:
#     - PATH/TO/THIS/FOLDER
"""


def component_of(spec: str) -> Mapping[str, str]:
    """The files of the component for a task, by their names; `spec` names the task. Raises TaskError."""
    text = text_of(spec)
    task = _further(parse_task(text, spec).name)
    return {
        "kustomization.yaml": _HEAD + _yaml(_kustomization(task)),
        "inference_service.yaml": _yaml(render(task, NAMESPACE)),
        "trigger.yaml": _yaml(trigger_of(task)),
        f"{task}{SUFFIX}": text,
    }


def challenger_component_of(spec: str, component: str) -> Mapping[str, str]:
    """The files of a component for second opinions of a task, as `component_of`, beside the component of that name.

    It has an InferenceService and a trigger of its own; topics, brokers and the way to the worklist it shares.
    """
    task = _further(parse_task(text_of(spec), spec).name)
    name = f"{task}-{component}"
    (service,) = component_manifests(component, "inference_service.yaml")
    (trigger, *_) = component_manifests(component, "triggers.yaml")
    resources = ["inference_service.yaml", "trigger.yaml"]
    return {
        "kustomization.yaml": _HEAD.replace(
            "#   components:\n", f"#   components:\n#     - ../../components/{component}\n"
        )
        + _yaml({**_COMPONENT, "resources": resources}),
        "inference_service.yaml": _yaml({**service, "metadata": {**service["metadata"], "name": name}}),
        "trigger.yaml": _yaml(_for_task(trigger, f"{component}-{task}", task, name)),
    }


def _further(task: str) -> str:
    if task == DEFAULT:
        raise TaskError(f"The base of the manifests serves the task {DEFAULT}; expected another.")
    return task


def trigger_name(task: str) -> str:
    """The trigger of a task's uploads; a consumer group and its offsets are named after it."""
    return JUDGE if task == DEFAULT else f"{JUDGE}-{task}"


def trigger_of(task: str) -> Json:
    """The trigger that takes the uploads of a task to its InferenceService, with the retries of the base's own."""
    (judge,) = (each for each in base_manifests("events", "triggers.yaml") if each["metadata"]["name"] == JUDGE)
    return _for_task(judge, trigger_name(task), task, task)


def _for_task(trigger: Json, name: str, task: str, service: str) -> Json:
    """A trigger of uploads, made to take those of a task to an InferenceService."""
    spec, subscriber = trigger["spec"], trigger["spec"]["subscriber"]
    return {
        **trigger,
        "metadata": {**trigger["metadata"], "name": name, "namespace": NAMESPACE},
        "spec": {
            **spec,
            "filter": {"attributes": {"type": HANDED_ON_TYPE, "task": task}},
            "subscriber": {
                "ref": {**subscriber["ref"], "name": service},
                "uri": f"/v1/models/{task}:predict",
            },
        },
    }


def _kustomization(task: str) -> Json:
    may_promote = {"op": "add", "path": "/rules/0/resourceNames/-", "value": task}
    return {
        **_COMPONENT,
        "resources": ["inference_service.yaml", "trigger.yaml"],
        "configMapGenerator": [
            {"name": CONFIG_MAP, "namespace": NAMESPACE, "behavior": "merge", "files": [f"{task}{SUFFIX}"]}
        ],
        "patches": [{"target": {"kind": "Role", "name": ROLE}, "patch": _yaml([may_promote])}],
    }


def _yaml(value: Any) -> str:
    import yaml

    return yaml.safe_dump(value, sort_keys=False, width=120)
