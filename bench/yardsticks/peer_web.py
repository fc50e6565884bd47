"""Serves a web application beside other processes on one port.

Usage: python -m bench.yardsticks.peer_web MODULE:APPLICATION PORT
"""

from __future__ import annotations

import socket
import sys

import uvicorn


def main() -> None:
    """Until SIGTERM; the kernel shares connections out among all that listen."""
    application, port = sys.argv[1:]
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind(("127.0.0.1", int(port)))
    config = uvicorn.Config(application, log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
