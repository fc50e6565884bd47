"""`python -m paypost.simulators.cis`: run the reference CIS until it is told to stop."""

import argparse
import asyncio
import gc
import logging
import os
import random
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import uvloop

from paypost.simulators.asgi import build_server
from paypost.simulators.cis import store
from paypost.simulators.cis.app import CisApplication
from paypost.simulators.cis.journal import Journal, JournalAheadError
from paypost.simulators.cis.switches import Switches
from paypost.simulators.cis.writer import DATABASE_ERRORS, LedgerWriter


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the CIS; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m paypost.simulators.cis", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--database-url",
        default=os.environ.get("CIS_DATABASE_URL"),
        help="postgresql://…; from CIS_DATABASE_URL when absent, which keeps it out of `ps`",
    )
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument(
        "--api-key",
        default=os.environ.get("CIS_API_KEY"),
        help="what callers must present; from CIS_API_KEY when absent",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the switches' shares and jitter")
    options = parser.parse_args(arguments)
    if not options.database_url or not options.api_key:
        parser.error("--database-url and --api-key are needed, as arguments or in the environment")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        uvloop.run(run(options))
    except (JournalAheadError, *DATABASE_ERRORS) as error:
        print(f"the CIS cannot run: {error}", file=sys.stderr)
        return 1
    return 0


async def run(options: argparse.Namespace) -> None:
    """Open journal and ledger, serve until SIGTERM or SIGINT, close them again."""
    journal = Journal(path=options.journal)
    journal.open()
    writer = LedgerWriter(
        database_url=options.database_url, journal=journal, clock=lambda: datetime.now(UTC)
    )
    await writer.connect()
    reader = await asyncpg.create_pool(
        options.database_url,
        min_size=0,
        max_size=2,
        timeout=5,
        command_timeout=60,
        server_settings={
            "application_name": "reference-cis-reader",
            "search_path": store.SCHEMA,
        },
    )
    switches = Switches(chance=random.Random(options.seed), monotonic=time.monotonic)  # noqa: S311 — faults, not secrets
    application = CisApplication(
        writer=writer, reader=reader, switches=switches, api_key=options.api_key
    )
    server = build_server(application, host=options.host, port=options.port)
    writing = asyncio.create_task(writer.run())
    # A writer that has failed for good must end the process, or it would accept and never answer.
    writing.add_done_callback(lambda _: setattr(server, "should_exit", True))
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        await server.serve()
    finally:
        writing.cancel()
        results = await asyncio.gather(writing, return_exceptions=True)
        await writer.close()
        await journal.close()
        await reader.close()
    if isinstance(results[0], Exception):
        raise results[0]


if __name__ == "__main__":
    sys.exit(main())
