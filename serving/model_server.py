"""KServe's ModelServer, its protocol endpoints and metrics, with our inference routes."""

import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Scope

import lungline.errors
from lungline.connections import BACKLOG, guarded, most_connections
from lungline.diagnosis.diagnoser import Diagnoser
from lungline.errors import LunglineError
from lungline.events.proof import Receiver
from lungline.events.proof_layer import ProvedEvents
from lungline.listening import listen
from lungline.memory import MemoryBudget
from serving import openapi
from serving.app import InferenceApp, Pools, error_reply
from serving.endpoints import Endpoints
from serving.http import RequestMalformed
from serving.kserve_imports import lean_kserve, models_built_at_first_use
from serving.model_loader import ModelLoader
from serving.origin import is_loopback
from serving.served_models import ServedModels, not_served

with lean_kserve(), models_built_at_first_use():
    from fastapi import FastAPI
    from fastapi import Request as FastAPIRequest
    from fastapi.exceptions import RequestValidationError
    from fastapi_offline import FastAPIOffline
    from kserve.errors import ServerNotReady
    from kserve.model import Model
    from kserve.model_server import ModelServer
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.rest.server import RESTServer, metrics_handler
    from kserve.protocol.rest.v2_endpoints import V2Endpoints

_EVENTS = "application/cloudevents"
STOP_SECONDS = 4
"""How long requests may last after SIGTERM; the laptop's supervisor kills after 5 s.

On Knative no request is left by then: its proxy holds the signal back until it has answered the last one, for at most
the revision's timeout (120 s).
"""


class ServedModel(Model):
    """The model in KServe's registry: its name, and whether it is ready."""

    def __init__(self, name: str, loader: ModelLoader) -> None:
        super().__init__(name)
        self._loader = loader

    async def healthy(self) -> bool:
        """Whether a package is loaded and tested."""
        return self._loader.ready

    def load(self) -> bool:
        """Do nothing: the loader's own thread loads."""
        return self._loader.ready


class _DataPlane(DataPlane):
    """KServe's data plane, ready only when its models are; KServe's own says ready at once."""

    def __init__(self, registry: Any, models: ServedModels) -> None:
        super().__init__(model_registry=registry)
        self._models = models

    async def ready(self) -> bool:
        return self._models.ready


def _http_protocol() -> type[Any]:
    """Uvicorn's own choice."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    return AutoHTTPProtocol


class _RESTServer(RESTServer):
    """KServe's HTTP server with our app: its own inference endpoints have neither body limits nor threads."""

    def __init__(self, app: ASGIApp, host: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("", *args, **kwargs)
        self.config.app = app
        self.config.host = host
        self.config.access_log = False
        self.config.server_header = False
        self.config.proxy_headers = False
        self.config.http = guarded(_http_protocol(), most_connections())
        self.config.backlog = BACKLOG

    def create_application(self) -> None:
        """Do nothing: the app is passed in."""


class PredictorServer(ModelServer):
    """The model server; `run` returns after SIGTERM or SIGINT, when the requests in flight have been answered."""

    def __init__(
        self, endpoints: Endpoints, pools: Pools, address: tuple[str, int], max_body: int, memory: MemoryBudget | None
    ) -> None:
        host, port = address
        super().__init__(http_port=port, enable_grpc=False, workers=1, grace_period=STOP_SECONDS)
        models = endpoints.models
        self.dataplane = _DataPlane(self.registered_models, models)
        self.register_model(ServedModel(models.name, models.first))
        app = InferenceApp(
            endpoints.routes(),
            _protocol(endpoints, self.dataplane),
            pools,
            max_body,
            event_paths=endpoints.event_paths,
            memory=memory,
            loopback=is_loopback(host),
        )
        self._app = _proved(app, endpoints)
        self._host = host

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        rest = self._rest_server = _RESTServer(
            self._app,
            self._host,
            self.dataplane,
            self.model_repository_extension,
            self.http_port,
            grace_period=self.grace_period,
            event_loop=self.event_loop,
        )

        def stopped(*_: object) -> None:
            # uvicorn stops at the signal and raises it again when it is done: then nothing is left to do.
            if not rest._server.started:  # noqa: SLF001 - KServe keeps uvicorn's server there
                sys.exit(0)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stopped)
        rest.run([listen(self._host, self.http_port, BACKLOG)])


def _proved(app: InferenceApp, endpoints: Endpoints) -> ASGIApp:
    """The app behind proofs of events, where there is a key for them. Images need none."""
    key, paths = endpoints.upload_events.settings.event_key, endpoints.event_paths
    if key is None:
        return app

    def is_event(scope: Scope) -> bool:
        """What the head does not tell, such as a plain S3 record, the endpoint refuses."""
        headers = Headers(scope=scope)
        marked = any(name.startswith("ce-") for name in headers) or headers.get("content-type", "").startswith(_EVENTS)
        return scope["method"] == "POST" and scope["path"] in paths and marked

    return ProvedEvents(app, Receiver(key.get_secret_value(), "predictor"), is_event)


def _protocol(endpoints: Endpoints, dataplane: DataPlane) -> FastAPI:
    """KServe's protocol beside inference: liveness, readiness, metadata and metrics; and the documentation."""
    about = {"title": "Lungline predictor", "description": openapi.ABOUT, "version": openapi.VERSION}
    app = FastAPIOffline(**about)  # hospitals' networks do not reach the CDN that FastAPI's own page loads from
    v2 = V2Endpoints(dataplane)
    models = endpoints.models
    name = models.name

    def model_ready(model: str) -> dict[str, Any]:
        return readiness(model, models.named(model).current())

    def model_metadata(model: str, version: str | None = None) -> dict[str, Any]:
        loader = models.named(model)
        return metadata(model, loader.serving(version), signed=loader.signed_by is not None)

    def version_ready(model: str, version: str | None = None) -> dict[str, Any]:
        """Instead of KServe's handler, which answers a version with 500."""
        models.named(model).serving(version)
        return {"name": model, "ready": True}

    def first_metadata(version: str) -> dict[str, Any]:
        return model_metadata(name, version)

    def first_ready(version: str) -> dict[str, Any]:
        return version_ready(name, version)

    # Those of the stack's own model are described by its name.
    first: dict[str, Callable[..., Any]] = {
        f"/v1/models/{name}": lambda: model_ready(name),
        f"/v2/models/{name}": lambda: model_metadata(name),
        f"/v2/models/{name}/ready": lambda: version_ready(name),
        f"/v2/models/{name}/versions/{{version}}": first_metadata,
        f"/v2/models/{name}/versions/{{version}}/ready": first_ready,
    }
    by_name: dict[str, Callable[..., Any]] = {
        "/v1/models/{model}": model_ready,
        "/v2/models/{model}": model_metadata,
        "/v2/models/{model}/ready": version_ready,
        "/v2/models/{model}/versions/{version}": model_metadata,
        "/v2/models/{model}/versions/{version}/ready": version_ready,
    }
    routes: dict[str, Callable[..., Any]] = {
        "/": dataplane.live,
        "/metrics": metrics_handler,
        "/v1/models": lambda: {"models": [each for each, _ in models]},
        "/v2": v2.metadata,
        "/v2/health/live": v2.live,
        "/v2/health/ready": v2.ready,
        "/v2/models": lambda: {"models": [each for each, _ in models]},
        **first,
        **by_name,
    }
    for path, handler in routes.items():
        app.add_api_route(path, handler, methods=["GET"], response_model=None, tags=["KServe"], name=path)
    for error in (HTTPException, RequestValidationError, ServerNotReady, LunglineError, Exception):
        app.add_exception_handler(error, partial(_protocol_error, models))
    _document(app, openapi.inference_paths(name))
    return app


def _protocol_error(models: ServedModels, _: FastAPIRequest, exc: Exception) -> Response:
    """The response to an error of these routes, in the form of the inference routes' errors.

    Without a log line: a supervisor polls readiness several times a second.
    """
    if isinstance(exc, HTTPException):
        sentences = {
            404: not_served(models),
            405: "This route takes GET requests only.",
        }
        error = sentences.get(exc.status_code, str(exc.detail))
        return JSONResponse({"error": error}, exc.status_code, exc.headers)
    if isinstance(exc, ServerNotReady):
        exc = lungline.errors.ModelNotReady(str(exc))
    elif isinstance(exc, RequestValidationError):
        exc = RequestMalformed("The request has a parameter that is not valid.")
    reply = error_reply(exc)
    return Response(reply.body, reply.status, reply.headers)


def _document(app: FastAPI, paths: dict[str, dict[str, Any]]) -> None:
    """Add the paths that FastAPI does not serve to its OpenAPI schema."""
    generate = app.openapi

    def schema_with_paths() -> dict[str, Any]:
        schema = generate()
        schema["paths"] = paths | schema["paths"]
        components = schema.setdefault("components", {})
        components["schemas"] = openapi.schemas() | components.get("schemas", {})
        return schema

    app.openapi = schema_with_paths


def readiness(name: str, diagnoser: Diagnoser) -> dict[str, Any]:
    """V1: whether the model is ready, and which package serves."""
    return {"name": name, "ready": True, "version": diagnoser.version, "sha256": diagnoser.package.sha256}


def metadata(name: str, diagnoser: Diagnoser, *, signed: bool) -> dict[str, Any]:
    """V2: the inputs and outputs of the model, and which package serves."""
    return {
        "name": name,
        "versions": [diagnoser.version],
        "platform": "litert",
        "inputs": openapi.INPUTS,
        "outputs": openapi.OUTPUTS,
        "sha256": diagnoser.package.sha256,
        "signed": signed,
        "run_id": diagnoser.package.card.mlflow_run_id,
        "synthetic": diagnoser.package.card.synthetic,
    }
