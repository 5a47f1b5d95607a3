"""The inference routes: upload events and images in, results out. Runs on threads."""

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
from serving import metrics, predictions
from serving.http import Handler, Reply, Request, RequestMalformed, json_reply
from serving.model_loader import ModelLoader

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The handlers and what they need; nothing of a request is kept here."""

    name: str
    loader: ModelLoader
    upload_events: "UploadEvents"

    def routes(self) -> Mapping[str, Handler]:
        """The handlers by path."""
        return {
            f"/v1/models/{self.name}:predict": self.predict,
            f"/v1/models/{self.name}:explain": self.explain,
            f"/v2/models/{self.name}/infer": self.infer,
            "/predict": self.predict_image,
        }

    def predict(self, request: Request, *, heatmap: bool = False) -> Reply:
        """Predict the uploads of an event, or images in the request (V1)."""
        diagnoser = self.loader.current()
        value = _event_json(request.body)
        if isinstance(value, dict) and "instances" in value:
            return _v1_reply(predictions.predict_instances(value, diagnoser, heatmap=heatmap))
        return self.upload_events.predict(value, request, diagnoser)

    def explain(self, request: Request) -> Reply:
        """The same as `predict`, with heatmaps in the predictions."""
        return self.predict(request, heatmap=True)

    def infer(self, request: Request) -> Reply:
        """Predict the images of a tensor (V2)."""
        diagnoser = self.loader.current()
        length = request.headers.get("inference-header-content-length")
        if length is not None and not (length.isascii() and length.isdigit() and len(length) < 20):
            raise RequestMalformed("Expected the header Inference-Header-Content-Length to be a number of bytes.")
        return json_reply(predictions.predict_tensors(request.body, int(length) if length else None, diagnoser))

    def predict_image(self, request: Request) -> Reply:
        """Predict one image: the first file of a form, or the body itself."""
        diagnoser = self.loader.current()
        heatmap = request.query.get("heatmap", "").lower() in {"1", "true", "yes"}
        content_type = request.headers.get("content-type", "")
        form = content_type.startswith("multipart/form-data")
        image = predictions.first_file(request.body, content_type) if form else request.body
        prediction = predictions.predict_image(image, diagnoser, heatmap=heatmap)
        return json_reply(prediction, 400 if prediction["label"] == "Refused" else 200)


def _event_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        # The standard parser accepts what orjson does not (UTF-16, a byte order mark), and names the fault as ours.
        parse(body)
        raise EventMalformed("The event is not JSON.") from None


def _v1_reply(instances: list[dict[str, Any]]) -> Reply:
    refused = [prediction for prediction in instances if prediction["label"] == "Refused"]
    if len(refused) == len(instances):
        return json_reply({"error": refused[0]["error"], "predictions": instances}, 400)
    return json_reply({"predictions": instances})


@dataclass(frozen=True, slots=True)
class UploadEvents:
    """Predicts the uploads of an event and answers with a result event of this `type` and `source`."""

    storage: Storage
    settings: Settings
    type: str = ""
    source: str = ""

    def predict(self, value: Any, request: Request, diagnoser: Diagnoser) -> Reply:
        """Predict and save the uploads of an event, given as its JSON `value`.

        Raises EventMalformed, and StorageUnavailable after which the whole event may be delivered again: uploads whose
        results are saved are not predicted twice.
        """
        cloudevents.require_size(request.body)
        uploads = parse(value)
        require_bucket(uploads, self.settings.uploads_bucket)
        if not uploads:
            return Reply(204)
        trace = cloudevents.trace_of(request.headers, value)
        results = [self._result(upload, diagnoser, request.received, trace) for upload in uploads]
        records = [record for record, _ in results]
        for record in records:
            _count(record, request.received)
        if all(record.outcome == "refused" for record in records):
            return _refusal(records)
        return self._reply(records, cloudevents.mode_of(request.headers, value), results[0][1])

    def _result(
        self, upload: Upload, diagnoser: Diagnoser, received: datetime, trace: str | None
    ) -> tuple[ResultRecord, str]:
        """The saved record, and the `traceparent` of its span."""
        parent = trace or tracing.of_upload(upload.identity)
        with tracing.span("predict", parent, "server") as span:
            record = diagnose_upload(upload, diagnoser, self.storage, self.settings, received)
            span.add(outcome=record.outcome, label=record.label, version=record.model.version, **record.timings)
        return record, span.traceparent or parent

    def _reply(self, records: list[ResultRecord], mode: cloudevents.Mode, traceparent: str) -> Reply:
        event = result_event(records, traceparent, kind=self.type, source=self.source)
        if mode == "binary":
            return Reply(200, event.data.encode(), cloudevents.http_headers(event.attributes, "application/json"))
        value = {**event.attributes, "datacontenttype": "application/json", "data": orjson.Fragment(event.data)}
        return Reply(200, orjson.dumps(value), {"content-type": cloudevents.STRUCTURED})


def _refusal(records: list[ResultRecord]) -> Reply:
    """The reply to an event of which every upload is refused; without keys, because dead letters and logs quote it."""
    first = records[0]
    ids = [record.id for record in records]
    return json_reply({"error": first.message, "reason": first.reason, "records": ids}, 400)


def _count(record: ResultRecord, received: datetime) -> None:
    """Count and log a result."""
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
