"""A small strict FHIR R4 server for tests: it validates a transaction, and creates what it does not have yet.

It follows the specification (http.html#transaction, http.html#ccreate): a condition that finds one resource creates
none, one that finds several fails the whole; references within the bundle become those of the server.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from fhir.resources.R4B.bundle import Bundle

Resource = dict[str, Any]


@dataclass
class FhirServer:
    """What it holds, by type; `answers` are statuses of the next requests, which then change nothing."""

    token: str
    answers: list[int] = field(default_factory=list)
    resources: dict[str, list[Resource]] = field(default_factory=dict)
    requests: int = 0
    connections: int = 0
    url: str = ""
    closes: bool = False
    """Whether it closes each connection after an answer, without a word before."""

    def transact(self, body: bytes) -> tuple[int, Resource]:
        """Take a transaction as a whole or not at all."""
        document = json.loads(body)
        Bundle.model_validate(document)
        assert document["type"] == "transaction"
        places: dict[str, str] = {}
        new: list[Resource] = []
        for entry in document["entry"]:
            resource, request = entry["resource"], entry["request"]
            assert request["method"] == "POST"
            assert request["url"] == resource["resourceType"]
            assert "id" not in resource
            present = self._matching(resource["resourceType"], request["ifNoneExist"])
            if len(present) > 1:
                return 412, {"resourceType": "OperationOutcome"}
            identifier = present[0]["id"] if present else f"{len(new) + sum(map(len, self.resources.values())) + 1}"
            places[entry["fullUrl"]] = f"{resource['resourceType']}/{identifier}"
            if not present:
                new.append(resource | {"id": identifier})
        text = json.dumps(new)
        for address, place in places.items():
            text = text.replace(json.dumps(address), json.dumps(place))
        assert "urn:uuid:" not in text, "a reference leads nowhere"
        for resource in json.loads(text):
            self.resources.setdefault(resource["resourceType"], []).append(resource)
        entries = [{"response": {"status": "201", "location": place}} for place in places.values()]
        return 200, {"resourceType": "Bundle", "type": "transaction-response", "entry": entries}

    def _matching(self, kind: str, condition: str) -> list[Resource]:
        ((name, (token,)),) = parse_qs(condition, strict_parsing=True).items()
        assert name == "identifier"
        system, _, value = token.partition("|")
        wanted = {"system": system, "value": value}
        return [each for each in self.resources.get(kind, []) if wanted in each["identifier"]]


@contextmanager
def running_fhir_server(token: str, *answers: int) -> Iterator[FhirServer]:
    """A server on a free port, until the context ends."""
    held = FhirServer(token, list(answers))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept

        def setup(self) -> None:
            super().setup()
            held.connections += 1

        def do_POST(self) -> None:
            held.requests += 1
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.headers["content-type"] == "application/fhir+json"
            if self.headers["authorization"] != f"Bearer {token}":
                status, answer = 401, {}
            elif held.answers:
                status, answer = held.answers.pop(0), {}
            else:
                status, answer = held.transact(body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/fhir+json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            self.close_connection = held.closes

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        held.url = f"http://127.0.0.1:{server.server_address[1]}/fhir"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield held
        finally:
            server.shutdown()
            thread.join(10)
