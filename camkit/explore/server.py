"""The server of the explorer's page."""

from __future__ import annotations

import contextlib
import logging
import socket

import uvicorn

from camkit.explore.explorer import Explorer
from camkit.explore.guard import Guard


class Server(uvicorn.Server):
    """Ends quickly, without a word of those who are cut off.

    Args:
        config: Of the server.
        explorer: Whose jobs end first: who waits for one is told so.
    """

    def __init__(self, config: uvicorn.Config, explorer: Explorer) -> None:
        super().__init__(config)
        self._explorer = explorer

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See :class:`uvicorn.Server`."""
        self._explorer.queue.end()
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # a traceback for every open request
        await super().shutdown(sockets)


def make_server(app: Guard, explorer: Explorer, *, seconds: int = 2) -> Server:
    """A server of the application, which gives open requests so many seconds when it is told to end."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=seconds,
        timeout_keep_alive=75,  # a browser's request may meet the end of a connection that it thinks is open
        ws="none",
    )
    return Server(config, explorer)


def serve(app: Guard, explorer: Explorer, listening: socket.socket) -> None:
    """Answer requests at a socket until the process is told to stop."""
    with contextlib.suppress(KeyboardInterrupt):
        make_server(app, explorer).run(sockets=[listening])
