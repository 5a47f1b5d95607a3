"""KServe's ModelServer with our routes: its protocol endpoints, its metrics, its process; our inference."""

import signal
import sys
from typing import Any

from fastapi import FastAPI
from starlette.responses import JSONResponse

from serving import documentation
from serving.app import Predictor, add_error_answers
from serving.champion import Champion
from serving.lean import lean_kserve
from serving.limits import BodyLimit

with lean_kserve():
    from kserve.errors import ModelNotFound, ModelNotReady, ServerNotReady
    from kserve.model import Model
    from kserve.model_server import ModelServer
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.rest.server import RESTServer, metrics_handler
    from kserve.protocol.rest.v1_endpoints import V1Endpoints
    from kserve.protocol.rest.v2_endpoints import V2Endpoints

# Knative and the laptop's supervisor allow 5 s in all.
GRACE_SECONDS = 4


class Pneumonia(Model):
    """What KServe's registry knows of the model: its name, and whether it is ready."""

    def __init__(self, name: str, champion: Champion) -> None:
        super().__init__(name)
        self._champion = champion

    async def healthy(self) -> bool:
        """Whether a package is loaded and tested."""
        return self._champion.ready

    def load(self) -> bool:
        """Nothing: the champion's own watch loads."""
        return self._champion.ready


class _DataPlane(DataPlane):
    """KServe's data plane, ready only when its model is; KServe's own says ready at once."""

    def __init__(self, registry: Any, champion: Champion) -> None:
        super().__init__(model_registry=registry)
        self._champion = champion

    async def ready(self) -> bool:
        return self._champion.ready


class _RESTServer(RESTServer):
    """KServe's HTTP server on our app: its inference endpoints know neither body limits nor threads."""

    def __init__(self, app: FastAPI, host: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("", *args, **kwargs)
        self.config.app = app
        self.config.host = host
        self.config.access_log = False
        self.config.server_header = False

    def create_application(self) -> None:
        """Nothing: the app comes complete."""


class Server(ModelServer):
    """The model server; `run` returns after SIGTERM or SIGINT, when what was under way has been answered."""

    def __init__(self, predictor: Predictor, host: str, port: int) -> None:
        super().__init__(http_port=port, enable_grpc=False, workers=1, grace_period=GRACE_SECONDS)
        self.dataplane = _DataPlane(self.registered_models, predictor.champion)
        self.register_model(Pneumonia(predictor.name, predictor.champion))
        self._app = _application(predictor, self.dataplane)
        self._host = host

    def run(self) -> None:
        """Serve until told to stop."""
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
            # uvicorn stops at the signal, and raises it again when it is done: then there is nothing left to do.
            if not rest._server.started:  # noqa: SLF001 - KServe keeps uvicorn's server there
                sys.exit(0)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stopped)
        rest.run()


def _application(predictor: Predictor, dataplane: DataPlane) -> FastAPI:
    app = FastAPI(title="Lungline predictor", description=documentation.ABOUT, version=documentation.VERSION)
    predictor.add_routes(app)
    v1, v2 = V1Endpoints(dataplane), V2Endpoints(dataplane)
    for path, handler in (
        ("/", dataplane.live),
        ("/metrics", metrics_handler),
        ("/v1/models", v1.models),
        ("/v2", v2.metadata),
        ("/v2/health/live", v2.live),
        ("/v2/health/ready", v2.ready),
        ("/v2/models", v2.models),
        ("/v2/models/{model_name}/ready", v2.model_ready),
    ):
        app.add_api_route(path, handler, methods=["GET"], response_model=None, tags=["KServe"])
    add_error_answers(app)
    # A supervisor asks for readiness several times a second: no log lines for these.
    for error, status in ((ServerNotReady, 503), (ModelNotReady, 503), (ModelNotFound, 404)):
        app.add_exception_handler(error, lambda _, exc, status=status: JSONResponse({"error": str(exc)}, status))
    app.add_middleware(BodyLimit, most=predictor.max_body)
    return app
