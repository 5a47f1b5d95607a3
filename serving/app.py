"""The HTTP side: routes, limits, and errors as answers."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from fastapi import FastAPI
from prometheus_client import Counter, Gauge, Histogram
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lungline.errors import EventMalformed, LunglineError, Unavailable
from lungline.events import parse
from lungline.results import ResultRecord
from serving import answers, documentation
from serving.answers import RequestMalformed
from serving.champion import Champion
from serving.deliveries import Deliveries, Reply
from serving.limits import Gate, declared_size

_log = logging.getLogger(__name__)

# Longer than the slowest upload that still ends well (three store calls at their limits), shorter than Knative's limit.
ANSWER_SECONDS = 100.0

RESULTS = Counter("lungline_results_total", "Uploads that were handled, by outcome and label.", ["outcome", "label"])
IN_FLIGHT = Gauge("lungline_in_flight", "Requests that are being judged, or wait for a thread.")
SECONDS = Histogram(
    "lungline_request_seconds",
    "Seconds from the last byte of a request to its answer.",
    ["route"],
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
)


@dataclass(frozen=True, slots=True)
class Predictor:
    """Everything that a request needs; nothing of any request is kept here."""

    name: str
    champion: Champion
    deliveries: Deliveries
    pool: ThreadPoolExecutor
    gate: Gate
    max_body: int

    def add_routes(self, app: FastAPI) -> None:
        """Add the routes that judge; those of the protocol's bookkeeping are KServe's own."""
        for path, handler, method, extra in (
            (f"/v1/models/{self.name}:predict", self.predict, "POST", documentation.PREDICT),
            (f"/v1/models/{self.name}:explain", self.explain, "POST", documentation.EXPLAIN),
            (f"/v2/models/{self.name}/infer", self.infer, "POST", documentation.INFER),
            ("/predict", self.picture, "POST", documentation.PICTURE),
            (f"/v1/models/{self.name}", self.model, "GET", documentation.MODEL),
            (f"/v2/models/{self.name}", self.metadata, "GET", documentation.METADATA),
        ):
            app.add_api_route(path, handler, methods=[method], response_model=None, **extra)

    async def predict(self, request: Request) -> Response:
        """Judge the uploads of an event, or images in the request."""
        return await self._judge(request, "predict", heatmap=False)

    async def explain(self, request: Request) -> Response:
        """The same, with heatmaps in the predictions."""
        return await self._judge(request, "explain", heatmap=True)

    async def infer(self, request: Request) -> Response:
        """Judge the images of a V2 tensor."""
        length = request.headers.get("inference-header-content-length")
        if length is not None and not (length.isascii() and length.isdigit()):
            raise RequestMalformed("Expected the header Inference-Header-Content-Length to be a number of bytes.")
        diagnoser = self.champion.current()
        head = int(length) if length else None
        return await self._work("infer", request, lambda body: _json(answers.tensors(body, head, diagnoser)))

    async def picture(self, request: Request) -> Response:
        """Judge one image."""
        diagnoser = self.champion.current()
        heatmap = request.query_params.get("heatmap", "").lower() in {"1", "true", "yes"}

        def work(data: bytes) -> Response:
            answer = answers.picture(data, diagnoser, heatmap=heatmap)
            return _json(answer, 400 if answer["label"] == "Refused" else 200)

        return await self._work("picture", request, work)

    async def model(self) -> Response:
        """Readiness and identity of the model."""
        diagnoser = self.champion.current()
        sha256 = diagnoser.package.sha256
        return _json({"name": self.name, "ready": True, "version": diagnoser.version, "sha256": sha256})

    async def metadata(self) -> Response:
        """V2 metadata of the model."""
        diagnoser = self.champion.current()
        card = diagnoser.package.card
        return _json(
            {
                "name": self.name,
                "versions": [diagnoser.version],
                "platform": "litert",
                "inputs": documentation.INPUTS,
                "outputs": documentation.OUTPUTS,
                "sha256": diagnoser.package.sha256,
                "run_id": card.mlflow_run_id,
                "synthetic": card.synthetic,
            }
        )

    async def _judge(self, request: Request, route: str, *, heatmap: bool) -> Response:
        received = datetime.now(UTC)
        diagnoser = self.champion.current()

        def work(body: bytes) -> Response:
            value = _event_json(body)
            if isinstance(value, dict) and "instances" in value:
                return _predictions(answers.instances(value, diagnoser, heatmap=heatmap))
            reply, records = self.deliveries.answer(value, len(body), request.headers, diagnoser, received)
            for record in records:
                _note(record, received)
            return _response(reply)

        return await self._work(route, request, work)

    async def _work(self, route: str, request: Request, work: Callable[[bytes], Response]) -> Response:
        """Read the body, then do blocking work with it on a thread; the event loop stays free."""
        with self.gate.hold(declared_size(request.scope, self.max_body)):
            body = await _body(request)
            started = time.perf_counter()
            with IN_FLIGHT.track_inprogress():
                job = asyncio.get_running_loop().run_in_executor(self.pool, work, body)
                response = await asyncio.wait_for(job, ANSWER_SECONDS)
        SECONDS.labels(route).observe(time.perf_counter() - started)
        return response


def add_error_answers(app: FastAPI) -> None:
    """Turn errors into answers: one sentence, and the status that Knative's retry rules ask for."""
    app.add_exception_handler(EventMalformed, _answer(400))
    app.add_exception_handler(RequestMalformed, _answer(400))
    app.add_exception_handler(Unavailable, _answer(503))
    app.add_exception_handler(LunglineError, _answer(500))
    app.add_exception_handler(TimeoutError, _answer(503, "The request took too long; try again."))
    app.add_exception_handler(Exception, _answer(500, "The predictor failed; its log says where."))


def _answer(status: int, sentence: str | None = None) -> Callable[[Request, Exception], Response]:
    def handler(request: Request, exc: Exception) -> Response:
        route = request.scope.get("path", "")
        level = logging.ERROR if status == 500 else logging.WARNING if status == 503 else logging.INFO
        _log.log(level, "request failed", exc_info=exc, extra={"status": status, "route": route})
        headers = {"retry-after": "1"} if status == 503 else None
        return JSONResponse({"error": sentence or str(exc)}, status, headers)

    return handler


def _event_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        # The standard parser takes what orjson does not (UTF-16, a byte order mark), and names the fault as ours.
        parse(body)
        raise EventMalformed("The event is not JSON.") from None


def _note(record: ResultRecord, received: datetime) -> None:
    RESULTS.labels(record.outcome, record.label or "").inc()
    extra: dict[str, object] = {
        "identity": record.upload.identity,
        "outcome": record.outcome,
        "version": record.model.version,
        "ms": round((datetime.now(UTC) - received).total_seconds() * 1000, 1),
    }
    if record.reason:
        extra["reason"] = record.reason
    if record.times.received != received:
        extra["duplicate"] = True
    _log.info("upload handled", extra=extra)


def _predictions(predictions: list[dict[str, Any]]) -> Response:
    refused = [one for one in predictions if one["label"] == "Refused"]
    if len(refused) == len(predictions):
        return _json({"error": refused[0]["error"], "predictions": predictions}, 400)
    return _json({"predictions": predictions})


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")


def _response(reply: Reply) -> Response:
    return Response(reply.body, reply.status, dict(reply.headers or {}))


async def _body(request: Request) -> bytes:
    """The first file of a form, or the body itself."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await request.body()
    try:
        async with request.form(max_files=4, max_fields=8) as form:
            for _, part in form.multi_items():
                if isinstance(part, UploadFile):
                    return await part.read()
    except HTTPException as exc:
        raise RequestMalformed("The multipart form is damaged.") from exc
    raise RequestMalformed("Expected a form with one image file, as `curl -F image=@chest.jpeg` sends it.")
