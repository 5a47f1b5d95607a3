"""Requests to a worklist that has a host name of its own: browsers know such names, Python's resolver does not."""

import httpx


class LoopbackTransport(httpx.HTTPTransport):
    """Connects to 127.0.0.1 whatever the host name, which stays in the header `Host` and for the cookies."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if not request.url.host.endswith(".localhost"):
            return super().handle_request(request)
        # Not the request itself, whose host decides where a redirect leads and which cookies are sent.
        address = request.url.copy_with(host="127.0.0.1")
        local = httpx.Request(
            request.method, address, headers=request.headers, stream=request.stream, extensions=request.extensions
        )
        return super().handle_request(local)
