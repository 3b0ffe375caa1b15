"""The gateway's process: a server that finishes its requests before it stops.

SIGTERM or Ctrl-C: not ready at once, and still listening, so that whoever asks can see it; new requests are refused
after `drain_delay_seconds`; it stops when none is at work, at the latest `drain_seconds` after that. A second signal
stops it at once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.api.http.draining import Drain
from service.app import create_app
from service.processes.ports import require_free_port
from service.settings import Settings
from service.telemetry.logs import configure_logging

_POLL_SECONDS = 0.05
# Longer than the idle time of load balancers (60 s), which would else send a request into a connection that closes.
_KEEP_ALIVE_SECONDS = 75
# For the last bytes and the ends of requests that were cancelled.
_CLOSING_SECONDS = 2

log = logging.getLogger("winnow.gateway")


class GatewayServer(uvicorn.Server):
    """uvicorn, with a drain before its shutdown."""

    def __init__(self, config: uvicorn.Config, drain: Drain, seconds: float, delay_seconds: float) -> None:
        super().__init__(config)
        # Requests that were cancelled because no time was left.
        self.cut = 0
        self._drain = drain
        self._seconds = seconds
        self._delay_seconds = delay_seconds
        self._at_once = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and keep what is there by then out of garbage collections: a fifth of a request's CPU time."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; at the second signal, stop at once."""
        self._at_once = self.should_exit
        self._drain.stopping = self.should_exit = True
        self._drain.refusing = self._drain.refusing or not self._delay_seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain while the listening sockets are open, then let uvicorn close."""
        loop = asyncio.get_running_loop()
        self._drain.stopping = True
        log.info("stopping: %d requests at work", self._drain.inflight)
        await self._until(lambda: False, loop.time() + self._delay_seconds)
        self._drain.refusing = True
        ends_at = loop.time() + self._seconds
        await self._until(lambda: self._drain.inflight == 0, ends_at)
        await self._cancel_requests()
        left = 0.0 if self._at_once or self.cut else ends_at - loop.time()
        self.config.timeout_graceful_shutdown = max(_CLOSING_SECONDS, int(left))
        await super().shutdown(sockets)

    async def _until(self, done: Callable[[], bool], ends_at: float) -> None:
        """Return when `done`, when time is up, or at a second signal."""
        clock = asyncio.get_running_loop().time
        # Signals arrive outside the event loop, where nothing can be awaited: uvicorn polls too.
        while not (done() or self._at_once or clock() >= ends_at):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)

    async def _cancel_requests(self) -> None:
        self.cut = self._drain.inflight
        if not self.cut:
            return
        log.error("%d requests are cut off: not done %g s after the gateway began to stop", self.cut, self._seconds)
        self._drain.over = True
        requests = list(self.server_state.tasks)
        for request in requests:
            request.cancel()
        await asyncio.wait(requests, timeout=_CLOSING_SECONDS)


def run(settings: Settings) -> int:
    """Serve until a signal; the exit code is 0 if every request that was taken was finished.

    Raises SetupError when the port is taken.
    """
    configure_logging(settings.log_format, settings.log_level)
    require_free_port(settings.host, settings.port, "--port")
    app = create_app(settings)
    server = server_of(app, settings)
    server.run()
    return 1 if server.cut else 0


def server_of(app: FastAPI, settings: Settings) -> GatewayServer:
    """The server of an app that `create_app` made."""
    config = uvicorn.Config(
        app,
        settings.host,
        settings.port,
        access_log=False,
        log_config=None,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
    return GatewayServer(config, app.state.drain, settings.drain_seconds, settings.drain_delay_seconds)
