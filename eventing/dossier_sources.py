"""Lends the worklist's dossiers what its pod does not reach: `python -m eventing.dossier_sources --port 8080`.

`GET /events/IDENTITY?state=ETAG` are the events about an upload, `GET /runs/ID` is a training run, null where MLflow
has none. What fails is status 503 with a sentence. No answer holds an object's key. Who may ask is a matter of the
network.
"""

import argparse
import json
import logging
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from eventing.event_search import events_of
from lungline import program
from lungline.dossier.naming import IDENTITY
from lungline.errors import LunglineError, Unavailable
from lungline.metrics_server import make_server
from lungline.registry.runs import run_facts
from lungline.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

SEARCHES = 2
"""At once: each reads whole topics."""
QUEUE_SECONDS = 30.0

_RUN = re.compile(r"[\w-]{1,64}")
_LINES = {200: "200 OK", 404: "404 Not Found", 503: "503 Service Unavailable"}

_log = logging.getLogger(__name__)


class DossierSources:
    """The WSGI application."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._searches = threading.BoundedSemaphore(SEARCHES)
        self._routes: Mapping[str, Callable[[str, str], Any]] = {"events": self._events, "runs": self._run}

    def __call__(self, environ: Mapping[str, Any], start_response: "StartResponse") -> Iterable[bytes]:
        """Answer a request."""
        try:
            status, value = self._answer(environ["PATH_INFO"], environ.get("QUERY_STRING", ""))
        except LunglineError as exc:
            status, value = 503, {"error": str(exc)}
        body = json.dumps(value).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
        start_response(_LINES[status], headers)
        return [body]

    def _answer(self, path: str, query: str) -> tuple[int, Any]:
        if path == "/healthz":
            return 200, {"ready": True}
        place, _, name = path.strip("/").partition("/")
        pattern = {"events": IDENTITY, "runs": _RUN}.get(place)
        if pattern is None or not pattern.fullmatch(name):
            return 404, {"error": "Not served here."}
        return 200, self._routes[place](name, query)

    def _events(self, identity: str, query: str) -> list[dict[str, Any]]:
        state = parse_qs(query).get("state", [""])[0]
        if not self._searches.acquire(timeout=QUEUE_SECONDS):
            raise Unavailable("Other dossiers are being made; try again in a minute.")
        try:
            events = events_of(identity, state or None, self._settings)
        finally:
            self._searches.release()
        _log.info("Read the events of an upload.", extra={"identity": identity, "events": len(events)})
        return [event.model_dump(mode="json") for event in events]

    def _run(self, run_id: str, _query: str) -> dict[str, Any] | None:
        run = run_facts(self._settings, run_id)
        return run and run.model_dump(mode="json")


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m eventing.dossier_sources")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()

    def serve(settings: Settings) -> None:
        server = make_server(DossierSources(settings), arguments.port, arguments.host)
        # From a thread of its own: shutdown() waits for the loop, which the handler of a signal interrupts.
        program.stop_on_sigterm(lambda: threading.Thread(target=server.shutdown, daemon=True).start())
        server.serve_forever()

    program.run("dossier-sources", serve)


if __name__ == "__main__":
    main()
