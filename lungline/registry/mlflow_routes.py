"""The routes of MLflow that are served: those of a tracking server, a model registry, and its pages.

Not served: assistant, gateway, jobs, webhooks, traces, scorers, prompts, data sets for evaluations, review queues,
workspaces, and whatever a later version adds.
"""

import re

_PREFIX = "/(?:api|ajax-api)/2.0"
_TAGS = r"logged-models/[\w-]+/tags(?:/[^/]+)?"
# Methods, and what follows /api/2.0/mlflow/ (for programs) or /ajax-api/2.0/mlflow/ (for the pages).
_API = (
    ("GET POST", "experiments/search"),
    ("GET", "experiments/(?:get|get-by-name)"),
    ("POST", "experiments/(?:create|delete|restore|update|set-experiment-tag|delete-experiment-tag|search-datasets)"),
    ("GET", "runs/get"),
    ("POST", "runs/(?:create|delete|delete-tag|restore|search|set-tag|update|outputs)"),
    ("POST", "runs/(?:log-batch|log-inputs|log-metric|log-model|log-parameter)"),
    ("GET", "metrics/get-history(?:-bulk|-bulk-interval)?"),
    ("GET", "artifacts/list"),
    ("POST", "logged-models(?:/search)?"),
    ("GET PATCH DELETE", r"logged-models/[\w-]+"),
    ("GET", r"logged-models/[\w-]+/artifacts/(?:directories|files)"),
    ("POST", r"logged-models/[\w-]+/params"),
    ("PATCH DELETE", _TAGS),
    ("GET", "registered-models/(?:get|search)"),
    ("GET POST", "registered-models/get-latest-versions"),
    ("POST", "registered-models/(?:create|rename|set-tag)"),
    ("PATCH", "registered-models/update"),
    ("DELETE", "registered-models/(?:delete|delete-tag)"),
    ("GET POST DELETE", "registered-models/alias"),
    ("GET", "model-versions/(?:get|get-download-uri|search)"),
    ("POST", "model-versions/(?:create|set-tag|transition-stage)"),
    ("PATCH", "model-versions/update"),
    ("DELETE", "model-versions/(?:delete|delete-tag)"),
)
_ROUTES = tuple(
    (frozenset(methods.split()), re.compile(path))
    for methods, path in (
        *((methods, f"{_PREFIX}/mlflow/{path}") for methods, path in _API),
        ("GET", f"{_PREFIX}/mlflow-artifacts/artifacts"),
        ("GET PUT DELETE", f"{_PREFIX}/mlflow-artifacts/artifacts/.+"),
        # Signed with the server's own keys, which open its own bucket only.
        ("GET", f"{_PREFIX}/mlflow-artifacts/presigned/.+"),
        ("POST", f"{_PREFIX}/mlflow-artifacts/mpu/(?:create|complete|abort)/.+"),
        ("GET", "/(?:api|ajax-api)/3.0/mlflow/server-info"),
        ("GET", "/(?:|version|get-artifact|model-versions/get-artifact)"),
        ("GET", "/static-files/.+"),
        # The pages of a run and of an experiment read through it; it changes nothing.
        ("POST", "/graphql"),
    )
)


def is_served(method: str, path: str) -> bool:
    """Whether a method and a decoded path are those of a tracking server or a registry.

    >>> is_served("POST", "/api/2.0/mlflow/runs/create"), is_served("POST", "/api/2.0/mlflow/webhooks")
    (True, False)
    """
    method = "GET" if method == "HEAD" else method
    return any(method in methods and route.fullmatch(path) for methods, route in _ROUTES)
