"""The web server around the service: it lets open pages go before it ends, instead of waiting for them."""

import socket

import uvicorn
from fastapi import FastAPI


class Server(uvicorn.Server):
    """Uvicorn, which would wait for live pages that never end by themselves."""

    def __init__(self, app: FastAPI, host: str = "127.0.0.1", port: int = 0) -> None:
        # No access log: an address may hold what somebody searched for.
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=3,
        )
        super().__init__(config)
        self._live = app.state.worklist.live

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End in order."""
        self._live.close()
        await super().shutdown(sockets)
