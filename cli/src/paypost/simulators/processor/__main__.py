"""`python -m paypost.simulators.processor`: run the processor counterpart until told to stop."""

import argparse
import asyncio
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from paypost.simulators.asgi import build_server
from paypost.simulators.processor.connections import Connections
from paypost.simulators.processor.delivery import DeliveryJournal, WebhookSender
from paypost.simulators.processor.events import API_VERSION_NEW, API_VERSION_OLD
from paypost.simulators.processor.http import ProcessorApplication
from paypost.simulators.processor.processor import MovableClock, Processor, real_time

AGENDA_SECONDS = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the processor; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m paypost.simulators.processor", description=__doc__
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--target", required=True, help="the webhook endpoint's URL")
    parser.add_argument(
        "--secret",
        action="append",
        help="the endpoint's signing secret; several while it is rotated;"
        " from STRIPE_WEBHOOK_SECRET when absent",
    )
    parser.add_argument(
        "--api-version",
        default=API_VERSION_OLD,
        help=f"the shape of the events: {API_VERSION_OLD}, {API_VERSION_NEW}, …",
    )
    parser.add_argument("--journal", type=Path, help="where every attempt is recorded")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--timeout-seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, help="of ids, amounts and disorder; random when absent")
    options = parser.parse_args(arguments)
    options.secret = options.secret or [os.environ.get("STRIPE_WEBHOOK_SECRET", "")]
    if not all(options.secret):
        parser.error("--secret is needed, as an argument or in the environment")
    uvloop.run(run(options))
    return 0


async def run(options: argparse.Namespace) -> None:
    """Serve the control API until SIGTERM or SIGINT."""
    chance = random.Random(options.seed)  # noqa: S311 — ids of make-believe payments
    journal = DeliveryJournal(path=options.journal) if options.journal else None
    connections = Connections(
        url=options.target,
        connections_max=options.concurrency * 2,
        timeout_seconds=options.timeout_seconds,
    )
    clock = MovableClock(real=real_time)
    processor = Processor(
        sender=WebhookSender(
            connections=connections,
            secrets=options.secret,
            clock=real_time,
            chance=chance,
            journal=journal,
        ),
        clock=clock,
        chance=chance,
        api_version=options.api_version,
        concurrency=options.concurrency,
    )
    server = build_server(
        ProcessorApplication(processor=processor), host=options.host, port=options.port
    )

    async def follow_agenda() -> None:
        while True:
            await asyncio.sleep(AGENDA_SECONDS)
            await processor.deliver_due(now=clock())

    following = asyncio.create_task(follow_agenda())
    try:
        await server.serve()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        connections.close()
        if journal is not None:
            await journal.close()


if __name__ == "__main__":
    sys.exit(main())
