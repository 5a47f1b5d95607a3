"""The judging routes: what a request with images or an event is answered with. Runs on threads."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from lungline.errors import EventMalformed
from lungline.events import parse
from lungline.results import ResultRecord
from serving import answers, meters
from serving.answers import RequestMalformed
from serving.champion import Champion
from serving.deliveries import Deliveries
from serving.door import Handler, Reply, Request, json_reply
from serving.forms import first_file

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Judging:
    """Everything that requests need; nothing of any request is kept here."""

    name: str
    champion: Champion
    deliveries: Deliveries

    def routes(self) -> Mapping[str, Handler]:
        """The handlers by path."""
        return {
            f"/v1/models/{self.name}:predict": self.predict,
            f"/v1/models/{self.name}:explain": self.explain,
            f"/v2/models/{self.name}/infer": self.infer,
            "/predict": self.picture,
        }

    def predict(self, request: Request, *, heatmap: bool = False) -> Reply:
        """Judge the uploads of an event, or images in the request (V1)."""
        diagnoser = self.champion.current()
        value = _event_json(request.body)
        if isinstance(value, dict) and "instances" in value:
            return _predictions(answers.instances(value, diagnoser, heatmap=heatmap))
        reply, records = self.deliveries.answer(value, request, diagnoser)
        for record in records:
            _note(record, request.received)
        return reply

    def explain(self, request: Request) -> Reply:
        """The same, with heatmaps in the predictions."""
        return self.predict(request, heatmap=True)

    def infer(self, request: Request) -> Reply:
        """Judge the images of a tensor (V2)."""
        diagnoser = self.champion.current()
        length = request.headers.get("inference-header-content-length")
        if length is not None and not (length.isascii() and length.isdigit() and len(length) < 20):
            raise RequestMalformed("Expected the header Inference-Header-Content-Length to be a number of bytes.")
        return json_reply(answers.tensors(request.body, int(length) if length else None, diagnoser))

    def picture(self, request: Request) -> Reply:
        """Judge one image: the first file of a form, or the body itself."""
        diagnoser = self.champion.current()
        heatmap = request.query.get("heatmap", "").lower() in {"1", "true", "yes"}
        content_type = request.headers.get("content-type", "")
        form = content_type.startswith("multipart/form-data")
        data = first_file(request.body, content_type) if form else request.body
        answer = answers.picture(data, diagnoser, heatmap=heatmap)
        return json_reply(answer, 400 if answer["label"] == "Refused" else 200)


def _event_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        # The standard parser takes what orjson does not (UTF-16, a byte order mark), and names the fault as ours.
        parse(body)
        raise EventMalformed("The event is not JSON.") from None


def _predictions(predictions: list[dict[str, Any]]) -> Reply:
    refused = [one for one in predictions if one["label"] == "Refused"]
    if len(refused) == len(predictions):
        return json_reply({"error": refused[0]["error"], "predictions": predictions}, 400)
    return json_reply({"predictions": predictions})


def _note(record: ResultRecord, received: datetime) -> None:
    fresh = meters.note(record, received)
    extra: dict[str, object] = {
        "identity": record.upload.identity,
        "outcome": record.outcome,
        "version": record.model.version,
        "ms": round((datetime.now(UTC) - received).total_seconds() * 1000, 1),
    }
    if record.reason:
        extra["reason"] = record.reason
    if not fresh:
        extra["duplicate"] = True
    _log.info("upload handled", extra=extra)
