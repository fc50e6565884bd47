"""The counterpart's server: a request's connection can be reset, as networks do it."""

import socket
import struct
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from paypost.simulators.asgi import Application, Server, build_server
from paypost.simulators.processor.api import RESET

# Zero seconds of lingering make the close a reset: the caller does not even see an end.
_NO_LINGER = struct.pack("ii", 1, 0)


class ResettableProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose requests carry the means to reset their connection."""

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        # ASGI's own type knows extensions of data only, this one is a function.
        extensions: dict[str, Any] = {RESET: self._reset}
        self.scope["extensions"] = extensions

    def _reset(self) -> None:
        connection: socket.socket | None = self.transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()


def build_resettable_server(application: Application, *, host: str, port: int) -> Server:
    """Return a server as `build_server` does, whose requests know how to reset."""
    server = build_server(application, host=host, port=port)
    server.config.http = ResettableProtocol
    return server
