"""The inference routes: upload events and images in, results out. Runs on threads."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from lungline import tracing
from lungline.diagnosis.routing import Routing, ServedElsewhere
from lungline.diagnosis.upload import KeepUnsure, diagnose_upload
from lungline.errors import UploadErased
from lungline.events import cloudevents
from lungline.events.handed_on import handed_on
from lungline.events.proof import ProofRefused
from lungline.events.proof_layer import NEEDED
from lungline.events.uploads import Upload, parse, require_bucket
from lungline.results.events import opinion_event, result_event
from lungline.results.listing import SharedListing
from lungline.results.opinions import place
from lungline.results.record_store import load_or_none
from lungline.results.records import ResultRecord, record_key
from lungline.settings import Settings
from lungline.storage.s3 import Storage
from serving import metrics, predictions
from serving.bodies import BASE64_IMAGES, decode_json
from serving.http import Handler, MediaTypeUnsupported, Reply, Request, RequestMalformed, json_reply
from serving.served_models import ServedModels
from serving.tensors import predict_tensors

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The handlers and what they need; nothing of a request is kept here."""

    models: ServedModels
    upload_events: "UploadEvents"

    def routes(self) -> Mapping[str, Handler]:
        """The handlers by path; `{version}` in a path is any version, which `Request.version` has, as `{model}`.

        The paths of the first model come first: they say its name in metrics.
        """
        by_name: Mapping[str, Handler] = {
            "/v1/models/{model}:predict": self.predict,
            "/v1/models/{model}:explain": self.explain,
            "/v2/models/{model}/infer": self.infer,
            "/v2/models/{model}/versions/{version}/infer": self.infer,
        }
        first = {path.replace("{model}", self.models.name): handler for path, handler in by_name.items()}
        return first | {"/predict": self.predict_image} | by_name

    @property
    def event_paths(self) -> frozenset[str]:
        """The paths that take upload events, of all models that serve."""
        return frozenset({f"/v1/models/{self.models.name}:predict", f"/v1/models/{self.models.name}:explain"})

    def predict(self, request: Request, *, heatmap: bool = False) -> Reply:
        """Predict the uploads of an event, or images in the request (V1)."""
        loader = self.models.named(request.model)
        _refuse_event_formats(request)
        value = decode_json(request.body, request.headers, _V1_EXPECTED, MOST_VALUES)
        if isinstance(value, dict) and "instances" in value:
            return _v1_reply(predictions.predict_instances(value, loader.current(), heatmap=heatmap))
        if not _may_be_event(value, request):
            raise RequestMalformed(f"{_misplaced(value)} Expected {_V1_EXPECTED}.")
        return self.upload_events.predict(value, request, self.models.routing(_task_of(value, request), request.model))

    def explain(self, request: Request) -> Reply:
        """The same as `predict`, with heatmaps in the predictions."""
        return self.predict(request, heatmap=True)

    def infer(self, request: Request) -> Reply:
        """Predict the images of a tensor (V2)."""
        diagnoser = self.models.named(request.model).serving(request.version)
        return json_reply(predict_tensors(request.body, request.headers, diagnoser))

    def predict_image(self, request: Request) -> Reply:
        """Predict one image: the first file of a form, or the body itself."""
        diagnoser = self.models.named(None).current()
        heatmap = request.query.get("heatmap", "").lower() in {"1", "true", "yes"}
        prediction = predictions.predict_image(_image_of(request), diagnoser, heatmap=heatmap)
        if prediction["label"] != "Refused":
            return json_reply(prediction)
        if _media_type(request) == "application/x-www-form-urlencoded":
            prediction["error"] += f" {_CURL_HINT}"
        return json_reply(prediction, 400)


# More than any event of the largest size and any list of instances has.
MOST_VALUES = 100_000
_V1_EXPECTED = 'an upload event, or `{"instances": [{"image": "<base64>"}]}`, as JSON'
_CURL_HINT = "`curl -d` removes line breaks from a file; send it with `-F image=@FILE` or `--data-binary @FILE`."


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _refuse_event_formats(request: Request) -> None:
    """Refuse CloudEvents in batches, and in formats other than JSON."""
    media_type = _media_type(request)
    if media_type.startswith("application/cloudevents-batch"):
        raise MediaTypeUnsupported("The body is a batch of CloudEvents; send each event in a request of its own.")
    if media_type.startswith("application/cloudevents") and media_type != cloudevents.STRUCTURED:
        raise MediaTypeUnsupported(f"Expected a CloudEvent as {cloudevents.STRUCTURED}.")


def _task_of(value: Any, request: Request) -> str | None:
    """The task that a CloudEvent names, binary or structured; None for another event."""
    task = value.get("task") if isinstance(value, dict) and "specversion" in value else None
    return request.headers.get("ce-task") or (task if isinstance(task, str) else None)


def _may_be_event(value: Any, request: Request) -> bool:
    """Whether JSON is meant as an upload event, even a malformed one."""
    if "ce-type" in request.headers or _media_type(request) == cloudevents.STRUCTURED:
        return True
    if isinstance(value, list):
        return all(isinstance(record, dict) and "s3" in record for record in value)
    return isinstance(value, dict) and not value.keys().isdisjoint({"Records", "s3", "specversion", "Event"})


def _misplaced(value: Any) -> str:
    """What JSON is that is neither an event nor a V1 request."""
    if isinstance(value, dict) and "inputs" in value:
        return "`inputs` is a V2 request; post it to /v2/models/{name}/infer."
    if isinstance(value, list) and value and isinstance(value[0], dict) and "specversion" in value[0]:
        return "The body is a list of CloudEvents; send each event in a request of its own."
    return "The JSON is neither an upload event nor a prediction request."


def _image_of(request: Request) -> bytes:
    """The image of a /predict request. Raises RequestMalformed for a body that is certainly not an image."""
    body, content_type = request.body, request.headers.get("content-type", "")
    if _media_type(request) == "multipart/form-data":
        return predictions.first_file(body, content_type)
    start = body[:64].lstrip().lower()
    if start.startswith((b'{"', b"[{", b"{\n", b"{\r", b"{ ")):
        raise RequestMalformed("The body is JSON; post events and `instances` to /v1/models/{name}:predict.")
    if start.startswith(BASE64_IMAGES):
        raise RequestMalformed(
            "The body is base64 text; post the image file itself, or the text as `instances` to"
            " /v1/models/{name}:predict."
        )
    if start.startswith(b"--") and b"filename=" in body[:1024]:
        raise RequestMalformed("The body is a form, but its Content-Type is not multipart/form-data.")
    return body


def _v1_reply(instances: list[dict[str, Any]]) -> Reply:
    refused = [prediction for prediction in instances if prediction["label"] == "Refused"]
    if len(refused) == len(instances):
        first = refused[0]
        return json_reply({"error": first["error"], "reason": first["reason"], "predictions": instances}, 400)
    return json_reply({"predictions": instances})


@dataclass(frozen=True, slots=True)
class _Arrival:
    """When and in which trace an event came, where it lies in Kafka, and whether it holds several uploads."""

    received: datetime
    trace: str | None
    place: str | None
    several: bool


@dataclass(frozen=True, slots=True)
class UploadEvents:
    """Predicts the uploads of an event and answers with a result event of this `type` and `source`."""

    storage: Storage
    settings: Settings
    type: str = ""
    source: str = ""
    keep_unsure: KeepUnsure | None = None
    listing: SharedListing | None = None

    def predict(self, value: Any, request: Request, routing: Routing) -> Reply:
        """Predict and save the uploads of an event, given as its JSON `value`.

        Raises EventMalformed, ProofRefused, and StorageUnavailable, after which the whole event may be delivered again:
        an upload that already has a result is predicted again, but its stored record is kept and returned.

        Uploads of a task that another predictor serves are handed on to it by the reply, which the broker of a cluster
        delivers. A reply is one event: an upload that finds it taken, by results or by another task, gets its own event
        from `lungline reconcile`.
        """
        if self.settings.event_key and not request.proved:
            raise ProofRefused(NEEDED)
        cloudevents.require_size(request.body)
        uploads = parse(value)
        require_bucket(uploads, self.settings.uploads_bucket)
        if not uploads:
            return Reply(204)
        trace, mode = cloudevents.trace_of(request.headers, value), cloudevents.mode_of(request.headers, value)
        event = cloudevents.place_of(request.headers, value)
        came = _Arrival(request.received, trace, event, several=len(uploads) > 1)
        results, elsewhere = self._results(uploads, routing, came)
        if not results:  # all of them were erased, or are of another task
            return self._hand_on(elsewhere, trace, mode)
        records = [record for record, _ in results]
        for record in records:
            _count(record, request.received)
        if self._is_refusal(records):
            return _refusal(records)
        return _reply(self._event(records, results[0][1]), mode)

    def _results(
        self, uploads: list[Upload], routing: Routing, came: _Arrival
    ) -> tuple[list[tuple[ResultRecord, str]], list[tuple[str, Upload]]]:
        """The results, each with its `traceparent`, and the uploads that another predictor serves, with their tasks."""
        results: list[tuple[ResultRecord, str]] = []
        elsewhere: list[tuple[str, Upload]] = []
        for upload in uploads:
            try:
                if result := self._result(upload, routing, came):
                    results.append(result)
            except ServedElsewhere as exc:
                elsewhere.append((exc.task, upload))
        return results, elsewhere

    def _is_refusal(self, records: list[ResultRecord]) -> bool:
        """Whether nothing of an event could be judged; a second opinion that refuses an image is one all the same."""
        answers = self.settings.purpose == "answer"
        return answers and all(record.outcome == "refused" and not record.is_set_aside for record in records)

    def _result(self, upload: Upload, routing: Routing, came: _Arrival) -> tuple[ResultRecord, str] | None:
        """The saved record, and the `traceparent` of its span; None of an upload that was erased.

        Of an event with several uploads, which may have come before, what was predicted the last time is not predicted
        anew: a large event must make progress each time that its sender gives up waiting.
        """
        parent = came.trace or tracing.of_upload(upload.identity)
        with tracing.span("predict", parent, "server") as span:
            record = self._stored(upload, routing) if came.several else None
            try:
                record = record or diagnose_upload(
                    upload,
                    routing.loaded[0],
                    self.storage,
                    self.settings,
                    came.received,
                    keep_unsure=self.keep_unsure,
                    listing=self.listing,
                    routing=routing,
                    event=came.place,
                )
            except UploadErased:
                _log.info("event of an erased upload", extra={"identity": upload.identity})
                return None
            span.add(outcome=record.outcome, label=record.label, version=record.model.version, **record.timings)
        return record, span.traceparent or parent

    def _stored(self, upload: Upload, routing: Routing) -> ResultRecord | None:
        """The record of an upload that was predicted before, by whichever of the models."""
        for model in routing.loaded:
            key = self._key(upload, model.record_version)
            record = load_or_none(self.storage, self.settings.results_bucket, key)
            if record and record.outcome == "judged":
                return record
        return None

    def _key(self, upload: Upload, version: str) -> str:
        purpose = self.settings.purpose
        return record_key(upload.identity, version) if purpose == "answer" else place(upload.identity, version, purpose)

    def _event(self, records: list[ResultRecord], traceparent: str) -> cloudevents.OutgoingEvent:
        if self.settings.purpose != "answer":
            return opinion_event(records, traceparent, self.settings.purpose)
        return result_event(records, traceparent, kind=self.type, source=self.source)

    def _hand_on(self, elsewhere: list[tuple[str, Upload]], trace: str | None, mode: cloudevents.Mode) -> Reply:
        """The reply that hands the uploads of the first task on; who gives second opinions hands nothing on."""
        if not elsewhere or self.settings.purpose != "answer":
            return Reply(204)
        task = elsewhere[0][0]
        uploads = [upload for name, upload in elsewhere if name == task]
        metrics.HANDED_ON.labels(task).inc(len(uploads))
        for upload in uploads:
            _log.info("upload handed on", extra={"identity": upload.identity, "task": task})
        return _reply(handed_on(uploads, task, trace), mode)


def _reply(event: cloudevents.OutgoingEvent, mode: cloudevents.Mode) -> Reply:
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
