"""Traces and log lines: one id from the upload to the notice."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lungline import tracing
from lungline.logs import JsonFormatter, TextFormatter
from lungline.settings import Settings
from tests.support.collector import ReceivedSpan, running_collector

IDENTITY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def spans() -> Iterator[list[ReceivedSpan]]:
    with running_collector() as (address, seen):
        tracing.configure(Settings(otlp_endpoint=address), "test")
        yield seen
        tracing.end()


def test_an_uploads_identity_is_its_trace_id(spans: list[ReceivedSpan]) -> None:
    """The identity of an upload is the id of its trace."""
    with tracing.root(IDENTITY, "upload") as traceparent:
        assert traceparent == tracing.of_upload(IDENTITY)
    with tracing.span("deliver", traceparent, "client") as span:
        span.add(status=200, nothing=None)
        assert span.traceparent
        with tracing.span("predict", span.traceparent, "server"):
            pass
    tracing.end()
    by_name = {span.name: span for span in spans}
    assert {span.trace for span in spans} == {IDENTITY}
    assert by_name["upload"].parent == ""
    assert by_name["deliver"].parent == by_name["upload"].span
    assert by_name["predict"].parent == by_name["deliver"].span
    assert set(by_name["deliver"].attributes) == {"status"}


def test_without_a_collector_nothing_is_imported() -> None:
    """Without a collector the trace is handed on and nothing is imported."""
    script = (
        "import sys\n"
        "from lungline import tracing\n"
        "from lungline.settings import Settings\n"
        "tracing.configure(Settings(), 'test')\n"
        f"with tracing.span('a', tracing.of_upload('{IDENTITY}')) as span: print(span.traceparent)\n"
        "with tracing.span('a', None) as span: print(span.traceparent)\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split("\n")[:3] == [tracing.of_upload(IDENTITY), "None", "[]"]


@pytest.mark.parametrize("traceparent", ["", "nonsense", f"00-{IDENTITY}-0000000000000000-01", f"00-{IDENTITY}-x-01"])
def test_a_trace_that_makes_no_sense_is_none(traceparent: str) -> None:
    assert tracing.parent_of({"traceparent": traceparent}) is None


def test_the_event_attribute_precedes_the_request_header() -> None:
    """The attribute of an event goes before the header of a request."""
    first, second = tracing.of_upload(IDENTITY), tracing.of_upload(IDENTITY[::-1])
    assert tracing.parent_of({"ce-traceparent": first, "traceparent": second}) == first


def test_log_lines_carry_the_identity_only() -> None:
    """Log lines carry the identity and never what an exception quotes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    log = logging.getLogger("lungline.test")
    log.addHandler(handler)
    for formatter in (JsonFormatter(), TextFormatter()):
        handler.setFormatter(formatter)
        try:
            int("Doe-Jane.png")
        except ValueError:
            log.exception("It failed.", extra={"identity": IDENTITY})
    log.removeHandler(handler)
    as_json, as_text = stream.getvalue().splitlines()
    assert json.loads(as_json)["identity"] == IDENTITY
    assert f"identity={IDENTITY}" in as_text
    assert "Doe" not in stream.getvalue()
    assert "ValueError at" in as_text
