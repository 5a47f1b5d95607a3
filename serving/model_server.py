"""KServe's ModelServer, its protocol endpoints and metrics, with our inference routes."""

import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.responses import JSONResponse

import lungline.errors
from lungline.diagnosis.diagnoser import Diagnoser
from serving import openapi
from serving.app import InferenceApp
from serving.endpoints import Endpoints
from serving.kserve_imports import lean_kserve
from serving.model_loader import ModelLoader

with lean_kserve():
    from kserve.errors import ModelNotFound, ModelNotReady, ServerNotReady
    from kserve.model import Model
    from kserve.model_server import ModelServer
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.rest.server import RESTServer, metrics_handler
    from kserve.protocol.rest.v1_endpoints import V1Endpoints
    from kserve.protocol.rest.v2_endpoints import V2Endpoints

# Knative and the laptop's supervisor allow 5 s in all.
STOP_SECONDS = 4


class PneumoniaModel(Model):
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
    """KServe's data plane, ready only when its model is; KServe's own says ready at once."""

    def __init__(self, registry: Any, loader: ModelLoader) -> None:
        super().__init__(model_registry=registry)
        self._loader = loader

    async def ready(self) -> bool:
        return self._loader.ready


class _RESTServer(RESTServer):
    """KServe's HTTP server with our app: its own inference endpoints have neither body limits nor threads."""

    def __init__(self, app: InferenceApp, host: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("", *args, **kwargs)
        self.config.app = app
        self.config.host = host
        self.config.access_log = False
        self.config.server_header = False
        self.config.proxy_headers = False

    def create_application(self) -> None:
        """Do nothing: the app is passed in."""


class PredictorServer(ModelServer):
    """The model server; `run` returns after SIGTERM or SIGINT, when the requests in flight have been answered."""

    def __init__(self, endpoints: Endpoints, pool: ThreadPoolExecutor, host: str, port: int, max_body: int) -> None:
        super().__init__(http_port=port, enable_grpc=False, workers=1, grace_period=STOP_SECONDS)
        self.dataplane = _DataPlane(self.registered_models, endpoints.loader)
        self.register_model(PneumoniaModel(endpoints.name, endpoints.loader))
        self._app = InferenceApp(endpoints.routes(), _protocol(endpoints, self.dataplane), pool, max_body)
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
        rest.run()


def _protocol(endpoints: Endpoints, dataplane: DataPlane) -> FastAPI:
    """KServe's protocol beside inference: liveness, readiness, metadata and metrics; and the openapi."""
    about = {"title": "Lungline predictor", "description": openapi.ABOUT, "version": openapi.VERSION}
    app = FastAPIOffline(**about)  # hospitals' networks do not reach the CDN that FastAPI's own page loads from
    v1, v2 = V1Endpoints(dataplane), V2Endpoints(dataplane)

    async def model_ready(model_name: str) -> Any:
        """Without KServe's parameter for a version, which it answers with 500."""
        return await v2.model_ready(model_name)

    routes = {
        "/": dataplane.live,
        "/metrics": metrics_handler,
        "/v1/models": v1.models,
        f"/v1/models/{endpoints.name}": lambda: readiness(endpoints.name, endpoints.loader.current()),
        "/v2": v2.metadata,
        "/v2/health/live": v2.live,
        "/v2/health/ready": v2.ready,
        "/v2/models": v2.models,
        f"/v2/models/{endpoints.name}": lambda: metadata(endpoints.name, endpoints.loader.current()),
        "/v2/models/{model_name}/ready": model_ready,
    }
    for path, handler in routes.items():
        app.add_api_route(path, handler, methods=["GET"], response_model=None, tags=["KServe"], name=path)
    # A supervisor polls readiness several times a second: these errors need no log lines.
    for error, status in (
        (ServerNotReady, 503),
        (ModelNotReady, 503),
        (lungline.errors.ModelNotReady, 503),
        (ModelNotFound, 404),
    ):
        app.add_exception_handler(error, lambda _, exc, status=status: JSONResponse({"error": str(exc)}, status))
    _document(app, openapi.inference_paths(endpoints.name))
    return app


def _document(app: FastAPI, paths: dict[str, dict[str, Any]]) -> None:
    """Add the paths that FastAPI does not serve to its OpenAPI schema."""
    generate = app.openapi

    def schema_with_paths() -> dict[str, Any]:
        schema = generate()
        schema["paths"] = paths | schema["paths"]
        components = schema.setdefault("components", {})
        components["schemas"] = openapi.SCHEMAS | components.get("schemas", {})
        return schema

    app.openapi = schema_with_paths


def readiness(name: str, diagnoser: Diagnoser) -> dict[str, Any]:
    """V1: whether the model is ready, and which package serves."""
    return {"name": name, "ready": True, "version": diagnoser.version, "sha256": diagnoser.package.sha256}


def metadata(name: str, diagnoser: Diagnoser) -> dict[str, Any]:
    """V2: the inputs and outputs of the model, and which package serves."""
    return {
        "name": name,
        "versions": [diagnoser.version],
        "platform": "litert",
        "inputs": openapi.INPUTS,
        "outputs": openapi.OUTPUTS,
        "sha256": diagnoser.package.sha256,
        "run_id": diagnoser.package.card.mlflow_run_id,
        "synthetic": diagnoser.package.card.synthetic,
    }
