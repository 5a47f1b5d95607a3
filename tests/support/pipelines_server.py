"""A Kubeflow Pipelines server made small: it keeps pipelines, versions, experiments, runs and schedules."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]
STEPS = ("prepare", "validate-data", "train", "evaluate", "gate", "register", "promote")


@dataclass
class PipelinesServer:
    """`fails` names the step that fails; `token` is asked for; the next `refusals` calls get the status `refuses`."""

    fails: str | None = None
    token: str | None = None
    refuses: int = 503
    refusals: int = 0
    pipelines: list[Object] = field(default_factory=list)
    versions: list[Object] = field(default_factory=list)
    experiments: list[Object] = field(default_factory=list)
    runs: dict[str, Object] = field(default_factory=dict)
    schedules: list[Object] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    host: str = ""
    _looks: int = 0

    def answer(  # noqa: C901, PLR0911 - one case for each call of the API
        self, method: str, path: str, query: dict[str, list[str]], body: bytes
    ) -> tuple[int, Object]:
        """Status and JSON of a call."""
        way = path.removeprefix("/apis/v2beta1/").split("/")
        match method, way:
            case _, ["healthz"]:
                return 200, {"multi_user": False}
            case "POST", ["pipelines", "upload"]:
                self.uploads.append(_file(body))
                made = {"pipeline_id": f"p{len(self.pipelines)}", "display_name": query["name"][0]}
                made["description"] = query.get("description", [""])[0]
                self.pipelines.append(made)
                self._version(made["pipeline_id"], made["display_name"])
                return 200, made
            case "POST", ["pipelines", "upload_version"]:
                self.uploads.append(_file(body))
                return 200, self._version(query["pipelineid"][0], query["name"][0])
            case "GET", ["pipelines"]:
                return 200, {"pipelines": self.pipelines}
            case "GET", ["pipelines", pipeline, "versions"]:
                versions = [version for version in self.versions if version["pipeline_id"] == pipeline]
                return 200, {"pipeline_versions": versions[::-1]}
            case "GET", ["experiments"]:
                wanted = json.loads(query.get("filter", ["{}"])[0]).get("predicates", [])
                names = {predicate.get("stringValue", predicate.get("string_value")) for predicate in wanted}
                chosen = [each for each in self.experiments if not names or each["display_name"] in names]
                return 200, {"experiments": chosen}
            case "POST", ["experiments"]:
                self.experiments.append({"experiment_id": f"e{len(self.experiments)}", **json.loads(body)})
                return 200, self.experiments[-1]
            case "POST", ["runs"]:
                run = {"run_id": f"r{len(self.runs)}", "state": "PENDING", **json.loads(body)}
                self.runs[run["run_id"]] = run
                return 200, run
            case "GET", ["runs", run]:
                return 200, self._further(self.runs[run])
            case "POST", ["recurringruns"]:
                self.schedules.append({"recurring_run_id": f"s{len(self.schedules)}", **json.loads(body)})
                return 200, self.schedules[-1]
            case "GET", ["recurringruns"]:
                return 200, {"recurringRuns": self.schedules}
            case "DELETE", ["recurringruns", name]:
                self.schedules = [run for run in self.schedules if run["recurring_run_id"] != name]
                return 200, {}
        return 404, {"message": f"the stand-in knows no {method} {path}"}

    def _version(self, pipeline: str, name: str) -> Object:
        made = {"pipeline_id": pipeline, "pipeline_version_id": f"v{len(self.versions)}", "display_name": name}
        self.versions.append(made)
        return made

    def _further(self, run: Object) -> Object:
        """The run, a step further than at the last look."""
        done, self._looks = self._looks, self._looks + 1
        details: list[Object] = []
        for number, step in enumerate(STEPS):
            state = "SUCCEEDED" if number < done else "RUNNING" if number == done else "PENDING"
            task: Object = {"display_name": step, "state": state, "start_time": "2026-11-21T00:00:00Z"}
            if state == "SUCCEEDED":
                task["end_time"] = "2026-11-21T00:00:30Z"
            if step == self.fails and number < done:
                task |= {"state": "FAILED", "error": {"code": 1, "message": "the data has changed"}}
                run["state"] = "FAILED"
                details.append(task)
                break
            details.append(task)
        if done >= len(STEPS) and run["state"] != "FAILED":
            run["state"] = "SUCCEEDED"
        return {**run, "run_details": {"task_details": details}}


@contextmanager
def running_pipelines_server(**options: Any) -> Iterator[PipelinesServer]:
    """The server on a free port."""
    server = PipelinesServer(**options)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            with lock:
                status, answer = _guarded(server, self, url.path, parse_qs(url.query), body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _serve  # noqa: N815 - the names that http.server looks for

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            """Say nothing: tests print enough."""

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.host = f"http://127.0.0.1:{listener.server_port}"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


def _guarded(
    server: PipelinesServer, request: BaseHTTPRequestHandler, path: str, query: dict[str, list[str]], body: bytes
) -> tuple[int, Object]:
    if server.token and request.headers.get("authorization") != f"Bearer {server.token}":
        return 401, {"message": "no such user"}
    if server.refusals and not path.endswith("healthz"):
        server.refusals -= 1
        return server.refuses, {"message": "the stand-in is set to refuse"}
    return server.answer(request.command, path, query, body)


def _file(body: bytes) -> str:
    """The file of a multipart form."""
    match = re.search(rb"\r\n\r\n(.*?)\r\n--", body, flags=re.DOTALL)
    assert match
    return match.group(1).decode()
