"""`python -m paypost.simulators.mail`: run the mail sink until it is told to stop."""

import argparse
import asyncio
import gc
import logging
import random
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from paypost.simulators.asgi import build_server
from paypost.simulators.mail.http import MailApplication
from paypost.simulators.mail.smtp import SinkHandler, SinkProtocol
from paypost.simulators.mail.store import MessageStore
from paypost.simulators.mail.switches import Switches


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the mail sink; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m paypost.simulators.mail", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--smtp-port", type=int, required=True)
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--store", type=Path, required=True, help="the folder of the messages")
    parser.add_argument("--seed", type=int, default=0, help="of the switches' shares")
    options = parser.parse_args(arguments)
    # aiosmtpd logs each line that it reads at INFO.
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    uvloop.run(run(options))
    return 0


async def run(options: argparse.Namespace) -> None:
    """Open the store, serve SMTP and HTTP until SIGTERM or SIGINT, close the store."""
    loop = asyncio.get_running_loop()
    store = MessageStore(directory=options.store)
    store.open()
    switches = Switches(chance=random.Random(options.seed))  # noqa: S311 — faults, not secrets
    handler = SinkHandler(store=store, switches=switches, clock=lambda: datetime.now(UTC))
    smtp = await loop.create_server(
        lambda: SinkProtocol(handler, loop=loop, switches=switches),
        host=options.host,
        port=options.smtp_port,
        backlog=1024,
    )
    server = build_server(
        MailApplication(store=store, switches=switches), host=options.host, port=options.http_port
    )
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        await server.serve()
    finally:
        smtp.close()
        await store.close()


if __name__ == "__main__":
    sys.exit(main())
