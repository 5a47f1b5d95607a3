"""One trace per upload, from the bridge to the notice, in W3C's form: `00-<trace id>-<span id>-01`.

The trace id is the identity of the upload, which has 32 hexadecimal digits too. So log lines, traces and records share
an id, and a service that receives no trace (MinIO sends none) can derive it.

Spans are exported to the OpenTelemetry collector that the setting `otlp_endpoint` names. Without one, OpenTelemetry is
not imported, and a span only passes its parent on.
"""

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

from lungline.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

HEADER = "traceparent"
# CloudEvents' distributed tracing extension has it as an attribute.
ATTRIBUTE = "ce-traceparent"

Kind = Literal["producer", "consumer", "client", "server", "internal"]

_FORM = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_root: ContextVar[str | None] = ContextVar("root", default=None)


class _Export:
    """Where spans go; None until `configure` names a collector."""

    provider: "TracerProvider | None" = None


def of_upload(identity: str) -> str:
    """The trace of an upload, as its first span has it."""
    return f"00-{identity}-{identity[16:]}-01"


def parent_of(headers: Mapping[str, str]) -> str | None:
    """The trace that a request or an event belongs to; None when it names none or an invalid one."""
    for name in (ATTRIBUTE, HEADER):
        traceparent = headers.get(name, "")
        if _FORM.fullmatch(traceparent) and "-" + "0" * 16 not in traceparent:
            return traceparent
    return None


def identity_of(parent: str | None) -> str:
    """The trace id: the identity of the upload, where the trace is one of ours."""
    return parent[3:35] if parent else ""


def configure(settings: Settings, service: str) -> None:
    """Export spans from now on, if the settings name a collector. Raises LunglineError without OpenTelemetry."""
    if settings.otlp_endpoint:
        _Export.provider = _provider(settings.otlp_endpoint, service)


def end() -> None:
    """Send what has not been sent."""
    if _Export.provider:
        _Export.provider.shutdown()
        _Export.provider = None


@contextmanager
def root(identity: str, name: str, **attributes: str | float) -> Generator[str]:
    """Open the first span of an upload; yields the `traceparent` for the spans below it."""
    traceparent = of_upload(identity)
    if _Export.provider:
        token = _root.set(identity)
        try:
            span = _Export.provider.get_tracer("lungline").start_span(
                name, attributes=attributes, kind=_kind("producer")
            )
        finally:
            _root.reset(token)
        try:
            yield traceparent
        finally:
            span.end()
    else:
        yield traceparent


@contextmanager
def span(name: str, parent: str | None, kind: Kind = "internal", **attributes: str | float) -> Generator["Span"]:
    """A span below `parent`; without a collector, or without a parent, it only passes the parent on."""
    if _Export.provider is None or parent is None:
        yield Span(parent)
        return
    from opentelemetry import trace

    _, trace_id, span_id, _ = parent.split("-")
    above = trace.SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=trace.TraceFlags(1))
    context = trace.set_span_in_context(trace.NonRecordingSpan(above))
    begun = _Export.provider.get_tracer("lungline").start_span(name, context, _kind(kind), attributes)
    try:
        made = begun.get_span_context()
        yield Span(f"00-{made.trace_id:032x}-{made.span_id:016x}-01", begun)
    finally:
        begun.end()


class Span:
    """An open span; pass its `traceparent` (`00-<trace id>-<span id>-01`) on to the next service."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, traceparent: str | None, begun: Any = None) -> None:
        self.traceparent = traceparent
        self._span = begun

    def add(self, **attributes: str | float | None) -> None:
        """Set attributes, those that are None left out; never personal data."""
        if self._span:
            self._span.set_attributes({name: value for name, value in attributes.items() if value is not None})


def _kind(kind: Kind) -> Any:
    from opentelemetry.trace import SpanKind

    return SpanKind[kind.upper()]


def _provider(endpoint: str, service: str) -> "TracerProvider":
    from lungline.errors import LunglineError

    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    except ImportError as exc:
        raise LunglineError("Traces need OpenTelemetry: `pip install 'lungline[tracing]'` brings it.") from exc

    class Ids(RandomIdGenerator):
        """Trace and span ids: an upload's identity for its first span, random ones for all others."""

        def generate_trace_id(self) -> int:
            identity = _root.get()
            return int(identity, 16) if identity else super().generate_trace_id()

        def generate_span_id(self) -> int:
            identity = _root.get()
            return int(identity[16:], 16) if identity else super().generate_span_id()

    provider = TracerProvider(resource=Resource.create({"service.name": f"lungline-{service}"}), id_generator=Ids())
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    return provider
