"""The judging routes: what a request with images or an event is answered with. Runs on threads."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from lungline import tracing
from lungline.diagnosis.diagnoser import Diagnoser
from lungline.diagnosis.upload import diagnose_upload
from lungline.errors import EventMalformed
from lungline.events import cloudevents
from lungline.events.uploads import Upload, parse, require_bucket
from lungline.results.events import result_event
from lungline.results.records import ResultRecord
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from serving import metrics
from serving import predictions as answers
from serving.http import Handler, Reply, Request, RequestMalformed, json_reply
from serving.model_loader import ModelLoader
from serving.predictions import first_file


@dataclass(frozen=True, slots=True)
class UploadEvents:
    """Judges the uploads of events, and says so in events."""

    storage: Storage
    settings: Settings
    type: str = ""
    source: str = ""

    def answer(self, value: Any, request: Request, diagnoser: Diagnoser) -> tuple[Reply, list[ResultRecord]]:
        """Judge the uploads that an event tells of, `value` being its JSON; the reply, and what it is made of.

        Raises EventMalformed, and StorageUnavailable after which the whole event may be delivered again: what was
        saved is found, not judged twice.
        """
        cloudevents.require_size(request.body)
        uploads = parse(value)
        require_bucket(uploads, self.settings.uploads_bucket)
        if not uploads:
            return Reply(204), []
        told = cloudevents.trace_of(request.headers, value)
        judged = [self._judge(one, diagnoser, request, told) for one in uploads]
        records = [record for record, _ in judged]
        if all(record.outcome == "refused" for record in records):
            return _refusal(records), records
        return self._event(records, cloudevents.mode_of(request.headers, value), judged[0][1]), records

    def _judge(
        self, upload: Upload, diagnoser: Diagnoser, request: Request, told: str | None
    ) -> tuple[ResultRecord, str]:
        """The record, and the trace that its followers are told."""
        parent = told or tracing.of_upload(upload.identity)
        with tracing.span("judge", parent, "server") as span:
            record = diagnose_upload(upload, diagnoser, self.storage, self.settings, request.received)
            span.add(outcome=record.outcome, label=record.label, version=record.model.version, **record.timings)
        return record, span.traceparent or parent

    def _event(self, records: list[ResultRecord], mode: cloudevents.Mode, trace: str) -> Reply:
        event = result_event(records, trace, kind=self.type, source=self.source)
        if mode == "binary":
            return Reply(200, event.data.encode(), cloudevents.http_headers(event.attributes, "application/json"))
        value = {**event.attributes, "datacontenttype": "application/json", "data": orjson.Fragment(event.data)}
        return Reply(200, orjson.dumps(value), {"content-type": cloudevents.STRUCTURED})


def _refusal(records: list[ResultRecord]) -> Reply:
    """The key stays out: what is answered with 4xx ends in dead letters and logs of others."""
    first = records[0]
    ids = [record.id for record in records]
    return json_reply({"error": first.message, "reason": first.reason, "records": ids}, 400)


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Everything that requests need; nothing of any request is kept here."""

    name: str
    champion: ModelLoader
    deliveries: UploadEvents

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
            return _predictions(answers.predict_instances(value, diagnoser, heatmap=heatmap))
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
        return json_reply(answers.predict_tensors(request.body, int(length) if length else None, diagnoser))

    def picture(self, request: Request) -> Reply:
        """Judge one image: the first file of a form, or the body itself."""
        diagnoser = self.champion.current()
        heatmap = request.query.get("heatmap", "").lower() in {"1", "true", "yes"}
        content_type = request.headers.get("content-type", "")
        form = content_type.startswith("multipart/form-data")
        data = first_file(request.body, content_type) if form else request.body
        answer = answers.predict_image(data, diagnoser, heatmap=heatmap)
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
    fresh = metrics.count_record(record, received)
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
