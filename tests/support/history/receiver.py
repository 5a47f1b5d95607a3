"""A webhook that receives notices, such as a chat service's, and writes down what it took."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.history.operations import Journal

RULE, LABEL = "urgent", "Pneumonia"
_LINK = re.compile(r"/x/([0-9a-f]{32})\b")


@contextmanager
def notice_receiver(journal: Journal, folder: Path) -> Iterator[Path]:
    """A receiver, and the file of the rule that sends to it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            (identity,) = set(_LINK.findall(body["message"]))
            rule = body["title"].rpartition(": ")[2]
            with journal.attempt("receiver notice", identity, rule=rule) as attempt:
                self.send_response(200)
                self.end_headers()
                attempt.answer("ok")

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    rules = folder / "rules.toml"
    target = f"json://127.0.0.1:{server.server_address[1]}/hook"
    rules.write_text(f'[[rule]]\nname = "{RULE}"\nlabel = ["{LABEL}"]\nto = [["{target}"]]\n')
    journal.note("settings rule", rule=RULE, label=LABEL, hook=True)
    try:
        yield rules
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
