"""A small HTTP server that stands in for another program while a test runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import HTTPServer, ThreadingHTTPServer
from typing import Any


class Quiet:
    """For a handler of requests that prints nothing about them: tests print enough."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Say nothing."""


@contextmanager
def serving(handler: Callable[..., Any]) -> Iterator[str]:
    """Serve with a handler's class on a free port of 127.0.0.1; yields the address, as `http://127.0.0.1:PORT`."""
    with running(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as address:
        yield address


@contextmanager
def running(server: HTTPServer) -> Iterator[str]:
    """Serve with a server that listens on 127.0.0.1, in a thread of this process; yields its address."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(20)
